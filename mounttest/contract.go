package mounttest

import (
	"slices"
	"testing"
)

// A clause is one test of the contract, named after the clause of
// docs/posix.md that it is about. Releases and contents are its own.
type clause struct {
	name string
	run  func(t *testing.T, m Mounts)
}

// Contract checks what a mount promises beyond an ordinary directory. A clause
// that a backend cannot keep is in m.Except, and is not run; see [Excepted].
func Contract(t *testing.T, m Mounts) {
	known := make(map[string]bool)
	for _, c := range clauses() {
		known[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			if why, ok := m.Except[c.name]; ok {
				t.Logf("DOES NOT HOLD on this backend: %s", why)
				return
			}
			c.run(t, m)
		})
	}
	for name := range m.Except {
		if !known[name] {
			t.Errorf("%s is excepted, and is no clause", name)
		}
	}
}

// Scale runs the clauses about many files, which is where time is looked at.
func Scale(t *testing.T, m Mounts) {
	for _, c := range scaleClauses {
		t.Run(c.name, func(t *testing.T) { c.run(t, m) })
	}
}

// Excepted runs what Contract leaves out. Each clause must fail: one that holds
// is not to be excepted.
func Excepted(t *testing.T, m Mounts) {
	for _, c := range clauses() {
		if _, ok := m.Except[c.name]; ok {
			t.Run(c.name, func(t *testing.T) { c.run(t, m) })
		}
	}
}

func clauses() []clause {
	return slices.Concat(lookupClauses, listingClauses, deleteClauses, commitClauses, lastingClauses, attributeClauses, scaleClauses)
}

// pushed mounts a release with one image pushed to it, and returns both.
func pushed(t *testing.T, m Mounts, release string, img image) registry {
	t.Helper()
	r := registry3(m.Mount(t, release, ReuseStore))
	ok(t, r.pushImage("library/known", "v1", img))
	return r
}
