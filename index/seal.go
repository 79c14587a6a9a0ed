package index

import (
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// Sealed returns the digest of the release's document, if it is sealed: then it
// does not change any more. Every method that would change it is EROFS.
func (r *Release) Sealed() digest.Digest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sealed
}

// Frozen says why no change is taken, if none is.
func (r *Release) Frozen() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.frozen()
}

// frozen is Frozen. mu is held.
func (r *Release) frozen() error {
	switch {
	case r.sealed != "" && !r.mending:
		return &releaseError{fmt.Sprintf("release %s is sealed, and does not change any more; \"regfs release fork %s NEW\" makes one that does",
			r.Name, r.Name), syscall.EROFS}
	case r.sealing:
		return &releaseError{fmt.Sprintf("release %s is being sealed", r.Name), syscall.EBUSY}
	}
	return nil
}

// Seal makes the release one that does not change any more, and returns the
// digest of its document. The document is made by the caller's function, which
// returns when it is durable; while it runs, no change is taken, and all that
// were made are on the disk. One that is sealed already stays as it is.
func (r *Release) Seal(document func() (digest.Digest, error)) (digest.Digest, error) {
	if d, err := r.freeze(); d != "" || err != nil {
		return d, err
	}
	d, err := r.seal(document)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealing = false
	if err == nil {
		r.sealed = d
		r.db.nextGeneration(r.Name)
	}
	return d, err
}

func (r *Release) freeze() (digest.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sealed != "" {
		return r.sealed, nil
	}
	if r.broken != nil {
		return "", r.broken
	}
	if err := r.frozen(); err != nil {
		return "", err
	}
	r.sealing = true
	return "", nil
}

func (r *Release) seal(document func() (digest.Digest, error)) (digest.Digest, error) {
	if err := r.Sync(); err != nil {
		return "", err
	}
	d, err := document()
	if err == nil {
		err = d.Validate()
	}
	if err != nil {
		return "", err
	}
	value, err := json.Marshal(releaseRecord{Created: r.Created, Sealed: d})
	if err != nil {
		return "", err
	}
	return d, r.db.writer.wait(r.db.writer.enqueue(records{put(releaseKey(r.Name), value)}))
}

// Learn enters facts of manifests that the release has linked already. They say
// nothing that the manifests do not, so a sealed release takes them, too.
func (r *Release) Learn(facts Facts) error {
	encoded, err := facts.encode()
	if err != nil {
		return err
	}
	r.mu.Lock()
	b, err := r.take(r.db.writer.enqueue, func(time.Time) records {
		return append(r.db.remember(facts, encoded), r.learn(facts)...)
	})
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.db.writer.wait(b)
}

// Mend lets a release be changed while f runs, though it is sealed. It is for
// who brings back what the index has lost of it.
func (r *Release) Mend(f func() error) error {
	r.setMending(true)
	defer r.setMending(false)
	return f()
}

func (r *Release) setMending(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mending = is
}
