package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// newTestFlusher returns a flusher with a disk on which a sync takes a second.
func newTestFlusher() (f *flusher, synced *[]string) {
	synced = new([]string)
	return newFlusher(func(dir string) error {
		*synced = append(*synced, dir) // no lock: one flush runs at a time
		time.Sleep(time.Second)
		return nil
	}), synced
}

func TestFlushSyncsUpToWhatIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, synced := newTestFlusher()
		for _, step := range []struct {
			note string
			want []string
		}{
			{"blobs/sha256/ab/abcd", []string{"blobs/sha256/ab/abcd", "blobs/sha256/ab", "blobs/sha256", "blobs", "."}},
			{"blobs/sha256/ab/abcd", []string{"blobs/sha256/ab/abcd", "blobs/sha256/ab"}},
			{"blobs/sha256/ab/abef", []string{"blobs/sha256/ab/abef", "blobs/sha256/ab"}},
			{"blobs/sha256/cd/cdef", []string{"blobs/sha256/cd/cdef", "blobs/sha256/cd", "blobs/sha256"}},
		} {
			*synced = nil
			f.note(step.note)
			if err := f.flush(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(*synced, step.want) {
				t.Errorf("after a commit to %s, synced %v, not %v", step.note, *synced, step.want)
			}
		}
		if len(f.durable) != 5 {
			t.Errorf("known as durable: %v", f.durable)
		}
	})
}

// While one flush runs, all who come share the next one.
func TestFlushIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, synced := newTestFlusher()
		f.note("xx/first")
		go f.flush()
		synctest.Wait()
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				f.note(fmt.Sprintf("xx/%d", i))
				if err := f.flush(); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		// xx/first, xx, "."; then the hundred, and their parents once more,
		// since the first flush had not ended when they were noted.
		if n := len(*synced); n != 3+100+2 {
			t.Errorf("%d directory syncs", n)
		}
		if !f.idle() {
			t.Error("something is left to be synced")
		}
	})
}

// A blob noted after a flush has begun is not covered by it.
func TestFlushWaitsForItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, synced := newTestFlusher()
		f.note("xx/first")
		go f.flush()
		synctest.Wait()
		f.note("xx/second")
		if err := f.flush(); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(*synced, "xx/second") {
			t.Errorf("synced only %v", *synced)
		}
	})
}

// A failed sync is told to all who share the flush, and everything is tried
// again.
func TestFlushFaultIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, synced := newTestFlusher()
		healthy := f.sync
		f.sync = func(dir string) error {
			time.Sleep(time.Second)
			if dir == "xx" {
				return errFault
			}
			return nil
		}
		var failed atomic.Int32
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() {
				f.note(fmt.Sprintf("xx/%d", i))
				if err := f.flush(); errors.Is(err, errFault) {
					failed.Add(1)
				}
			})
		}
		group.Wait()
		if failed.Load() != 10 {
			t.Errorf("%d of 10 callers were told of the fault", failed.Load())
		}
		if f.idle() || len(f.durable) > 0 {
			t.Errorf("taken for durable: %v", f.durable)
		}
		f.sync = healthy
		if err := f.flush(); err != nil {
			t.Fatal(err)
		}
		if len(*synced) != 12 {
			t.Errorf("synced after the fault: %v", *synced)
		}
	})
}

func TestFlushOfRemovedDirectory(t *testing.T) {
	f := newFlusher(func(dir string) error {
		if dir == "." {
			return nil
		}
		return fs.ErrNotExist
	})
	f.note("xx/removed")
	if err := f.flush(); err != nil {
		t.Error(err)
	}
	if f.durable["xx"] {
		t.Error("a directory that is gone is taken for durable")
	}
}

// The same through the store, on a real disk: commits and flushes of many
// goroutines need far fewer flushes than there are callers.
func TestConcurrentCommitsShareFlushes(t *testing.T) {
	const n = 200
	f := setup(t)
	const inEachBatch = "decoy" // a directory that every caller notes, and that does not exist
	var flushes, syncs atomic.Int32
	syncDir := f.disk.syncDir
	f.disk.syncDir = func(dir string) error {
		syncs.Add(1)
		if dir == inEachBatch {
			flushes.Add(1)
		}
		time.Sleep(time.Millisecond)
		return syncDir(dir)
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
			f.flusher.note(inEachBatch)
			if err := f.Flush(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	t.Logf("%d commits and flushes: %d flushes, %d directory syncs", n, flushes.Load(), syncs.Load())
	if flushes.Load() > n/4 {
		t.Errorf("%d flushes for %d callers", flushes.Load(), n)
	}
	for i := range n {
		if _, err := f.Stat(digestOf(i)); err != nil {
			t.Error(err)
		}
	}
}

func digestOf(i int) digest.Digest { return digest.FromString(fmt.Sprintf("blob %d", i)) }
