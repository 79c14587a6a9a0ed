package index

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// A blob is what one release says of one blob.
type blob struct {
	mark  mark
	time  time.Time
	needs int // revisions of the release that need it
	// stated is the size that its manifests state; conflict if they do not
	// agree, 0 if none states one.
	stated int64
}

const conflict = -1

// listed: a needed blob shows even when it was removed, so that what a listing
// shows is whole at every moment.
func (b *blob) listed() bool { return b.needs > 0 || b.mark == own }

// A blobSet is the blobs of a release, by digest and by the directory they
// stand in.
type blobSet struct {
	all map[digest.Digest]*blob
	// byPrefix: "sha256" → "ab" → digests. Listing 256 directories of a large
	// release must not walk it 256 times.
	byPrefix map[digest.Algorithm]map[string]map[digest.Digest]*blob
}

func newBlobSet() blobSet {
	return blobSet{
		all:      make(map[digest.Digest]*blob),
		byPrefix: make(map[digest.Algorithm]map[string]map[digest.Digest]*blob),
	}
}

func (s blobSet) mark(d digest.Digest, m mark, t time.Time) {
	b := s.blob(d)
	b.mark, b.time = m, t
	s.tidy(d, b)
}

func (s blobSet) need(d digest.Digest, n int) {
	b := s.blob(d)
	b.needs += n
	s.tidy(d, b)
}

// state enters the size that a manifest states for a blob which it needs.
func (s blobSet) state(d digest.Digest, size int64) {
	b := s.blob(d)
	switch {
	case size <= 0 || b.stated == size:
	case b.stated == 0:
		b.stated = size
	default:
		b.stated = conflict
	}
}

func (s blobSet) blob(d digest.Digest) *blob {
	b, ok := s.all[d]
	if !ok {
		b = new(blob)
		s.all[d] = b
		s.prefix(d)[d] = b
	}
	return b
}

// tidy forgets a blob of which there is nothing to say.
func (s blobSet) tidy(d digest.Digest, b *blob) {
	if b.mark == unmarked && b.needs == 0 {
		delete(s.all, d)
		delete(s.prefix(d), d)
	}
}

func (s blobSet) prefix(d digest.Digest) map[digest.Digest]*blob {
	prefixes, ok := s.byPrefix[d.Algorithm()]
	if !ok {
		prefixes = make(map[string]map[digest.Digest]*blob)
		s.byPrefix[d.Algorithm()] = prefixes
	}
	p := d.Encoded()[:2]
	if prefixes[p] == nil {
		prefixes[p] = make(map[digest.Digest]*blob)
	}
	return prefixes[p]
}
