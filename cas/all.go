package cas

import (
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
	"github.com/regfs/regfs/layout"
)

// All walks the store, in the order of the digests. A blob that is committed
// meanwhile may be missing. What is among the files and is no blob is passed
// over; an error stands for what could not be read, and the walk goes on.
func (s *Store) All() iter.Seq2[Info, error] { return s.After("") }

// After is All from the first blob after d on; from the beginning if d is
// empty.
func (s *Store) After(d digest.Digest) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		w := walk{store: s, pending: s.pending.digests(), yield: yield}
		slices.Sort(w.pending)
		w.pending = slices.DeleteFunc(w.pending, func(p digest.Digest) bool { return p <= d })
		if d != "" {
			w.from = path.Dir(blobPath(d))
		}
		if w.places() {
			w.rest()
		}
	}
}

// A walk visits blobs at their places, and among them those that are pending.
type walk struct {
	store   *Store
	from    string          // directory of the blob it begins after
	pending []digest.Digest // to be visited yet; one may come to its place meanwhile
	yield   func(Info, error) bool
	stopped bool
}

// places visits all that are at their places, unless it is stopped.
func (w *walk) places() bool {
	fs.WalkDir(w.store.dir, blobsDir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return w.goOn(w.yield(Info{}, failure("list blobs", name, err)))
		case !entry.IsDir():
			return nil
		case name < w.from && !strings.HasPrefix(w.from, name+"/"):
			return fs.SkipDir
		}
		at := layout.Parse(name)
		switch {
		case at.Kind == layout.BlobDir && name != w.from:
			if err := w.goOn(w.place(at.Digest)); err != nil {
				return err
			}
		case at.Kind.IsDir() && at.Kind != layout.BlobDir:
			return nil
		}
		return fs.SkipDir
	})
	return !w.stopped
}

func (w *walk) goOn(wanted bool) error {
	if !wanted {
		w.stopped = true
		return fs.SkipAll
	}
	return nil
}

// place visits the blob of a place, after those pending that come before it.
func (w *walk) place(d digest.Digest) bool {
	for len(w.pending) > 0 && w.pending[0] <= d {
		before := w.pending[0]
		w.pending = w.pending[1:]
		if before != d && !w.visit(before) {
			return false
		}
	}
	return w.visit(d)
}

func (w *walk) rest() {
	for _, d := range w.pending {
		if !w.visit(d) {
			return
		}
	}
}

// visit yields a blob, if it is one.
func (w *walk) visit(d digest.Digest) bool {
	info, err := w.store.Stat(d)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, beneath.ErrNotRegular) {
		return true
	}
	return w.yield(info, err)
}
