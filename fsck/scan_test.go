package fsck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func (f *fixture) scan() []Bad {
	f.Helper()
	result, err := Scan(f.Context(), f.Dir, Options{})
	f.must(err)
	return result.Bad
}

func (f *fixture) state() (s position) {
	f.Helper()
	data, err := os.ReadFile(filepath.Join(f.Dir, stateFile))
	f.must(err)
	f.must(json.Unmarshal(data, &s))
	return s
}

// One flipped byte is found, whatever the algorithm, and so are the images that
// need it.
func TestScanFindsRot(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "one", "two", "three")
	f.push("v1", "app", "2", "one", "four")
	if bad := f.scan(); len(bad) > 0 {
		t.Fatalf("bad: %v", bad)
	}
	if s := f.state(); !s.Finished || s.Blobs != 8 {
		t.Errorf("state: %+v", s)
	}
	f.flip(f.blob(describe("one").Digest))
	f.flip(f.blob(describe("two").Digest))
	bad := f.scan()
	if len(bad) != 2 {
		t.Fatalf("bad: %v", bad)
	}
	affects, err := Affects(t.Context(), f.Store, Result{Bad: bad}.Digests())
	f.must(err)
	r := f.check()
	if len(r.Findings) > 0 {
		t.Errorf("the fast check finds what it cannot: %v", r.Findings)
	}
	r.Merge(Result{Bad: bad}, affects)
	f.finds(r, Damaged, describe("one").Digest.String(), "its content has the digest sha256:", "v1 app:1", "v1 app:2")
	f.finds(r, Damaged, describe("two").Digest.String(), "its content has the digest sha256:", "v1 app:1")
	if len(r.Findings) != 2 {
		t.Errorf("found: %v", r.Findings)
	}
}

// An interrupted scan goes on where it was, and knows what it had found; after
// a whole one the next begins anew.
func TestScanGoesOn(t *testing.T) {
	f := setup(t)
	const blobs, size = 60, 10_000
	var all []digest.Digest
	for i := range blobs {
		all = append(all, f.put(strings.Repeat(fmt.Sprint(i%10), size)+fmt.Sprint(i)).Digest)
	}
	first := all[0]
	for _, d := range all {
		first = min(first, d)
	}
	f.flip(f.blob(first))

	ctx, cancel := context.WithCancel(t.Context())
	var read atomic.Int64
	_, err := Scan(ctx, f.Dir, Options{Rate: 2_000_000, Progress: func(n int64) {
		if read.Add(n) > blobs*size/3 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	s := f.state()
	if s.Finished || s.Blobs < blobs/10 || s.Blobs > blobs*2/3 || len(s.Bad) != 1 {
		t.Fatalf("state after %d bytes: %+v", read.Load(), s)
	}
	var before, after atomic.Int64
	result, err := Scan(t.Context(), f.Dir, Options{Progress: func(n int64) {
		if !before.CompareAndSwap(0, n) {
			after.Add(n)
		}
	}})
	f.must(err)
	if before.Load() != s.Bytes {
		t.Errorf("%d bytes are told as read before, not %d", before.Load(), s.Bytes)
	}
	if rest := int64(blobs-s.Blobs+1) * (size + 2); after.Load() > rest {
		t.Errorf("read %d bytes, of %d that were left", after.Load(), rest)
	}
	if bad := result.Bad; len(bad) != 1 || bad[0].Digest != first || result.Blobs != blobs {
		t.Errorf("result: %+v", result)
	}
	if s := f.state(); !s.Finished || s.Blobs != blobs {
		t.Errorf("state at the end: %+v", s)
	}
	read.Store(0)
	_, err = Scan(t.Context(), f.Dir, Options{Progress: func(n int64) { read.Add(n) }})
	f.must(err)
	if read.Load() < blobs*size {
		t.Errorf("after a whole scan, the next has read %d bytes only", read.Load())
	}
}

// A state that somebody has garbled, or a process that was killed while it
// wrote it, costs a scan from the beginning.
func TestScanGarbledState(t *testing.T) {
	f := setup(t)
	f.put("one")
	for _, garbled := range []string{"", "{", `{"after":"sha256:zz","blobs":7}`, "{\"blobs\":3}\n\"tail\"}"} {
		f.must(os.WriteFile(filepath.Join(f.Dir, stateFile), []byte(garbled), 0o600))
		f.scan()
		if s := f.state(); !s.Finished || s.Blobs != 1 {
			t.Errorf("after %q: %+v", garbled, s)
		}
	}
}

func TestScanOnlyOnce(t *testing.T) {
	f := setup(t)
	s, err := openState(f.Dir)
	f.must(err)
	defer s.close()
	if _, err := Scan(t.Context(), f.Dir, Options{}); !errors.Is(err, errScanning) {
		t.Errorf("a second scan: %v", err)
	}
}

func TestScanRate(t *testing.T) {
	f := setup(t)
	for i := range 20 {
		f.put(strings.Repeat("x", 100_000) + fmt.Sprint(i))
	}
	begun := time.Now()
	_, err := Scan(t.Context(), f.Dir, Options{Rate: 4_000_000})
	f.must(err)
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("2 MB at 4 MB/s took %v", took)
	}
}
