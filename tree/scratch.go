package tree

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/regfs/regfs/cas"
)

// inMemory is how much of a scratch is kept in memory. A link has 135 bytes at
// most, and a push writes seven of them for each image.
const inMemory = 4 << 10

// A scratch is content that may become a blob or a link. What is no longer than
// a link is kept in memory; the rest has a file, which the store can take over.
type scratch struct {
	blobs *cas.Store

	mu       sync.Mutex // guards what follows
	memory   []byte     // all of it, unless there is a file
	file     *cas.Writer
	modified time.Time
	closed   bool
}

func newScratch(blobs *cas.Store) *scratch { return &scratch{blobs: blobs, modified: time.Now()} }

// adopted makes a scratch of a file that the store has taken.
func adopted(w *cas.Writer) *scratch { return &scratch{file: w} }

func (s *scratch) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		return s.file.File().ReadAt(p, off)
	}
	return bytes.NewReader(s.memory).ReadAt(p, off)
}

func (s *scratch) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fs.ErrClosed
	}
	end := off + int64(len(p))
	if end > inMemory {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	if s.file != nil {
		return s.file.File().WriteAt(p, off)
	}
	s.resize(max(end, int64(len(s.memory))))
	s.modified = time.Now()
	return copy(s.memory[off:], p), nil
}

func (s *scratch) Truncate(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	if size > inMemory {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if s.file != nil {
		return s.file.File().Truncate(size)
	}
	s.resize(size)
	s.modified = time.Now()
	return nil
}

// resize sets the length of what is in memory. mu is held.
func (s *scratch) resize(size int64) {
	if old := int64(len(s.memory)); size > old {
		s.memory = append(s.memory, make([]byte, size-old)...)
	}
	s.memory = s.memory[:size]
}

// stat returns the size and when it was written to last.
func (s *scratch) stat() (int64, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return int64(len(s.memory)), s.modified, nil
	}
	info, err := s.file.File().Stat()
	if err != nil {
		return 0, time.Time{}, err
	}
	return info.Size(), info.ModTime(), nil
}

// writer gives the content a file, for the store to take.
func (s *scratch) writer() (*cas.Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.spill(); err != nil {
		return nil, err
	}
	return s.file, nil
}

// spill moves what is in memory into a file. mu is held.
func (s *scratch) spill() error {
	if s.file != nil {
		return nil
	}
	if s.closed {
		return fs.ErrClosed
	}
	w, err := s.blobs.NewWriter()
	if err != nil {
		return err
	}
	if _, err := w.File().Write(s.memory); err != nil {
		return errors.Join(err, w.Close())
	}
	s.file, s.memory = w, nil
	return nil
}

// beginning reads no more than so many bytes.
func (s *scratch) beginning(size int64) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(s, 0, size))
}

// Close throws the content away, unless the store has taken it.
func (s *scratch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
