package mounttest

import (
	"cmp"
	"testing"
	"time"
)

// A Reuse says where links resolve that a release has not written: M2.
type Reuse string

// The values of regfs mount --reuse.
const (
	ReuseStore      Reuse = "store"
	ReuseRepository Reuse = "repository"
	ReuseNone       Reuse = "none"
)

// Mounts is a backend under test: the releases of one store.
type Mounts struct {
	// Mount mounts a release, which is made if there is none of that name, and
	// returns where. It fails the test on an error, and unmounts when the test
	// ends.
	Mount func(t testing.TB, release string, reuse Reuse) (dir string)

	// Unmount ends a mount before the test does.
	Unmount func(t testing.TB, dir string)

	// Log returns what the backend has logged so far.
	Log func() string

	// Store is the store's directory, with its blobs in the registry's layout.
	Store string

	// Except are the clauses that the backend cannot keep, and why, as
	// docs/posix.md says it.
	Except map[string]string

	// Slow says that the backend, or the test, is so much slower than usual that
	// the clauses about many files are to do with a tenth: see [Scale].
	Slow bool

	// Patience is how long to wait for what comes before long, such as a blob in
	// the store; 10 seconds, if it is zero.
	Patience time.Duration
}

// within waits for something to be so, and says whether it was in time.
func (m Mounts) within(is func() bool) bool {
	for end := time.Now().Add(cmp.Or(m.Patience, 10*time.Second)); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// many is how many files a clause about many files makes.
func (m Mounts) many(n int) int {
	if m.Slow {
		return n / 10
	}
	return n
}

// remount gives a release a new mount.
func (m Mounts) remount(t testing.TB, dir, release string, reuse Reuse) string {
	t.Helper()
	m.Unmount(t, dir)
	return m.Mount(t, release, reuse)
}
