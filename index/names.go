package index

import (
	"cmp"
	"slices"
	"sync/atomic"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// Names are what a release calls its manifests, as of one moment, and what else
// an export of it shows. They are sorted.
type Names struct {
	Revisions []RevisionName
	History   []TagName
	Hidden    []Pair // layer links that were removed
}

// A RevisionName is a linked manifest with the tags that point at it.
type RevisionName struct {
	Repository string
	Digest     digest.Digest
	Tags       []string
	Absent     []digest.Digest // see Need.Absent
}

// A TagName is what a tag points at, or once did.
type TagName struct {
	Repository string
	Tag        string
	Digest     digest.Digest
}

// Names returns the release's names.
func (r *Release) Names() Names {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var n Names
	for name, p := range r.repos {
		n.add(name, p)
	}
	slices.SortFunc(n.Revisions, func(a, b RevisionName) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Digest, b.Digest))
	})
	slices.SortFunc(n.History, func(a, b TagName) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
	})
	slices.SortFunc(n.Hidden, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Digest, b.Digest))
	})
	return n
}

func (n *Names) add(name string, p *repository) {
	tags := make(map[digest.Digest][]string)
	for tag, t := range p.tags {
		if t.current != "" {
			tags[t.current] = append(tags[t.current], tag)
		}
		for d := range t.history {
			n.History = append(n.History, TagName{name, tag, d})
		}
	}
	for d, rev := range p.revisions {
		absent := slices.Clone(rev.absent)
		slices.Sort(absent)
		slices.Sort(tags[d])
		n.Revisions = append(n.Revisions, RevisionName{name, d, tags[d], slices.Compact(absent)})
	}
	for d, l := range p.layers {
		if l.mark == hidden {
			n.Hidden = append(n.Hidden, Pair{name, d})
		}
	}
}

// Generation counts the changes of a release since the index was opened, so
// that who has written down its names knows whether they still are.
func (db *DB) Generation(release string) uint64 {
	if n, ok := db.generations.Load(release); ok {
		return n.(*atomic.Uint64).Load()
	}
	return 0
}

func (db *DB) nextGeneration(release string) {
	n, ok := db.generations.Load(release)
	if !ok {
		n, _ = db.generations.LoadOrStore(release, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1)
}

// Changes counts the transactions of the index since it was made. It never
// goes back, unless the index has.
func (db *DB) Changes() (n uint64, err error) {
	err = db.view(func(txn *badger.Txn) error {
		t, err := readTally(txn, whole)
		if err == nil {
			n = t.Changes
		}
		return err
	})
	return n, err
}
