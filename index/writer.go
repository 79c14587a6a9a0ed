package index

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	badger "github.com/dgraph-io/badger/v4"
)

// MinFree is the free space of the store's disk below which the index takes no
// change, but for some that make room: see writer.remove. Badger writes through memory maps, where a full disk is a SIGBUS;
// 64 MiB hold the memtables and a value log file that it may lay out at once.
const MinFree = 64 << 20

// A record is one key to be put, or deleted if its value is nil.
type record struct {
	key, value []byte
	joined     bool // goes in one transaction with the record before it
}

type records []record

func put(key, value []byte) record { return record{key: key, value: append([]byte{}, value...)} }
func del(key []byte) record        { return record{key: key} }

// A batch is the changes that are committed together.
type batch struct {
	records records
	sync    bool          // somebody waits until they are on the disk
	frees   bool          // it makes room, and is taken on a full disk, too
	done    chan struct{} // closed when err is final
	err     error
}

// A writer commits changes in the order in which they come. One commit is
// under way at a time; all changes that come meanwhile share the next one, and
// with it one sync of the disk, if one of them asks for it.
type writer struct {
	badger *badger.DB
	wal    *wal
	dir    string
	reload func()              // reads the releases back after a failed commit
	commit func(records) error // write; tests put faults and counters here
	// syncLog is the wal's; tests put faults there.
	syncLog func() error
	broke   *breakage
	space   *space

	lazy   time.Duration // see the constant
	serial sync.Mutex    // one transaction at a time: it counts what it finds
	frees  bool          // the batch at hand makes room; for the goroutine that commits

	mu       sync.Mutex // guards what follows; taken after a Release's mu
	next     *batch     // gathers changes; nil if there are none
	running  bool       // whether a goroutine is committing
	unsynced bool       // whether something was committed and not synced
	timer    bool       // whether a sync will be asked for before long
	closed   bool       // nobody asks for one any more
	failed   error      // set from a failed commit until the releases are read back
	idle     sync.Cond
}

func newWriter(b *badger.DB, l *wal, s *space, reload func()) *writer {
	w := &writer{badger: b, wal: l, lazy: lazy, dir: l.dir.Name(), reload: reload, broke: newBreakage(), space: s}
	w.idle.L = &w.mu
	w.commit, w.syncLog = w.write, l.sync
	return w
}

// broken returns why no change can be taken just now. Whoever changes a
// release asks, with the release's lock held, before touching its memory: a
// failure after the question is followed by a reload, which needs that lock.
func (w *writer) broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// enqueue takes records that somebody waits for to be on the disk. Their commit
// begins as soon as it can.
func (w *writer) enqueue(rs records) *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.add(rs)
	b.sync = true
	w.start()
	return b
}

// remove is enqueue for records that are in the way of files that are to go: on a
// full disk there would be no end to that otherwise. They are taken as long as
// the log has room for them.
func (w *writer) remove(rs records) *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.add(rs)
	b.sync, b.frees = true, true
	w.start()
	return b
}

// now takes records that are to be committed as soon as can be, and synced
// before long. Once they are committed the kernel has them, and no death of
// this process can lose them.
func (w *writer) now(rs records) *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.add(rs)
	w.start()
	return b
}

// lazy is how long a change that nobody waits for may lie before it goes to the
// disk. Most are followed at once by one that somebody waits for, and share
// its commit and its sync.
const lazy = 200 * time.Millisecond

// later takes records for a commit that need not begin soon.
func (w *writer) later(rs records) *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.add(rs)
	w.syncLater()
	return b
}

// syncLater sees to it that all changes are on the disk before long. mu is held.
func (w *writer) syncLater() {
	if w.timer {
		return
	}
	w.timer = true
	time.AfterFunc(w.lazy, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timer = false
		if !w.closed && (w.next != nil || w.unsynced) {
			w.add(nil).sync = true
			w.start()
		}
	})
}

// add puts records into the next batch. mu is held.
func (w *writer) add(rs records) *batch {
	if w.failed != nil {
		return &batch{done: closed, err: w.failed}
	}
	if w.next == nil {
		w.next = &batch{done: make(chan struct{})}
	}
	w.next.records = append(w.next.records, rs...)
	return w.next
}

// start sees to it that the next batch is committed. mu is held.
func (w *writer) start() {
	if w.next != nil && !w.running {
		w.running = true
		go w.run()
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (w *writer) wait(b *batch) error {
	<-b.done
	return b.err
}

// settle waits until all changes that were taken so far are on the disk.
func (w *writer) settle() error {
	w.mu.Lock()
	idle := !w.running && w.next == nil && !w.unsynced
	w.mu.Unlock()
	if idle {
		return w.broken()
	}
	return w.wait(w.enqueue(nil))
}

func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.add(nil).sync = true
	w.start()
	for w.running {
		w.idle.Wait()
	}
}

func (w *writer) run() {
	for {
		w.mu.Lock()
		b := w.next
		w.next = nil
		if b == nil {
			w.running = false
			w.idle.Broadcast()
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		stop := w.broke.watch()
		if b.err = w.bring(b); b.err != nil {
			w.broke.note(b.err)
			w.recover(b.err)
		}
		stop()
		close(b.done)
		w.space.takeRoom(w.wal.newest())
	}
}

// bring commits a batch, and syncs it if it asks for that. Another one that did
// not ask is on the disk then, too.
func (w *writer) bring(b *batch) error {
	if w.frees = b.frees; len(b.records) > 0 {
		if err := w.commit(b.records); err != nil {
			return err
		}
		w.setUnsynced(true)
	}
	if !b.sync || !w.isUnsynced() {
		return nil
	}
	w.serial.Lock() // nothing is committed unseen
	defer w.serial.Unlock()
	if err := w.syncLog(); err != nil {
		return fmt.Errorf("write index: sync: %w", err)
	}
	w.setUnsynced(false)
	return nil
}

func (w *writer) isUnsynced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unsynced
}

func (w *writer) setUnsynced(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsynced = yes; yes {
		w.syncLater()
	}
}

// recover fails the changes that were built upon a failed one, and has the
// releases read back, so that memory and disk agree again.
func (w *writer) recover(err error) {
	w.mu.Lock()
	w.failed = err
	if b := w.next; b != nil {
		w.next = nil
		b.err = err
		close(b.done)
	}
	w.mu.Unlock()
	w.reload()
	w.mu.Lock()
	w.failed = nil
	w.mu.Unlock()
}

// write hands records to Badger, together as far as they fit into one
// transaction of its.
func (w *writer) write(rs records) error {
	if err := w.wal.failed; err != nil {
		return fmt.Errorf("write index: an earlier sync has failed; start the server anew when the disk is well: %w", err)
	}
	if err := w.checkRoom(rs); err != nil {
		return err
	}
	return rs.parts(func(part records) error {
		w.space.logged += part.inLog()
		if err := w.writePart(part); err != nil {
			return fmt.Errorf("write index: %w", err)
		}
		return nil
	})
}

func (w *writer) writePart(rs records) (err error) {
	w.serial.Lock()
	defer w.serial.Unlock()
	defer guard(&err)()
	txn := w.badger.NewTransaction(true)
	defer txn.Discard()
	ts := newTallies(txn)
	for _, r := range rs {
		if err := ts.note(r); err != nil {
			return err
		}
		if err := apply(txn, r); err != nil {
			return err
		}
	}
	if err := ts.write(); err != nil {
		return err
	}
	return txn.Commit()
}

func apply(txn *badger.Txn, r record) error {
	if r.value == nil {
		return txn.Delete(r.key)
	}
	return txn.Set(r.key, r.value)
}

// checkRoom is checkSpace for the batch at hand.
func (w *writer) checkRoom(rs records) error {
	if w.frees && w.space.holds(rs.inLog()) {
		return w.space.probe()
	}
	return w.checkSpace()
}

func (w *writer) checkSpace() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(w.dir, &st); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < MinFree {
		return &refusal{fmt.Sprintf("write index: %d MiB free, %d needed", free>>20, MinFree>>20), syscall.ENOSPC}
	}
	return w.space.probe()
}
