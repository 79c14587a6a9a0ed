package index

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Mark says what the releases need, and what else names a blob, as the index
// was at one moment. Digests and repositories have 32-bit numbers in it: an
// index of 100 releases has half a million references.
type Mark struct {
	releases []markedRelease // the oldest first
	digests  numbers
	repos    numbers
	blobs    []marked // by a digest's number

	// Of a blob that no release needs:
	claims map[int32][]claim // what names it all the same
	pairs  map[int32][]Pair  // where some release has had it
}

type markedRelease struct {
	Info
	needs []int32
}

// marked is what a mark says of one blob.
type marked struct {
	refs     []markedRef // of a manifest
	known    bool        // it has facts
	manifest bool        // it is needed as a manifest
	root     int32       // the linked manifest from which it was followed last
	last     int32       // 1 + the release that needs it, met last; 0 if none does
	many     bool        // several releases need it
}

type markedRef struct {
	digest   int32
	child    bool
	optional bool
}

// A claim is a record by which a release names a blob without need: it was
// uploaded, or a layer's link was written.
type claim struct {
	at      int64 // nanoseconds since 1970
	digest  int32
	repo    int32 // noRepo for the blob itself
	release int32
	void    bool // the release has removed the blob
}

const noRepo = -1

// Mark finds out what the releases need, leaving out some as if they were not
// there. It reads the index as it is on the disk, after all changes made so far
// have got there, once, and nothing else. That the index is whole is for
// [DB.Verify] to say.
func (db *DB) Mark(ctx context.Context, leaveOut func(release string) bool) (*Mark, error) {
	if err := db.writer.settle(); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	r := newMarking(ctx, leaveOut)
	if err := db.view(r.read); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	return r.mark, nil
}

// find returns -1 for a blob that is not named anywhere.
func (m *Mark) find(d digest.Digest) (int32, marked) {
	n, ok := m.digests.of[string(d)]
	switch {
	case !ok:
		return -1, marked{}
	case int(n) >= len(m.blobs):
		return n, marked{}
	}
	return n, m.blobs[n]
}

func (m *Mark) at(n int32) *marked {
	for int(n) >= len(m.blobs) {
		m.blobs = append(m.blobs, marked{})
	}
	return &m.blobs[n]
}

// Needed says whether a release needs a blob, and which one does if it is the
// only one.
func (m *Mark) Needed(d digest.Digest) (only string, needed bool) {
	_, b := m.find(d)
	if b.last == 0 || b.many {
		return "", b.last != 0
	}
	return m.releases[b.last-1].Name, true
}

// Uploaded says when a blob that no release needs was last uploaded, or linked
// as a layer, and by which release.
func (m *Mark) Uploaded(d digest.Digest) (at time.Time, release string, uploaded bool) {
	n, _ := m.find(d)
	for _, c := range m.claims[n] {
		if t := time.Unix(0, c.at); !c.void && (!uploaded || t.After(at)) {
			at, release, uploaded = t, m.releases[c.release].Name, true
		}
	}
	return at, release, uploaded
}

// Pairs are the repositories where some release has had a blob that none needs.
func (m *Mark) Pairs(d digest.Digest) []Pair {
	n, _ := m.find(d)
	return m.pairs[n]
}

// Releases are those that count, the oldest first, with what each needs.
func (m *Mark) Releases() []Needs {
	all := make([]Needs, len(m.releases))
	for i, r := range m.releases {
		all[i] = Needs{Release: r.Name, Blobs: make([]digest.Digest, len(r.needs))}
		for j, n := range r.needs {
			all[i].Blobs[j] = digest.Digest(m.digests.all[n])
		}
	}
	return all
}

// Needs are what a release needs.
type Needs struct {
	Release string
	Blobs   []digest.Digest
}

// Unknown are the manifests that a release needs and of which nothing is known:
// they were not there when they were linked. If one is there now, the index has
// lost what it knew.
func (m *Mark) Unknown() []digest.Digest {
	var all []digest.Digest
	for n, b := range m.blobs {
		if b.last != 0 && b.manifest && !b.known {
			all = append(all, digest.Digest(m.digests.all[n]))
		}
	}
	return all
}

// numbers gives strings numbers.
type numbers struct {
	all []string
	of  map[string]int32
}

func newNumbers() numbers { return numbers{of: make(map[string]int32)} }

func (n *numbers) number(s []byte) int32 {
	i, ok := n.of[string(s)]
	if !ok {
		i = int32(len(n.all))
		n.all = append(n.all, string(s))
		n.of[n.all[i]] = i
	}
	return i
}
