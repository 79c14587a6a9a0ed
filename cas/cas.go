// Package cas stores immutable blobs under their digest, each in a file of its
// own, where a stock registry would have it.
//
// A blob exists from the moment [Writer.Commit] returns. Nothing in between is
// visible: a reader sees a whole blob or none, also after a crash. It survives
// a power loss once a [Store.Flush] that was called after its Commit has
// returned.
//
// Not promised: content is proven when it is stored, and when it is read only
// by [Store.OpenProven], so rot on the disk goes unnoticed; and what others copy into the store's
// directory while it is open is found, but not made durable.
//
// Any number of processes may read a store. One may write, and sees to it
// itself that it is the only one; it calls [Store.DiscardTemp] before anything
// else. The package knows no names: see package index.
package cas

import (
	_ "crypto/sha256" // the algorithms that [digest] only knows by name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

const (
	tempDir = "tmp"

	// unflushedMark is there from a store's first Commit until it is closed
	// with nothing left to flush. Finding it, the next process knows that the
	// one before was killed.
	unflushedMark = tempDir + "/unflushed"
)

// A CorruptError says that content is not what its digest claims.
type CorruptError struct {
	Want, Got digest.Digest
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("content has digest %s, not %s", e.Got, e.Want)
}

// A Store is an open store of blobs. Its methods may be called concurrently,
// except for Close and DiscardTemp.
type Store struct {
	dir     *beneath.Dir // the store's directory
	disk    disk
	flusher *flusher
	marked  atomic.Bool // this process has made unflushedMark
	syncs   atomic.Uint64
	proofs  proofs
}

// Syncs is how often the store has waited for the disk since it was opened.
func (s *Store) Syncs() uint64 { return s.syncs.Load() }

// Open opens the store in dir, which must exist. It writes nothing: the
// directories inside are made when first needed.
func Open(dir string) (*Store, error) {
	self, err := beneath.Open(dir)
	if err != nil {
		return nil, failure("open blob store", dir, err)
	}
	s := &Store{dir: self}
	s.disk = disk{
		syncFile: func(f *os.File) error { s.syncs.Add(1); return f.Sync() },
		syncDir:  func(name string) error { s.syncs.Add(1); return s.syncDir(name) },
		syncAll:  func() error { s.syncs.Add(1); return self.SyncAll() },
	}
	s.flusher = newFlusher(func(dir string) error { return s.disk.syncDir(dir) })
	return s, nil
}

// Close closes the store. It does not flush.
func (s *Store) Close() error {
	var err error
	if s.marked.Load() && s.flusher.idle() {
		err = s.dir.Unlink(unflushedMark)
	}
	return errors.Join(err, s.dir.Close())
}

// An Info describes a blob. ModTime is that of its file, usually the time at
// which the content was last written to before it became a blob.
type Info struct {
	Digest  digest.Digest
	Size    int64
	ModTime time.Time
}

// Stat looks a blob up. A blob that is not there is [fs.ErrNotExist]; what is
// there and cannot be a blob is another error, so that damage never looks like
// absence.
func (s *Store) Stat(d digest.Digest) (Info, error) {
	info, err := s.stat(d)
	if err != nil {
		return Info{}, failure("stat blob", d.String(), err)
	}
	return info, nil
}

func (s *Store) stat(d digest.Digest) (Info, error) {
	if err := d.Validate(); err != nil {
		return Info{}, err
	}
	stat, err := s.dir.Lstat(blobPath(d))
	if err != nil {
		return Info{}, err
	}
	if !beneath.IsRegular(stat) {
		return Info{}, beneath.ErrNotRegular
	}
	return Info{Digest: d, Size: stat.Size, ModTime: time.Unix(stat.Mtim.Unix())}, nil
}

// Open opens a blob for reading. Errors are as for Stat.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, failure("open blob", d.String(), err)
	}
	file, err := s.dir.OpenRegular(blobPath(d))
	if err != nil {
		return nil, failure("open blob", d.String(), err)
	}
	return file, nil
}

// DiscardTemp removes what a process that was killed has left half done, and
// returns what it had adopted. Only the store's one writer may call it, and
// only before it writes.
//
// If there is something to remove, blobs may be there whose directories were
// never flushed, and nobody remembers which. A lookup would reuse them, so
// they are made durable now, with everything else on the file system.
func (s *Store) DiscardTemp() error {
	names, err := s.tempNames()
	if err != nil {
		return failure("discard", tempDir, err)
	}
	if len(names) == 0 {
		return nil
	}
	// First sync, then remove: killed in between, the next one starts over.
	if err := s.disk.syncAll(); err != nil {
		return failure("sync", "file system", err)
	}
	if err := s.giveBackAll(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := s.dir.RemoveAll(path.Join(tempDir, name)); err != nil {
			return failure("discard", name, err)
		}
	}
	return nil
}

func (s *Store) tempNames() ([]string, error) {
	entries, err := s.dir.ReadDir(tempDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// mark leaves a sign that blobs may be there whose directories are not
// durable. It needs no sync: after a power loss, all that is found is durable.
func (s *Store) mark() error {
	if s.marked.Load() {
		return nil
	}
	file, err := s.createTemp(unflushedMark)
	if errors.Is(err, fs.ErrExist) {
		return nil // by another Commit, which is about to say so
	}
	if err != nil {
		return err
	}
	s.marked.Store(true)
	return file.Close()
}

// failure puts operation and object before an error's cause. An os error's own
// operation and path would only say again what object says.
func failure(op, object string, err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		err = inner.Err
	}
	return &fs.PathError{Op: op, Path: object, Err: err}
}
