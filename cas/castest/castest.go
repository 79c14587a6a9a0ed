// Package castest is what any store of blobs must hold, as a test suite. It
// looks at a store through its methods only, never at its files.
package castest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/cas"
)

// Run runs the suite. Each call of open returns an empty store that the test
// may use until it ends.
func Run(t *testing.T, open func(t *testing.T) *cas.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cas.Store)
	}{
		{"Empty", testEmpty},
		{"RoundTrip", testRoundTrip},
		{"WholeContentWhereverThePositionIs", testPosition},
		{"NothingBeforeCommit", testNothingBeforeCommit},
		{"CloseDiscards", testCloseDiscards},
		{"CloseTwice", testCloseTwice},
		{"Mismatch", testMismatch},
		{"CommitAfterMismatch", testCommitAfterMismatch},
		{"InvalidDigest", testInvalidDigest},
		{"CommitTwice", testCommitTwice},
		{"CommitOnceOnly", testCommitOnceOnly},
		{"OpenedForReadingOnly", testReadOnly},
		{"All", testAll},
		{"AllStops", testAllStops},
		{"CloneIsIndependent", testClone},
		{"ConcurrentSame", testConcurrentSame},
		{"ConcurrentDifferent", testConcurrentDifferent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// algorithms are those that every store takes.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512}

// Put stores content and returns its digest.
func Put(t testing.TB, s *cas.Store, content []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(content)
	if err := commit(s, content, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Check checks that a store has a blob, by each way there is to see it.
func Check(t testing.TB, s *cas.Store, d digest.Digest, content []byte) {
	t.Helper()
	info, err := s.Stat(d)
	if err != nil {
		t.Fatal(err)
	}
	if info.Digest != d || info.Size != int64(len(content)) || info.ModTime.IsZero() {
		t.Errorf("Stat of %d bytes: %+v", len(content), info)
	}
	if got := read(t, s, d); !bytes.Equal(got, content) {
		t.Errorf("Open %s: %d bytes that are not the %d stored", d, len(got), len(content))
	}
}

// CheckAbsent checks that a store has no such blob.
func CheckAbsent(t testing.TB, s *cas.Store, d digest.Digest) {
	t.Helper()
	if _, err := s.Stat(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of an absent blob: %v", err)
	}
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an absent blob: %v", err)
	}
}

// List returns all that All yields, and fails on an error or a repetition.
func List(t testing.TB, s *cas.Store) map[digest.Digest]cas.Info {
	t.Helper()
	all := map[digest.Digest]cas.Info{}
	for info, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := all[info.Digest]; ok {
			t.Errorf("All yields %s twice", info.Digest)
		}
		all[info.Digest] = info
	}
	return all
}

func commit(s *cas.Store, content []byte, d digest.Digest) error {
	w, err := s.NewWriter()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.File().Write(content); err != nil {
		return err
	}
	size, err := w.Commit(d)
	if err == nil && size != int64(len(content)) {
		return fmt.Errorf("Commit of %d bytes returned %d", len(content), size)
	}
	return err
}

func read(t testing.TB, s *cas.Store, d digest.Digest) []byte {
	t.Helper()
	file, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func newWriter(t *testing.T, s *cas.Store, content string) *cas.Writer {
	t.Helper()
	w, err := s.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if _, err := w.File().WriteString(content); err != nil {
		t.Fatal(err)
	}
	return w
}

func testEmpty(t *testing.T, s *cas.Store) {
	CheckAbsent(t, s, digest.FromString("nothing"))
	if all := List(t, s); len(all) != 0 {
		t.Errorf("All of an empty store: %v", all)
	}
	if err := s.Flush(); err != nil {
		t.Error(err)
	}
}

func testRoundTrip(t *testing.T, s *cas.Store) {
	for _, algorithm := range algorithms {
		for _, size := range []int{0, 1, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
			content := bytes.Repeat([]byte{byte(size) | 1}, size)
			d := algorithm.FromBytes(content)
			CheckAbsent(t, s, d)
			if err := commit(s, content, d); err != nil {
				t.Fatal(err)
			}
			Check(t, s, d, content)
		}
	}
	if err := s.Flush(); err != nil {
		t.Error(err)
	}
}

func testPosition(t *testing.T, s *cas.Store) {
	for _, position := range []int64{0, 3, 1000} {
		content := fmt.Sprintf("content read from %d", position)
		w := newWriter(t, s, content)
		if _, err := w.File().Seek(position, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		d := digest.FromString(content)
		if _, err := w.Commit(d); err != nil {
			t.Fatal(err)
		}
		Check(t, s, d, []byte(content))
	}
}

func testNothingBeforeCommit(t *testing.T, s *cas.Store) {
	newWriter(t, s, "not yet")
	CheckAbsent(t, s, digest.FromString("not yet"))
	if all := List(t, s); len(all) != 0 {
		t.Errorf("All before Commit: %v", all)
	}
}

func testCloseDiscards(t *testing.T, s *cas.Store) {
	w := newWriter(t, s, "discarded")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("discarded")
	CheckAbsent(t, s, d)
	if _, err := w.Commit(d); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Commit after Close: %v", err)
	}
}

func testCloseTwice(t *testing.T, s *cas.Store) {
	w := newWriter(t, s, "kept")
	if _, err := w.Commit(digest.FromString("kept")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Errorf("Close after Commit: %v", err)
		}
	}
	Check(t, s, digest.FromString("kept"), []byte("kept"))
}

func testMismatch(t *testing.T, s *cas.Store) {
	want, got := digest.FromString("want"), digest.FromString("got")
	err := commit(s, []byte("got"), want)
	var corrupt *cas.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Want != want || corrupt.Got != got {
		t.Errorf("Commit of other content: %v", err)
	}
	CheckAbsent(t, s, want)
	CheckAbsent(t, s, got)
}

func testCommitAfterMismatch(t *testing.T, s *cas.Store) {
	w := newWriter(t, s, "half")
	d := digest.FromString("half and half")
	if _, err := w.Commit(d); err == nil {
		t.Fatal("Commit of half the content succeeds")
	}
	if _, err := w.File().WriteString(" and half"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(d); err != nil {
		t.Fatal(err)
	}
	Check(t, s, d, []byte("half and half"))
}

func testInvalidDigest(t *testing.T, s *cas.Store) {
	hex := digest.FromString("").Encoded()
	for _, d := range []digest.Digest{
		"", "sha256", "sha256:", "sha256:../../etc/passwd", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e",
		digest.Digest("sha512:" + hex), digest.Digest("sha256:" + hex + "0"), digest.Digest("SHA256:" + hex),
		digest.Digest("sha256:" + "AB" + hex[2:]), digest.Digest("../sha256:" + hex),
	} {
		if err := commit(s, nil, d); err == nil {
			t.Errorf("Commit as %q succeeds", d)
		}
		if _, err := s.Stat(d); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of %q: %v", d, err)
		}
		if _, err := s.Open(d); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of %q: %v", d, err)
		}
	}
}

func testCommitTwice(t *testing.T, s *cas.Store) {
	d := Put(t, s, []byte("twice"))
	open, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	Put(t, s, []byte("twice"))
	Check(t, s, d, []byte("twice"))
	if content, err := io.ReadAll(open); err != nil || string(content) != "twice" {
		t.Errorf("what was open before the second Commit reads %q, %v", content, err)
	}
	if n := len(List(t, s)); n != 1 {
		t.Errorf("All yields %d blobs, not 1", n)
	}
}

func testCommitOnceOnly(t *testing.T, s *cas.Store) {
	w := newWriter(t, s, "once")
	d := digest.FromString("once")
	if _, err := w.Commit(d); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(d); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Commit of one Writer: %v", err)
	}
	if _, err := w.File().WriteString("more"); err == nil {
		t.Error("a blob can be written to through the Writer that made it")
	}
}

func testReadOnly(t *testing.T, s *cas.Store) {
	d := Put(t, s, []byte("immutable"))
	file, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("x"); err == nil {
		t.Error("an opened blob can be written to")
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o444 {
		t.Errorf("an opened blob has mode %v", info.Mode())
	}
}

func testAll(t *testing.T, s *cas.Store) {
	stored := map[digest.Digest]int{}
	for i, algorithm := range algorithms {
		for size := range 20 {
			content := bytes.Repeat([]byte{byte(i)}, size)
			d := algorithm.FromBytes(content)
			if err := commit(s, content, d); err != nil {
				t.Fatal(err)
			}
			stored[d] = size
		}
	}
	all := List(t, s)
	if len(all) != len(stored) {
		t.Errorf("All yields %d blobs, not %d", len(all), len(stored))
	}
	for d, size := range stored {
		info, err := s.Stat(d)
		if err != nil || all[d] != info || info.Size != int64(size) {
			t.Errorf("All yields %+v where Stat says %+v, %v", all[d], info, err)
		}
	}
}

func testAllStops(t *testing.T, s *cas.Store) {
	Put(t, s, []byte("one"))
	Put(t, s, []byte("another"))
	n := 0
	for range s.All() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("All yields %d blobs to who wants one", n)
	}
}

func testClone(t *testing.T, s *cas.Store) {
	w := newWriter(t, s, "original")
	clone, err := w.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if _, err := w.File().WriteAt([]byte("ORIGINAL, longer"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := clone.Commit(digest.FromString("original")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(digest.FromString("ORIGINAL, longer")); err != nil {
		t.Fatal(err)
	}
	Check(t, s, digest.FromString("original"), []byte("original"))
	Check(t, s, digest.FromString("ORIGINAL, longer"), []byte("ORIGINAL, longer"))
}

func testConcurrentSame(t *testing.T, s *cas.Store) {
	content := bytes.Repeat([]byte("same"), 10_000)
	d := digest.FromBytes(content)
	concurrently(t, 32, func(int) error {
		if err := commit(s, content, d); err != nil {
			return err
		}
		return s.Flush()
	})
	Check(t, s, d, content)
	if n := len(List(t, s)); n != 1 {
		t.Errorf("All yields %d blobs, not 1", n)
	}
}

func testConcurrentDifferent(t *testing.T, s *cas.Store) {
	const n = 64
	content := func(i int) []byte { return fmt.Appendf(nil, "blob %d", i) }
	concurrently(t, n, func(i int) error {
		if err := commit(s, content(i), digest.FromBytes(content(i))); err != nil {
			return err
		}
		return s.Flush()
	})
	for i := range n {
		Check(t, s, digest.FromBytes(content(i)), content(i))
	}
	if got := len(List(t, s)); got != n {
		t.Errorf("All yields %d blobs, not %d", got, n)
	}
}

func concurrently(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if err := do(i); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
