package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

// A Removal is blobs that are about to go. Until End nobody can pin one of
// them: who tries waits. So what names them elsewhere can go first.
type Removal struct {
	Blobs []digest.Digest // those that nobody has pinned

	store   *Store
	over    chan struct{}
	removed []string // files in tmp
}

// Condemn begins the removal of those blobs that nobody has pinned. What is
// being removed already is not among them.
func (s *Store) Condemn(blobs ...digest.Digest) *Removal {
	r := &Removal{store: s, over: make(chan struct{})}
	s.pinning.mu.Lock()
	defer s.pinning.mu.Unlock()
	if s.pinning.condemned == nil {
		s.pinning.condemned = make(map[digest.Digest]chan struct{})
	}
	for _, d := range blobs {
		if _, pinned := s.pinning.pinned(d); pinned || s.pinning.condemned[d] != nil {
			continue
		}
		s.pinning.condemned[d] = r.over
		r.Blobs = append(r.Blobs, d)
	}
	return r
}

// Remove takes one of the blobs away, with its directory. The file is put
// aside, and its space comes back with End. It is no error if there is none:
// what an earlier removal has left of it goes. Who has it open reads on.
func (r *Removal) Remove(d digest.Digest) error {
	if err := r.remove(d); err != nil {
		return failure("remove blob", d.String(), err)
	}
	return nil
}

func (r *Removal) remove(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	// It is on its way, and no other can begin: who commits one has it pinned.
	if r.store.pending.has(d) {
		if err := r.store.Settle(); err != nil {
			return err
		}
	}
	aside := newTempName()
	err := r.store.dir.Rename(blobPath(d), aside, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err = r.store.makeTempDir(); err == nil {
			err = r.store.dir.Rename(blobPath(d), aside, 0)
		}
	}
	switch {
	case err == nil:
		r.removed = append(r.removed, aside)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// The directories above it stay. There are few, an overlay wants to find
	// them, and nobody who makes another blob's has to make them again.
	err = r.store.dir.Rmdir(path.Dir(blobPath(d)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // somebody has put something else there
	}
	return err
}

// End lets the blobs be pinned again, and gives back the space of those that
// were removed. Killed before, the next process does the latter.
func (r *Removal) End() error {
	r.store.pinning.mu.Lock()
	for _, d := range r.Blobs {
		delete(r.store.pinning.condemned, d)
	}
	r.store.pinning.mu.Unlock()
	close(r.over)
	var errs []error
	for _, name := range r.removed {
		if err := r.store.dir.Unlink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, failure("remove", name, err))
		}
	}
	r.removed = nil
	return errors.Join(errs...)
}

// Remove removes one blob of which nothing else is to be done. If it is pinned
// it stays: [ErrPinned].
func (s *Store) Remove(d digest.Digest) error {
	r := s.Condemn(d)
	if len(r.Blobs) == 0 {
		why, _ := s.Pinned(d)
		return errors.Join(failure("remove blob", d.String(), fmt.Errorf("%w: %s", ErrPinned, why)), r.End())
	}
	return errors.Join(r.Remove(d), r.End())
}

// A Place is a blob's directory.
type Place struct {
	Digest digest.Digest
	Empty  bool // the blob is not there
	Size   int64
	// Changed is when the file, or the empty directory, was last changed in any
	// way, as when it became a blob. Nobody sets this time.
	Changed time.Time
}

// Places walks the store like All, and finds the directories, too, of which a
// blob has gone. What is pending has no place yet: see [Store.Settle].
func (s *Store) Places() iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		for d, err := range s.dirs("") {
			place := Place{Digest: d}
			if err == nil {
				place, err = s.placeOf(d)
			}
			if errors.Is(err, beneath.ErrNotRegular) {
				continue
			}
			if !yield(place, err) {
				return
			}
		}
	}
}

func (s *Store) placeOf(d digest.Digest) (Place, error) {
	stat, err := s.dir.Lstat(blobPath(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		stat, err := s.dir.Lstat(path.Dir(blobPath(d)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Place{}, failure("stat blob", d.String(), err)
		}
		return Place{Digest: d, Empty: true, Changed: time.Unix(stat.Ctim.Unix())}, nil
	case err != nil:
		return Place{}, failure("stat blob", d.String(), err)
	case !beneath.IsRegular(stat):
		return Place{}, beneath.ErrNotRegular
	}
	return Place{Digest: d, Size: stat.Size, Changed: time.Unix(stat.Ctim.Unix())}, nil
}
