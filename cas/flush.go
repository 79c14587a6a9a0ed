package cas

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// A disk is the ways in which a store makes things durable. Tests put faults
// and counters here.
type disk struct {
	syncFile func(*os.File) error
	syncDir  func(name string) error
}

// syncsAtOnce bounds the threads that wait for the disk. More of them than this
// and the disk has enough to share among them.
const syncsAtOnce = 16

// lazyFlush is how long a blob that nobody waits for may be pending.
const lazyFlush = time.Second

// Flush makes blobs durable: after it has returned nil, every blob whose Commit
// had returned before it was called survives a power loss, unless [Store.Lost]
// tells of it. Concurrent callers share the work: while one flush runs, one
// waits, and takes along all who come meanwhile.
//
// If it fails, a blob has been lost, or the next flush tries again.
func (s *Store) Flush() error {
	f := s.joinFlush()
	if f == nil {
		return nil
	}
	<-f.synced
	return f.err
}

// Settle flushes, and returns when every blob whose Commit had returned before
// is at its place, where other processes find it.
func (s *Store) Settle() error { return errors.Join(s.settle()) }

// settle tells what is not durable from what is, and could not be moved: on a
// full disk a place has no room for its directory. The latter is found where it
// is, and the next process tries again.
func (s *Store) settle() (lost, unplaced error) {
	f := s.joinSettle()
	if f == nil {
		return nil, nil
	}
	<-f.settled
	return f.err, f.unplaced
}

// A flush brings blobs to the disk, for which many wait, and then to their
// places, for which few do.
type flush struct {
	synced  chan struct{} // closed when err is set
	err     error
	settled chan struct{} // closed when unplaced is set

	// unplaced is why blobs are still pending. They are found there, and the
	// next flush tries again.
	unplaced error
}

func (f *flush) done() bool {
	select {
	case <-f.synced:
		return true
	default:
		return false
	}
}

// joinFlush returns the flush that has seen all blobs that are there by now;
// nil if they are durable.
func (s *Store) joinFlush() *flush {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.fresh > 0:
		return s.nextFlush()
	case p.running != nil && !p.running.done():
		return p.running
	}
	return nil
}

// joinSettle returns the flush after which they are all at their places; nil if
// they are.
func (s *Store) joinSettle() *flush {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil && len(p.arrived()) == 0 {
		return nil
	}
	return s.nextFlush()
}

// nextFlush returns the flush that is to begin next, and sees to it that it
// does. The pending's mu is held.
func (s *Store) nextFlush() *flush {
	p := &s.pending
	if p.next == nil {
		p.next = &flush{synced: make(chan struct{}), settled: make(chan struct{})}
	}
	if !p.busy {
		p.busy = true
		go s.runFlushes()
	}
	return p.next
}

func (s *Store) runFlushes() {
	for f, batch := s.beginFlush(); f != nil; f, batch = s.beginFlush() {
		f.err = s.syncBatch(batch)
		close(f.synced)
		f.unplaced = s.placeAll(batch)
		close(f.settled)
	}
}

// beginFlush makes the next flush the running one; nil if there is none.
func (s *Store) beginFlush() (*flush, []*pendingBlob) {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.next = p.next, nil
	batch := p.arrived()
	if p.running == nil {
		p.busy = false
		s.flushLater() // what could not be flushed or placed
		return nil, nil
	}
	p.fresh = 0
	return p.running, batch
}

// flushLater sees to it that there is a flush before long, if there is anything
// to be flushed. The pending's mu is held.
func (s *Store) flushLater() {
	p := &s.pending
	if p.closed || p.lazy || len(p.blobs) == 0 {
		return
	}
	p.lazy = true
	time.AfterFunc(lazyFlush, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lazy = false
		if !p.closed && len(p.blobs) > 0 {
			s.nextFlush()
		}
	})
}

// syncBatch brings the content of blobs to the disk, and their pending names.
// It does not matter which comes first: a name without its content is found out
// by whoever recovers it.
func (s *Store) syncBatch(batch []*pendingBlob) error {
	var fresh []*pendingBlob
	for _, b := range batch {
		if !b.durable {
			fresh = append(fresh, b)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	names := make(chan error, 1)
	go func() { names <- s.syncNames() }()
	s.syncFiles(fresh)
	err := <-names
	var lost []error
	for _, b := range fresh {
		if b.unsynced != nil {
			lost = append(lost, s.lose(b))
		} else if err == nil {
			b.durable = true
		}
	}
	if err != nil {
		// The files are not asked again in vain: what a sync has brought to the
		// disk stays there. A directory goes through the file system's journal;
		// where that cannot be written, the next sync fails, too.
		s.pending.again(fresh)
	}
	return errors.Join(append(lost, err)...)
}

// syncFiles syncs side by side, since a disk takes what waits for it together.
func (s *Store) syncFiles(batch []*pendingBlob) {
	slots := make(chan struct{}, syncsAtOnce)
	var all sync.WaitGroup
	for _, b := range batch {
		slots <- struct{}{}
		all.Go(func() {
			b.unsynced = s.disk.syncFile(b.file)
			<-slots
		})
	}
	all.Wait()
}

// syncNames syncs the one directory, and once those that lead to it.
func (s *Store) syncNames() error {
	if err := s.disk.syncDir(pendingDir); err != nil || s.rooted {
		return err
	}
	for _, dir := range []string{tempDir, "."} {
		if err := s.disk.syncDir(dir); err != nil {
			return err
		}
	}
	s.rooted = true
	return nil
}

// placeAll says why the first one could not be moved, and of how many others.
func (s *Store) placeAll(batch []*pendingBlob) (first error) {
	others := 0
	for _, b := range batch {
		if !b.durable {
			continue
		}
		switch err := s.place(b); {
		case err == nil:
		case first == nil:
			first = err
		default:
			others++
		}
	}
	if others > 0 {
		first = fmt.Errorf("%w; %d others stay where they are, too", first, others)
	}
	return first
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
