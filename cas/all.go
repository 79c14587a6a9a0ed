package cas

import (
	"errors"
	"io/fs"
	"iter"
	"path"
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
		// One that is pending may come to its place meanwhile.
		pending := s.pending.after(d)
		for at, err := range s.dirs(d) {
			if err != nil {
				if !yield(Info{}, err) {
					return
				}
				continue
			}
			for len(pending) > 0 && pending[0] <= at {
				before := pending[0]
				pending = pending[1:]
				if before != at && !s.visit(before, yield) {
					return
				}
			}
			if !s.visit(at, yield) {
				return
			}
		}
		for _, d := range pending {
			if !s.visit(d, yield) {
				return
			}
		}
	}
}

// dirs walks the directories of blobs after d, and looks into none.
func (s *Store) dirs(d digest.Digest) iter.Seq2[digest.Digest, error] {
	from := ""
	if d != "" {
		from = path.Dir(blobPath(d))
	}
	return func(yield func(digest.Digest, error) bool) {
		fs.WalkDir(s.dir, blobsDir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return goOn(yield("", failure("list blobs", name, err)))
			case !entry.IsDir():
				return nil
			case name < from && !strings.HasPrefix(from, name+"/"):
				return fs.SkipDir
			}
			at := layout.Parse(name)
			switch {
			case at.Kind == layout.BlobDir && name != from && !yield(at.Digest, nil):
				return fs.SkipAll
			case at.Kind != layout.BlobDir && at.Kind.IsDir():
				return nil
			}
			return fs.SkipDir
		})
	}
}

func goOn(wanted bool) error {
	if !wanted {
		return fs.SkipAll
	}
	return nil
}

// visit yields a blob, if it is one.
func (s *Store) visit(d digest.Digest, yield func(Info, error) bool) bool {
	info, err := s.Stat(d)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, beneath.ErrNotRegular) {
		return true
	}
	return yield(info, err)
}
