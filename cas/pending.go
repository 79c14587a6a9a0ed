package cas

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// pendingDir has the blobs that were committed and are not at their places yet,
// each under its digest. All their names are made durable by one sync, as the
// directory is always the same. Places need none: a blob that is not found at
// its place after a power loss is found here, proven, and moved on.
const pendingDir = tempDir + "/pending"

func pendingPath(d digest.Digest) string { return path.Join(pendingDir, d.String()) }

// maxFresh bounds how many blobs wait for a flush: each has a descriptor.
const maxFresh = 256

// A pendingBlob is a blob like any other, but for its place.
type pendingBlob struct {
	digest digest.Digest
	size   int64
	here   chan struct{} // closed when its Commit is done with it
	err    error         // why that has failed; set before here is closed

	// file is the one by which the content was proven. One that is opened later
	// may not be told of what could not be written back.
	file *os.File

	arrived bool // it has its pending name; guarded by the pending's mu

	// For the flush that runs.
	unsynced error // why the content could not be brought to the disk
	durable  bool  // content and name are there; what is left is the place
}

// Pending is what the store's one writer knows of pendingDir. A blob that is
// not among them is at its place or nowhere.
type pending struct {
	mu     sync.Mutex // guards what follows; not held across I/O
	blobs  map[digest.Digest]*pendingBlob
	fresh  int                     // those that no flush has begun with
	lost   map[digest.Digest]error // see Store.Lost
	closed bool                    // nobody flushes any more

	running, next *flush // nil if there is none
	busy          bool   // a goroutine runs flushes
	lazy          bool   // a timer will
}

func newPending() pending {
	return pending{blobs: make(map[digest.Digest]*pendingBlob), lost: make(map[digest.Digest]error)}
}

func (p *pending) has(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blobs[d] != nil
}

// reserve makes room for a blob that is about to arrive, or returns another one
// that has the digest.
func (p *pending) reserve(b *pendingBlob) (other *pendingBlob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.blobs[b.digest]; other != nil {
		return other
	}
	p.blobs[b.digest] = b
	return nil
}

// arrive ends what reserve began, and says how many blobs wait for a flush. No
// file is there if the blob could not be had, or without an error, if it turned
// out to be at its place.
func (s *Store) arrive(b *pendingBlob, file *os.File, err error) (fresh int) {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.err = err; file == nil {
		delete(p.blobs, b.digest)
	} else {
		b.file, b.arrived = file, true
		p.fresh++
		delete(p.lost, b.digest)
		s.flushLater()
	}
	close(b.here)
	return p.fresh
}

// again has blobs flushed once more.
func (p *pending) again(batch []*pendingBlob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range batch {
		if p.blobs[b.digest] == b {
			p.fresh++
		}
	}
}

// arrived returns the blobs that are in the directory. mu is held.
func (p *pending) arrived() (all []*pendingBlob) {
	for _, b := range p.blobs {
		if b.arrived {
			all = append(all, b)
		}
	}
	return all
}

// after returns the pending blobs that come after d, in order.
func (p *pending) after(d digest.Digest) (all []digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.arrived() {
		if b.digest > d {
			all = append(all, b.digest)
		}
	}
	slices.Sort(all)
	return all
}

// leave takes a blob out whose file has left the directory.
func (p *pending) leave(b *pendingBlob, lost error) {
	p.mu.Lock()
	delete(p.blobs, b.digest)
	if lost != nil {
		p.lost[b.digest] = lost
	}
	p.mu.Unlock()
	b.file.Close()
}

// close waits for the flush that runs, and prevents others. What is pending
// then is for the next process.
func (p *pending) close() {
	p.mu.Lock()
	p.closed = true
	last := p.running
	if p.next != nil {
		last = p.next
	}
	p.mu.Unlock()
	if last != nil {
		<-last.settled
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.arrived() {
		b.file.Close()
	}
}

// Lost tells of blobs that were committed and then thrown away, because they
// could not be brought to the disk; until they are committed anew. Who asks
// after a Flush, and is told of none, can promise that they last.
func (s *Store) Lost(blobs ...digest.Digest) error {
	s.pending.mu.Lock()
	defer s.pending.mu.Unlock()
	for _, d := range blobs {
		if err := s.pending.lost[d]; err != nil {
			return err
		}
	}
	return nil
}

// lose throws a blob away that did not reach the disk. After a sync that
// failed, the next one may succeed although the content is lost: the kernel
// reports it once.
func (s *Store) lose(b *pendingBlob) error {
	err := failure("sync blob", b.digest.String(), b.unsynced)
	if unlinkErr := s.dir.Unlink(pendingPath(b.digest)); unlinkErr != nil {
		err = errors.Join(err, failure("discard blob", b.digest.String(), unlinkErr))
	}
	s.pending.leave(b, err)
	return err
}

// place moves a durable blob to its place.
func (s *Store) place(b *pendingBlob) error {
	from, to := pendingPath(b.digest), blobPath(b.digest)
	err := s.dir.MkdirAll(path.Dir(to), dirMode)
	if err == nil {
		err = s.dir.RenameNew(from, to)
	}
	if errors.Is(err, fs.ErrExist) {
		err = s.replace(b, from, to)
	}
	if err != nil {
		return failure("store blob", b.digest.String(), err)
	}
	s.pending.leave(b, nil)
	return nil
}

// replace takes the place of a damaged blob. One that is whole may be open, and
// stays.
func (s *Store) replace(b *pendingBlob, from, to string) error {
	whole, err := s.stands(b.digest, b.size)
	if err != nil {
		return err
	}
	if whole {
		return s.dir.Unlink(from)
	}
	return s.dir.Rename(from, to, 0)
}

// stands says whether a blob is at its place, undamaged as far as its size
// tells.
func (s *Store) stands(d digest.Digest, size int64) (bool, error) {
	info, err := s.statAt(blobPath(d), d)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size == size, err
}
