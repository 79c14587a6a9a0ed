package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/snapshot"
)

// A restoring brings names back into a release.
type restoring struct {
	blobs   *cas.Store
	index   *index.DB
	release *index.Release
	// fresh says that the release is new: what it has not, nobody has removed or
	// written again since.
	fresh bool

	mu      sync.Mutex // guards what follows
	missing []string   // images of which the manifest is not there, or damaged
	failed  error
}

// whole brings back the names, and that the release is sealed. What it was sealed
// with was said, and goes on to be true or not: a check compares.
func (r *restoring) whole(ctx context.Context, s *snapshot.Snapshot) error {
	if err := r.release.Mend(func() error { return r.names(ctx, s) }); err != nil || s.Sealed == "" {
		return err
	}
	_, err := r.release.Seal(func() (digest.Digest, error) { return s.Sealed, nil })
	return err
}

// names links what a snapshot has and the release has not. What the release has
// is newer, and stays.
func (r *restoring) names(ctx context.Context, s *snapshot.Snapshot) error {
	r.each(ctx, len(s.Names), func(i int) error { return r.link(s.Names, i) })
	r.each(ctx, len(s.Names), func(i int) error { return r.tag(s.Names[i]) })
	for _, h := range s.History {
		if _, ok := r.release.HistoryLink(h.Repository, h.Tag, h.Digest); !ok {
			r.fail(r.release.AddHistory(h.Repository, h.Tag, h.Digest))
		}
	}
	for _, p := range s.Hidden {
		if r.fresh {
			r.fail(r.release.HideLayer(p.Repository, p.Digest))
		}
	}
	r.fail(r.release.Sync())
	return r.failed
}

// each calls f with many numbers at once: each of them waits for the disk, and
// those who wait at the same time share it.
func (r *restoring) each(ctx context.Context, n int, f func(i int) error) {
	numbers := make(chan int)
	var group sync.WaitGroup
	for range min(n, 64) {
		group.Go(func() {
			for i := range numbers {
				r.fail(f(i))
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			r.fail(ctx.Err())
			break
		}
		numbers <- i
	}
	close(numbers)
	group.Wait()
}

func (r *restoring) fail(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
}

// link links a manifest, once for all of its tags.
func (r *restoring) link(all []seal.Name, i int) error {
	n := all[i]
	for _, before := range slices.Backward(all[:i]) {
		if before.Repository != n.Repository {
			break
		}
		if before.Digest == n.Digest {
			return nil
		}
	}
	if _, ok := r.release.Revision(n.Repository, n.Digest); ok {
		return nil
	}
	l := learning{blobs: r.blobs, index: r.index, absent: n.Absent, facts: make(index.Facts)}
	err := l.learn(n.Digest, 0)
	if err != nil {
		r.mu.Lock()
		r.missing = append(r.missing, fmt.Sprintf("%s: manifest %s: %v", n, n.Digest, reason(err)))
		r.mu.Unlock()
	}
	return r.release.LinkManifest(n.Repository, n.Digest, l.facts, n.Absent...)
}

func (r *restoring) tag(n seal.Name) error {
	if n.Tag == "" {
		return nil
	}
	if _, ok := r.release.TagLink(n.Repository, n.Tag); ok {
		return nil
	}
	return r.release.Tag(n.Repository, n.Tag, n.Digest)
}

// A learning reads a manifest and those below it, but for what the release does
// without.
type learning struct {
	blobs  *cas.Store
	index  *index.DB
	absent []digest.Digest // sorted
	facts  index.Facts
}

// learn: a manifest that is not there has no facts yet, and they come with it;
// below the top, one that is none is an ordinary blob, since an index may list
// anything.
func (l *learning) learn(d digest.Digest, depth int) error {
	if l.facts[d] != nil || depth >= index.MaxDepth {
		return nil
	}
	m, err := l.index.Manifest(d)
	if err != nil {
		m, err = readManifest(l.blobs, d)
	}
	var none *noManifest
	switch {
	case errors.As(err, &none) && depth > 0:
		m = new(manifest.Manifest)
	case err != nil && depth > 0:
		return nil
	case err != nil:
		return err
	}
	l.facts[d] = m
	for _, ref := range m.Refs {
		if ref.Role != manifest.Child {
			continue
		}
		if _, absent := slices.BinarySearch(l.absent, ref.Digest); absent && ref.Optional {
			continue
		}
		if err := l.learn(ref.Digest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A noManifest is a whole blob that is no manifest.
type noManifest struct{ err error }

func (e *noManifest) Error() string { return "no manifest: " + e.err.Error() }

// readManifest reads a manifest's blob, and believes it only if it is what its
// digest says.
func readManifest(blobs *cas.Store, d digest.Digest) (*manifest.Manifest, error) {
	f, err := blobs.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > manifest.MaxSize {
		return nil, &noManifest{fmt.Errorf("more than %d bytes", manifest.MaxSize)}
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, &cas.CorruptError{Want: d, Got: got}
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, &noManifest{err}
	}
	return m, nil
}

// hasNo says whether an error is that something is not there.
func hasNo(err error) bool { return errors.Is(err, fs.ErrNotExist) }
