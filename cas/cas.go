// Package cas stores immutable blobs under their digest, each in a file of its
// own, where a stock registry would have it.
//
// A blob exists from the moment [Writer.Commit] returns. Nothing in between is
// visible: a reader sees a whole blob or none, also after a crash. It survives
// a power loss once a [Store.Flush] that was called after its Commit has
// returned; nobody else has to wait for the disk. Until then it is pending,
// which only the process that has committed it can see: [Store.Settle] is for
// the others.
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
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

const tempDir = "tmp"

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
	pending pending
	rooted  bool // the way to pendingDir is durable; for the flush that runs
	syncs   atomic.Uint64
	proofs  proofs
	pinning pinning
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
	s := &Store{dir: self, pending: newPending()}
	s.disk = disk{
		syncFile: func(f *os.File) error { s.syncs.Add(1); return f.Sync() },
		syncDir:  func(name string) error { s.syncs.Add(1); return s.syncDir(name) },
	}
	return s, nil
}

// Close settles and closes the store. What cannot be moved to its place, the
// next process moves: it is durable.
func (s *Store) Close() error {
	lost, _ := s.settle()
	s.pending.close()
	return errors.Join(lost, s.dir.Close())
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

func (s *Store) stat(d digest.Digest) (info Info, err error) {
	if err := d.Validate(); err != nil {
		return Info{}, err
	}
	err = s.find(d, func(name string) error {
		info, err = s.statAt(name, d)
		return err
	})
	return info, err
}

func (s *Store) statAt(name string, d digest.Digest) (Info, error) {
	stat, err := s.dir.Lstat(name)
	if err != nil {
		return Info{}, err
	}
	if !beneath.IsRegular(stat) {
		return Info{}, beneath.ErrNotRegular
	}
	return Info{Digest: d, Size: stat.Size, ModTime: time.Unix(stat.Mtim.Unix())}, nil
}

// find looks where a blob may be. What is not pending was at its place already
// if it was anywhere; what is may get there while we look.
func (s *Store) find(d digest.Digest, look func(name string) error) error {
	if s.pending.has(d) {
		if err := look(pendingPath(d)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return look(blobPath(d))
}

// Open opens a blob for reading. Errors are as for Stat.
func (s *Store) Open(d digest.Digest) (file *os.File, err error) {
	if err := d.Validate(); err != nil {
		return nil, failure("open blob", d.String(), err)
	}
	err = s.find(d, func(name string) error {
		file, err = s.dir.OpenRegular(name)
		return err
	})
	if err != nil {
		return nil, failure("open blob", d.String(), err)
	}
	return file, nil
}

// failure puts operation and object before an error's cause. An os error's own
// operation and path would only say again what object says.
func failure(op, object string, err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		err = inner.Err
	}
	return &fs.PathError{Op: op, Path: object, Err: err}
}
