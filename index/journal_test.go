package index

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestJournal: what no release has had in a repository is in the journal once
// it is followed, until it is forgotten; what some release has had is not.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	a, b := digest.FromString("a"), digest.FromString("b")
	ok(t, db.Create("v1"))
	r, err := db.Open("v1")
	ok(t, err)
	ok(t, r.LinkLayer("repo", a))
	journal := func(want ...Pair) {
		t.Helper()
		got, err := db.Journal()
		ok(t, err)
		if !slices.Equal(got, want) {
			t.Errorf("journal %v, want %v", got, want)
		}
	}
	journal()
	ok(t, db.Follow())
	ok(t, r.LinkLayer("repo", a))
	journal()
	ok(t, r.LinkLayer("repo", b))
	ok(t, r.LinkLayer("other", a))
	journal(Pair{"other", a}, Pair{"repo", b})
	r.Close()
	ok(t, db.Close())
	db = openDB(t, dir)
	journal(Pair{"other", a}, Pair{"repo", b})
	ok(t, db.Forget([]Pair{{"other", a}}))
	journal(Pair{"repo", b})
	var all []Pair
	ok(t, db.Pairs(func(p Pair) error { all = append(all, p); return nil }))
	if len(all) != 3 {
		t.Errorf("pairs: %v", all)
	}
	ok(t, db.Follow())
	journal()
}
