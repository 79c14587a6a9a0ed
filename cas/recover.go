package cas

import (
	"errors"
	"io/fs"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

// DiscardTemp ends what a process that was killed has left half done: it gives
// back what was adopted, moves on what was pending, and removes the rest. Only
// the store's one writer may call it, and only before it writes.
func (s *Store) DiscardTemp() error {
	names, err := s.tempNames()
	if err != nil {
		return failure("discard", tempDir, err)
	}
	if err := s.giveBackAll(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := s.dir.RemoveAll(path.Join(tempDir, name)); err != nil {
			return failure("discard", name, err)
		}
	}
	return s.recoverPending()
}

func (s *Store) tempNames() ([]string, error) {
	entries, err := s.dir.ReadDir(tempDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name := path.Join(tempDir, e.Name()); name != pendingDir || !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// recoverPending takes over what another process had pending. If the power
// failed before a flush it may be anything, so each blob is proven. One that
// the disk cannot read is left to the next process.
func (s *Store) recoverPending() error {
	entries, err := s.dir.ReadDir(pendingDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failure("recover", pendingDir, err)
	}
	for _, e := range entries {
		if s.recover(digest.Digest(e.Name())) {
			continue
		}
		if err := s.dir.RemoveAll(path.Join(pendingDir, e.Name())); err != nil {
			return failure("discard", e.Name(), err)
		}
	}
	lost, _ := s.settle()
	return lost
}

// recover says whether a file is to stay.
func (s *Store) recover(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	file, err := s.dir.OpenRegular(pendingPath(d))
	if err != nil {
		return !errors.Is(err, beneath.ErrNotRegular)
	}
	size, err := verify(file, d)
	if err == nil {
		err = file.Chmod(blobMode)
	}
	if err != nil {
		file.Close()
		var corrupt *CorruptError
		return !errors.As(err, &corrupt)
	}
	b := &pendingBlob{digest: d, size: size, here: make(chan struct{})}
	s.pending.reserve(b)
	s.arrive(b, file, nil)
	return true
}
