package index

import (
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// maxShelf bounds the references of the facts on the shelf: some 5 MB, which
// are those of 1,400 images. Decoding them is two thirds of opening a release,
// and a command opens several that have the same manifests.
const maxShelf = 20_000

// A shelf keeps decoded facts of manifests, which never change, at hand. When it
// is full it is emptied.
type shelf struct {
	mu   sync.Mutex // guards what follows
	all  map[digest.Digest]*manifest.Manifest
	refs int
}

func (s *shelf) take(d digest.Digest) (*manifest.Manifest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.all[d]
	return m, ok
}

func (s *shelf) put(d digest.Digest, m *manifest.Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs += 1 + len(m.Refs); s.all == nil || s.refs > maxShelf {
		s.all, s.refs = make(map[digest.Digest]*manifest.Manifest), 1+len(m.Refs)
	}
	if s.refs <= maxShelf {
		s.all[d] = m
	}
}

// remove forgets facts that are no longer in the index.
func (s *shelf) remove(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, d)
}
