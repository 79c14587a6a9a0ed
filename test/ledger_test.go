package test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A ledger notes what clients ask of a registry and what it answers, and so
// knows what must be there after a crash, and what may be.
//
// A manifest that was acknowledged must be there. One that was asked for and
// not acknowledged may be. A removal may be undone until something that was
// asked for after its acknowledgement is acknowledged itself: the index writes
// in the order of the changes.
type ledger struct {
	mu       sync.Mutex // guards what follows
	tags     map[tagName]*tagState
	removals []removal          // acknowledged, and not yet known to be durable
	blobs    map[[2]string]bool // repository, digest: acknowledged since the last crash
	touched  map[tagName]bool   // since the last crash
	underWay map[string]int     // requests without an answer, by kind
	answers  int                // since the last crash
	reached  chan struct{}      // closed when answers comes to goal
	goal     int

	acknowledged, removed int // manifests, in all
}

type tagName struct{ repo, tag string }

func (n tagName) String() string { return n.repo + ":" + n.tag }

// A tagState is what a tag points at; "" is that there is no such tag.
type tagState struct {
	sure    digest.Digest
	maybe   []digest.Digest // what it may point at instead
	changes int
}

func (s *tagState) allows(d digest.Digest) bool { return s.sure == d || slices.Contains(s.maybe, d) }

type removal struct {
	of      *tagState
	changes int // of the tag, when it was removed
}

func newLedger() *ledger {
	l := &ledger{tags: map[tagName]*tagState{}}
	l.begin(0)
	return l
}

// begin starts a round; the channel is closed after so many answers.
func (l *ledger) begin(goal int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removals, l.answers, l.goal = nil, 0, goal
	l.blobs, l.touched, l.underWay = map[[2]string]bool{}, map[tagName]bool{}, map[string]int{}
	l.reached = make(chan struct{})
	return l.reached
}

// busy returns the kinds of requests that have no answer yet.
func (l *ledger) busy() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.underWay))
}

// A recorder keeps the ledger of what goes through it.
type recorder struct {
	next   http.RoundTripper
	ledger *ledger
}

func (rec *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	kind, note, err := rec.ledger.asked(req)
	if err != nil {
		return nil, err
	}
	resp, err := rec.next.RoundTrip(req)
	rec.ledger.answered(kind, err == nil)
	if err == nil && (resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusAccepted) {
		note()
	}
	return resp, err
}

// counts returns how many manifests were acknowledged and removed in all.
func (l *ledger) counts() (acknowledged, removed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acknowledged, l.removed
}

// asked notes a request. What it returns notes that it was acknowledged.
func (l *ledger) asked(req *http.Request) (kind string, acknowledged func(), err error) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	kind, acknowledged = "other", func() {}
	if repo, ref, is := strings.Cut(path, "/manifests/"); is && req.Method == http.MethodPut {
		var d digest.Digest
		d, err = digestOf(req)
		kind, acknowledged = "manifest", l.put(tagName{repo, ref}, d)
	} else if is && req.Method == http.MethodDelete {
		kind, acknowledged = "removal", l.remove(repo, digest.Digest(ref))
	} else if repo, _, is := strings.Cut(path, "/blobs/uploads/"); is && req.Method != http.MethodHead {
		kind = "upload"
		if d := req.URL.Query().Get("digest"); req.Method == http.MethodPut {
			acknowledged = func() { l.mu.Lock(); l.blobs[[2]string{repo, d}] = true; l.mu.Unlock() }
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay[kind]++
	return kind, acknowledged, err
}

func (l *ledger) answered(kind string, really bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underWay[kind]--; l.underWay[kind] <= 0 {
		delete(l.underWay, kind)
	}
	if !really {
		return
	}
	if l.answers++; l.answers == l.goal {
		close(l.reached)
	}
}

// digestOf returns the digest of a request's body.
func digestOf(req *http.Request) (digest.Digest, error) {
	body, err := io.ReadAll(req.Body)
	req.Body = io.NopCloser(bytes.NewReader(body))
	return digest.FromBytes(body), err
}

func (l *ledger) tag(n tagName) *tagState {
	l.touched[n] = true
	s := l.tags[n]
	if s == nil {
		s = new(tagState)
		l.tags[n] = s
	}
	s.changes++
	return s
}

func (l *ledger) put(n tagName, d digest.Digest) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, before := l.tag(n), slices.Clone(l.removals)
	s.maybe = append(s.maybe, d)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.sure, s.maybe = d, nil
		l.acknowledged++
		for _, r := range before {
			if r.of.changes == r.changes {
				r.of.sure, r.of.maybe = "", nil
			}
		}
	}
}

// remove notes the removal of a manifest, and of all its tags.
func (l *ledger) remove(repo string, d digest.Digest) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone []removal
	for n, s := range l.tags {
		if n.repo == repo && s.allows(d) {
			l.tag(n)
			s.maybe = append(s.maybe, "")
			gone = append(gone, removal{s, s.changes})
		}
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.removals = append(l.removals, gone...)
		l.removed++
	}
}

// settle compares the ledger with what is there after a crash, and takes that
// for what is.
func (l *ledger) settle(there map[tagName]digest.Digest) (losses []loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, s := range l.tags {
		if is := there[n]; !s.allows(is) {
			losses = append(losses, loss{lostImage, fmt.Sprintf("%s: is %q, was %q, may be %q", n, is, s.sure, s.maybe)})
		}
		s.sure, s.maybe = there[n], nil
	}
	for n := range there {
		if l.tags[n] == nil {
			losses = append(losses, loss{strange, fmt.Sprintf("%s: nobody has pushed it", n)})
		}
	}
	return losses
}
