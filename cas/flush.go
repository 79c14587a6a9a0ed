package cas

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"sync"
)

// A disk is the ways in which a store makes things durable. Tests put faults
// and counters here.
type disk struct {
	syncFile func(*os.File) error
	syncDir  func(name string) error
	syncAll  func() error // the whole file system
}

// Flush makes blobs durable: after it has returned nil, every Commit that had
// returned before it was called survives a power loss. Concurrent callers
// share the work: while one flush runs, one waits, and takes along all who
// come meanwhile.
//
// If it fails, nothing is known of the blobs committed since the last flush;
// all that was to be made durable is tried again by the next one.
func (s *Store) Flush() error {
	return s.flusher.flush()
}

func (s *Store) syncDir(name string) error {
	dir, err := s.dir.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return failure("sync directory", name, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return failure("sync directory", name, err)
	}
	return nil
}

// A flusher knows which directories are to be synced, and shares the syncs
// among those who wait for them.
type flusher struct {
	sync func(dir string) error

	// mu guards the fields below. It is not held across I/O.
	mu sync.Mutex

	// dirty are the directories to be synced. The value says whether it is a
	// blob's own directory.
	dirty map[string]bool

	// durable are the directories known to survive a power loss themselves:
	// their parents were synced after they had been made. A blob's own
	// directory is left out; there are too many, and few are asked for twice.
	// Whoever removes a directory would have to take it out.
	durable map[string]bool

	running, waiting *flush // nil if there is none
}

type flush struct {
	done chan struct{} // closed when err is set
	err  error
}

func newFlusher(sync func(dir string) error) *flusher {
	return &flusher{sync: sync, dirty: map[string]bool{}, durable: map[string]bool{}}
}

// note remembers a blob's directory, which exists and has its blob, and all
// above it that are not known to be durable. Who made them does not matter:
// the one who did may not have come to note them yet.
func (f *flusher) note(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty[dir] = true
	for dir != "." && !f.durable[dir] {
		dir = path.Dir(dir)
		f.dirty[dir] = false
	}
}

// idle reports whether nothing is left to be synced.
func (f *flusher) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dirty) == 0 && f.running == nil
}

func (f *flusher) flush() error {
	mine, before, first := f.join()
	if first {
		if before != nil {
			<-before.done
		}
		f.run(mine)
	}
	<-mine.done
	return mine.err
}

// join returns the flush that waits, which will see all that has been noted by
// now, and the one that runs, which may not. The first to join has to run it.
func (f *flusher) join() (mine, before *flush, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting == nil {
		f.waiting = &flush{done: make(chan struct{})}
		first = true
	}
	return f.waiting, f.running, first
}

func (f *flusher) run(mine *flush) {
	batch := f.start(mine)
	mine.err = f.syncBatch(batch)
	f.finish(batch, mine.err)
	close(mine.done)
}

func (f *flusher) start(mine *flush) (batch map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	batch, f.dirty = f.dirty, map[string]bool{}
	f.running, f.waiting = mine, nil
	return batch
}

// syncBatch syncs the deepest directories first: where a sync commits a journal
// that they all share, the rest have nothing left to do. A directory that is
// gone was removed with its blob; nothing is left to be lost, and it leaves
// the batch, as one made anew in its place would not be durable.
func (f *flusher) syncBatch(batch map[string]bool) error {
	for _, dir := range slices.Backward(slices.Sorted(maps.Keys(batch))) {
		err := f.sync(dir)
		if errors.Is(err, fs.ErrNotExist) {
			delete(batch, dir)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish keeps a batch that failed to be synced again, whole. (A file's pages
// that could not be written are forgotten by the kernel, and a second fsync
// succeeds. Directories go through a journal: a file system that cannot write
// it stops, and the second fsync fails too.)
func (f *flusher) finish(batch map[string]bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = nil
	if err != nil {
		maps.Copy(f.dirty, batch)
		return
	}
	for dir, ofBlob := range batch {
		if !ofBlob {
			f.durable[dir] = true
		}
	}
}
