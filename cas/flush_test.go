package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// syncs makes the store tell what it syncs, as paths in it, before it does.
func (f *fixture) syncs(tell func(name string) error) {
	name := func(file *os.File) string {
		rel, err := filepath.Rel(f.dir, file.Name())
		f.must(err)
		return rel
	}
	f.disk.syncFile = func(file *os.File) error { return tell(name(file)) }
	f.disk.syncDir = tell
}

// A gate lets a sync wait until the test opens it.
type gate struct{ entered, open chan struct{} }

func newGate() gate { return gate{make(chan struct{}), make(chan struct{})} }

func (g gate) pass() { g.entered <- struct{}{}; <-g.open }

// Found means found from the moment of Commit, by the process that has
// committed; at its place, by all, after Settle.
func TestPendingIsFound(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.checkGone(blobPath(d))
	f.checkFile(pendingPath(d), "content")
	other, err := Open(f.dir)
	f.must(err)
	if _, err := other.Stat(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another process finds a pending blob: %v", err)
	}
	f.must(f.Settle())
	f.checkGone(pendingPath(d))
	f.checkFile(blobPath(d), "content")
	if _, err := other.Stat(d); err != nil {
		t.Errorf("another process after Settle: %v", err)
	}
	f.must(other.Close())
}

// While a blob goes to its place, nobody misses it, nor sees it twice.
func TestFoundOnItsWay(t *testing.T) {
	f := setup(t)
	for i := range 50 {
		d := f.put(fmt.Sprintf("blob %d", i))
		var group sync.WaitGroup
		group.Go(func() { f.must(f.Settle()) })
		for range 2 {
			if _, err := f.Stat(d); err != nil {
				t.Fatal(err)
			}
			file, err := f.Open(d)
			if err != nil {
				t.Fatal(err)
			}
			file.Close()
			seen := 0
			for info, err := range f.All() {
				if f.must(err); info.Digest == d {
					seen++
				}
			}
			if seen != 1 {
				t.Fatalf("All yields a blob on its way %d times", seen)
			}
		}
		group.Wait()
	}
}

// All content and the one directory; the way to it only once.
func TestFlushSyncsOnce(t *testing.T) {
	f := setup(t)
	var mu sync.Mutex
	count := map[string]int{}
	f.syncs(func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		count[filepath.Base(name)]++
		return nil
	})
	for i := range 3 {
		f.put(fmt.Sprint("one ", i))
		f.put(fmt.Sprint("two ", i))
		f.must(f.Flush())
		f.must(f.Flush())
		f.must(f.Settle())
	}
	if n := len(count); count["pending"] != 3 || count["tmp"] != 1 || count["."] != 1 || n != 3+6 {
		t.Errorf("synced: %v", count)
	}
}

// A blob that is committed after a flush has begun is not covered by it.
func TestFlushWaitsForItsOwn(t *testing.T) {
	f := setup(t)
	g := newGate()
	second := digest.FromString("second")
	var synced atomic.Int32
	f.disk.syncFile = func(*os.File) error { synced.Add(1); return nil }
	first := true
	f.disk.syncDir = func(string) error {
		if first {
			first = false
			g.pass()
		}
		return nil
	}
	f.put("first")
	done := make(chan error, 2)
	go func() { done <- f.Flush() }()
	<-g.entered
	f.put("second")
	go func() { err := f.Flush(); f.mustFind(second); done <- err }()
	close(g.open)
	f.must(<-done)
	f.must(<-done)
	if n := synced.Load(); n != 2 {
		t.Errorf("when both flushes have returned, %d blobs of 2 are synced", n)
	}
}

func (f *fixture) mustFind(d digest.Digest) {
	f.T.Helper()
	if _, err := f.Stat(d); err != nil {
		f.Error(err)
	}
}

// What could not be brought to the disk is thrown away: the next sync would not
// tell. The others of the flush are none the worse.
func TestLost(t *testing.T) {
	f := setup(t)
	sync := f.disk.syncFile
	bad := digest.FromString("bad")
	f.disk.syncFile = func(file *os.File) error {
		if content, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil || string(content) == "bad" {
			return errFault
		}
		return sync(file)
	}
	f.put("bad")
	good := f.put("good")
	if err := f.Flush(); !errors.Is(err, errFault) {
		t.Errorf("Flush: %v", err)
	}
	f.disk.syncFile = sync
	f.must(f.Flush())
	f.must(f.Settle())
	if _, err := f.Stat(bad); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was lost is there: %v", err)
	}
	f.checkGone(pendingPath(bad))
	f.checkFile(blobPath(good), "good")
	f.must(f.Lost(good, digest.FromString("never seen")))
	if err := f.Lost(good, bad); !errors.Is(err, errFault) {
		t.Errorf("Lost: %v", err)
	}
	f.put("bad")
	f.must(f.Lost(bad))
	f.must(f.Settle())
	f.checkFile(blobPath(bad), "bad")
}

// If the directory could not be synced, no blob is lost, and none is durable.
func TestDirectorySyncFault(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	for _, dir := range []string{pendingDir, tempDir, "."} {
		f.disk.syncDir = func(name string) error {
			if name == dir {
				return errFault
			}
			return nil
		}
		for range 2 {
			if err := f.Flush(); !errors.Is(err, errFault) {
				t.Errorf("Flush: %v", err)
			}
		}
		if err := f.Settle(); !errors.Is(err, errFault) {
			t.Errorf("Settle: %v", err)
		}
		f.must(f.Lost(d))
		f.mustFind(d)
		f.checkGone(blobPath(d))
	}
	f.disk.syncDir = func(string) error { return nil }
	f.must(f.Settle())
	f.checkFile(blobPath(d), "content")
}

// A blob that cannot go to its place is durable where it is, is found, and goes
// when it can.
func TestUnplaced(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.write("docker", "no directory can be made here")
	f.must(f.Flush())
	if err := f.Settle(); err == nil {
		t.Error("Settle succeeds")
	}
	f.mustFind(d)
	f.must(os.Remove(f.path("docker")))
	f.must(f.Settle())
	f.checkFile(blobPath(d), "content")
}

func TestLazyFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		d := f.put("content")
		time.Sleep(lazyFlush)
		for end := time.Now().Add(lazyFlush); f.pending.has(d); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it is pending still")
			}
		}
		f.checkFile(blobPath(d), "content")
		f.must(f.Close())
	})
}

func TestCloseFlushes(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.must(f.Close())
	f.checkFile(blobPath(d), "content")
	f.checkGone(pendingPath(d))
}

// Blobs that nobody flushes do not take all descriptors.
func TestFreshAreFew(t *testing.T) {
	f := setup(t)
	most := 0
	for i := range 3 * maxFresh {
		f.put(fmt.Sprint(i))
		f.pending.mu.Lock()
		most = max(most, f.pending.fresh)
		f.pending.mu.Unlock()
	}
	if most > maxFresh {
		t.Errorf("%d wait for a flush", most)
	}
}

// Commits and flushes of many goroutines need far fewer flushes than there are
// callers.
func TestConcurrentCommitsShareFlushes(t *testing.T) {
	const n = 200
	f := setup(t)
	var flushes, syncs atomic.Int32
	syncDir, syncFile := f.disk.syncDir, f.disk.syncFile
	f.disk.syncDir = func(dir string) error {
		flushes.Add(1)
		time.Sleep(time.Millisecond)
		return syncDir(dir)
	}
	f.disk.syncFile = func(file *os.File) error {
		syncs.Add(1)
		return syncFile(file)
	}
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			w, err := f.NewWriter()
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			fmt.Fprintf(w.File(), "blob %d", i)
			if _, err := w.Commit(digestOf(i)); err != nil {
				t.Error(err)
			}
			if err := f.Flush(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	t.Logf("%d commits and flushes: %d directory syncs, %d file syncs", n, flushes.Load(), syncs.Load())
	if flushes.Load() > n/4 || syncs.Load() != n {
		t.Errorf("%d directory syncs, %d file syncs for %d callers", flushes.Load(), syncs.Load(), n)
	}
	for i := range n {
		f.mustFind(digestOf(i))
	}
}

func digestOf(i int) digest.Digest { return digest.FromString(fmt.Sprintf("blob %d", i)) }
