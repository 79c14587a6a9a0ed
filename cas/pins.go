package cas

import (
	"errors"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Pins are blobs that somebody counts on, and that therefore stay: see
// [Store.Condemn]. A set ends with [Pins.Release]; while removals are under way
// (see [Store.KeepPins]) what it held stays pinned still. Its methods may be
// called concurrently.
//
// Whoever looks for a blob and goes by the answer looks through a set, so that
// a removal comes before the look or not at all. Whoever commits a blob pins it
// before the Commit.
type Pins struct {
	store *Store
	why   string

	// Guarded by store.pinning.mu.
	held  map[digest.Digest]struct{}
	asked map[digest.Digest]int // looks under way: how many
	all   bool
}

// pinning is what a store knows of pins and of removals.
type pinning struct {
	// mu guards what follows and the fields of all sets. It is a leaf, and is
	// not held across I/O.
	mu   sync.Mutex
	sets map[*Pins]struct{}
	late []*Pins // released, and in force until nobody keeps them
	keep int     // how many keep them

	// condemned are blobs that are being removed. The channel is closed when
	// that is over, and who wants to pin one waits for it.
	condemned map[digest.Digest]chan struct{}
}

// NewPins returns an empty set. Why is what it is for, in a few words for
// whoever asks why a blob stays.
func (s *Store) NewPins(why string) *Pins {
	p := &Pins{store: s, why: why, held: make(map[digest.Digest]struct{}), asked: make(map[digest.Digest]int)}
	s.pinning.mu.Lock()
	defer s.pinning.mu.Unlock()
	if s.pinning.sets == nil {
		s.pinning.sets = make(map[*Pins]struct{})
	}
	s.pinning.sets[p] = struct{}{}
	return p
}

// Hold calls f with the blob pinned. It stays pinned if f returns nil, and only
// then: who asks for blobs that there are not costs no memory.
func (p *Pins) Hold(d digest.Digest, f func() error) error {
	if p.ask(d) {
		return f()
	}
	err := f()
	p.answer(d, err == nil)
	return err
}

// Add pins a blob, there or not. It waits for a removal of it that has begun.
func (p *Pins) Add(d digest.Digest) {
	if !p.ask(d) {
		p.answer(d, true)
	}
}

// ask pins a blob for the time being. It reports whether it is held anyway.
func (p *Pins) ask(d digest.Digest) (held bool) {
	pinning := &p.store.pinning
	pinning.mu.Lock()
	defer pinning.mu.Unlock()
	for {
		if _, held := p.held[d]; held {
			return true
		}
		done, ok := pinning.condemned[d]
		if !ok {
			p.asked[d]++
			return false
		}
		pinning.mu.Unlock()
		<-done
		pinning.mu.Lock()
	}
}

func (p *Pins) answer(d digest.Digest, hold bool) {
	p.store.pinning.mu.Lock()
	defer p.store.pinning.mu.Unlock()
	if hold {
		p.held[d] = struct{}{}
	}
	if p.asked[d]--; p.asked[d] == 0 {
		delete(p.asked, d)
	}
}

// AddAll pins every blob, until the set is released: for users whose lookups
// nobody sees. It waits for the removals that have begun.
func (p *Pins) AddAll() {
	pinning := &p.store.pinning
	pinning.mu.Lock()
	defer pinning.mu.Unlock()
	p.all = true
	for len(pinning.condemned) > 0 {
		for _, done := range pinning.condemned {
			pinning.mu.Unlock()
			<-done
			pinning.mu.Lock()
			break
		}
	}
}

// Release ends the set. Releasing it again does nothing.
func (p *Pins) Release() {
	pinning := &p.store.pinning
	pinning.mu.Lock()
	defer pinning.mu.Unlock()
	if _, ok := pinning.sets[p]; !ok {
		return
	}
	if pinning.keep > 0 {
		pinning.late = append(pinning.late, p)
		return
	}
	delete(pinning.sets, p)
}

// KeepPins lets sets that are released stay in force until end is called. Who
// finds out what nobody needs calls it first: of what a user has linked and
// left meanwhile he knows nothing but the pins.
func (s *Store) KeepPins() (end func()) {
	s.pinning.mu.Lock()
	defer s.pinning.mu.Unlock()
	s.pinning.keep++
	return sync.OnceFunc(func() {
		s.pinning.mu.Lock()
		defer s.pinning.mu.Unlock()
		if s.pinning.keep--; s.pinning.keep > 0 {
			return
		}
		for _, p := range s.pinning.late {
			delete(s.pinning.sets, p)
		}
		s.pinning.late = nil
	})
}

// Pinned says whether a blob is pinned at this moment, and what for.
func (s *Store) Pinned(d digest.Digest) (why string, pinned bool) {
	s.pinning.mu.Lock()
	defer s.pinning.mu.Unlock()
	return s.pinning.pinned(d)
}

// pinned looks through all sets. mu is held. One that has the blob itself is a
// better answer than one that has all.
func (p *pinning) pinned(d digest.Digest) (why string, pinned bool) {
	for set := range p.sets {
		_, held := set.held[d]
		if held || set.asked[d] > 0 {
			return set.why, true
		}
		if set.all && (!pinned || set.why < why) {
			why, pinned = set.why, true
		}
	}
	return why, pinned
}

// Stat is the store's Stat, and pins what it finds.
func (p *Pins) Stat(d digest.Digest) (info Info, err error) {
	err = p.Hold(d, func() error {
		info, err = p.store.Stat(d)
		return err
	})
	return info, err
}

// Open is the store's Open, and pins what it finds.
func (p *Pins) Open(d digest.Digest) (f *os.File, err error) {
	err = p.Hold(d, func() error {
		f, err = p.store.Open(d)
		return err
	})
	return f, err
}

// ErrPinned is a removal that was refused.
var ErrPinned = errors.New("blob is in use")
