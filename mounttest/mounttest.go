// Package mounttest is what a registry and its tools may expect of a mount, as
// suites that run on any directory.
//
// [Posix] holds in every ordinary directory and must hold in a mount: what
// fails on a plain directory is a wrong test. [Contract] is what only a mount
// of a release can do; its tests are named after the clauses of docs/posix.md.
// Neither knows what is mounted: a backend gives its directories, or a
// [Mounts] to make them.
//
// A suite uses the directory by system calls alone, and whoever serves the
// mount must do so in another process: one that serves and uses a mount can
// deadlock.
package mounttest

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A step is one test of a suite, on a directory.
type step struct {
	name string
	run  func(t *testing.T, dir string)
}

// inFresh runs each step in a new directory of its own, which it then removes.
func inFresh(t *testing.T, dir string, steps []step) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			own := filepath.Join(dir, "posix-"+s.name)
			ok(t, os.Mkdir(own, 0o755))
			t.Cleanup(func() { ok(t, os.RemoveAll(own)) })
			s.run(t, own)
		})
	}
}

// ok fails the test on an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must is ok for calls with a result.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

// is checks that an error is of a kind.
func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	ok(t, os.WriteFile(path, content, 0o644))
}

// hasContent checks what a file holds, and that its size says so.
func hasContent(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	ok(t, err)
	same(t, path, got, want)
	info, err := os.Stat(path)
	ok(t, err)
	if info.Size() != int64(len(want)) {
		t.Errorf("%s: size %d, want %d", path, info.Size(), len(want))
	}
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %s, want %s", what, brief(got), brief(want))
	}
}

func brief(b []byte) string {
	if len(b) <= 80 {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%d bytes, %s", len(b), digest.FromBytes(b))
}

// absent checks that nothing is found at a path.
func absent(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: lstat says %v, want that it does not exist", path, err)
	}
	if f, err := os.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: open says %v, want that it does not exist", path, err)
		f.Close()
	}
}

// present checks that something is found at a path.
func present(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("want it to be there: %v", err)
	}
}

// noise is bytes that no other test has, the same in every run.
func noise(seed string, size int) []byte {
	h := fnv.New64a()
	h.Write([]byte(seed))
	r := rand.NewChaCha8([32]byte{})
	r.Seed([32]byte(append(h.Sum(make([]byte, 0, 32)), make([]byte, 24)...)))
	b := make([]byte, size)
	r.Read(b)
	return b
}

// names lists a directory, sorted.
func names(t testing.TB, dir string) []string {
	t.Helper()
	d, err := os.Open(dir)
	ok(t, err)
	defer d.Close()
	all, err := d.Readdirnames(-1)
	ok(t, err)
	slices.Sort(all)
	return all
}

// find lists everything below a directory, as find(1) does: paths relative to
// it, directories with a slash at the end.
func find(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if e.IsDir() {
			rel += "/"
		}
		all = append(all, rel)
		return err
	}))
	return all[1:] // without dir itself
}

// findFiles is find without directories.
func findFiles(t testing.TB, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(find(t, dir), func(p string) bool { return strings.HasSuffix(p, "/") })
}

// sameList compares two sorted lists and names the differences.
func sameList(t testing.TB, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%s: %d entries, want %d\n  too many: %q\n  missing: %q",
		what, len(got), len(want), minus(got, want), minus(want, got))
}

func minus(a, b []string) []string {
	rest := slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		_, found := slices.BinarySearch(b, s)
		return found
	})
	return rest[:min(len(rest), 12)]
}

func inodeOf(t testing.TB, path string) uint64 {
	t.Helper()
	info, err := os.Lstat(path)
	ok(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}
