package cas

import (
	"errors"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

// All walks the store. A blob that is committed meanwhile may be missing. The
// order is not specified. What is among the files and is no blob is passed
// over; an error stands for what could not be read, and the walk goes on.
func (s *Store) All() iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fs.WalkDir(s.dir, blobsDir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return goOn(yield(Info{}, failure("list blobs", name, err)))
			case !entry.IsDir():
				return nil
			}
			d, where := parseDir(name)
			if where == above {
				return nil
			}
			if where == atBlob && !s.visit(d, yield) {
				return fs.SkipAll
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

// place is where a directory stands in the tree of blobs.
type place int

const (
	above place = iota // blobs may lie deeper
	atBlob
	astray
)

// parseDir says which blob a directory in blobsDir belongs to.
func parseDir(name string) (digest.Digest, place) {
	components := strings.Split(strings.TrimPrefix(name, blobsDir), "/")[1:]
	if len(components) < 3 {
		return "", above
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(components[0]), components[2])
	if d.Validate() != nil || path.Dir(blobPath(d)) != name {
		return "", astray
	}
	return d, atBlob
}
