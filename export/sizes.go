package export

import (
	"errors"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// sizes asks the store for each blob once: a base layer is needed by hundreds
// of manifests.
type sizes struct {
	blobs *cas.Store
	pins  *cas.Pins // if not nil, what is found is pinned
	known map[digest.Digest]int64
	read  map[digest.Digest]bool // whether those are whole that were read
}

// absent stands for the size of a blob that is not there.
const absent = -1

func newSizes(blobs *cas.Store) sizes {
	return sizes{blobs: blobs, known: make(map[digest.Digest]int64), read: make(map[digest.Digest]bool)}
}

// of returns a blob's size, and whether it is there.
func (s sizes) of(d digest.Digest) (size int64, there bool, err error) {
	size, ok := s.known[d]
	if !ok {
		if size, err = s.look(d); err != nil {
			return 0, false, err
		}
		s.known[d] = size
	}
	return size, size != absent, nil
}

func (s sizes) look(d digest.Digest) (int64, error) {
	info, err := s.stat(d)
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	return info.Size, err
}

func (s sizes) stat(d digest.Digest) (cas.Info, error) {
	if s.pins != nil {
		return s.pins.Stat(d)
	}
	return s.blobs.Stat(d)
}

// whole reads a blob and says whether it is what its digest says.
func (s sizes) whole(d digest.Digest) (bool, error) {
	if whole, ok := s.read[d]; ok {
		return whole, nil
	}
	f, err := s.blobs.Open(d)
	if err != nil {
		return false, err
	}
	defer f.Close()
	got, err := d.Algorithm().FromReader(f)
	if err == nil {
		s.read[d] = got == d
	}
	return got == d, err
}
