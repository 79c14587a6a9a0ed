package mounttest

import "testing"

// A clause is one test of the contract, named after the clause of
// docs/posix.md that it is about. Releases and contents are its own.
type clause struct {
	name string
	run  func(t *testing.T, m Mounts)
}

// Contract checks what a mount promises beyond an ordinary directory.
func Contract(t *testing.T, m Mounts) {
	for _, clauses := range [][]clause{lookupClauses, listingClauses, deleteClauses, commitClauses, lastingClauses, attributeClauses} {
		for _, c := range clauses {
			t.Run(c.name, func(t *testing.T) { c.run(t, m) })
		}
	}
}

// pushed mounts a release with one image pushed to it, and returns both.
func pushed(t *testing.T, m Mounts, release string, img image) registry {
	t.Helper()
	r := registry3(m.Mount(t, release, ReuseStore))
	ok(t, r.pushImage("library/known", "v1", img))
	return r
}
