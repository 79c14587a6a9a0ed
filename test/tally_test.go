package test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// A loss is something that is not as it must be after a crash.
type loss struct {
	kind kind
	text string
}

func (l loss) String() string { return string(l.kind) + ": " + l.text }

type kind string

const (
	lostImage kind = "lost image"
	lostBlob  kind = "lost blob"
	strange   kind = "strange image" // nobody has pushed it, or it was removed
	damaged   kind = "damaged blob"
	unwhole   kind = "release that is not whole"
	leftover  kind = "left over"
	unopened  kind = "store that does not open"
	unsound   kind = "store that fsck finds fault with"
)

// A tally counts what a test has done.
type tally struct {
	name     string
	rounds   int
	crashes  map[string]int // by kind and place
	underWay map[string]int // rounds in which such a request had no answer yet

	acknowledged, removed int // manifests
	pulled, blobs, lost   int
	cameBack              int // rounds in which the supervisor brought the server back
}

func newTally(name string) *tally {
	return &tally{name: name, crashes: map[string]int{}, underWay: map[string]int{}}
}

func (c *tally) crashed(power bool, where string) {
	if power {
		c.crashes["power loss "+where]++
	} else {
		c.crashes["kill "+where]++
	}
}

// testedEnough is an error if the run proves little, whatever it has not found.
func (c *tally) testedEnough(rounds int) error {
	switch {
	case c.rounds < rounds:
		return fmt.Errorf("%d rounds of %d", c.rounds, rounds)
	case c.acknowledged < rounds || c.pulled < rounds:
		return fmt.Errorf("in %d rounds %d manifests were acknowledged and %d images pulled: too few to say anything", c.rounds, c.acknowledged, c.pulled)
	case rounds >= 10 && (len(c.crashes) < 2 || c.underWay["upload"]+c.underWay["manifest"] == 0 || c.removed == 0):
		return fmt.Errorf("%d rounds had only crashes %v, with %v under way, and %d removals", c.rounds, c.crashes, c.underWay, c.removed)
	}
	return nil
}

func (c *tally) String() string {
	return fmt.Sprintf("%s: %d rounds; crashes: %s; rounds with a request under way: %s; "+
		"in %d the supervisor brought the server back; %d manifests acknowledged, %d removed, %d images and %d single blobs pulled, %d losses",
		c.name, c.rounds, list(c.crashes), list(c.underWay), c.cameBack, c.acknowledged, c.removed, c.pulled, c.blobs, c.lost)
}

func list(counts map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(all, ", ")
}

// report is what a run prints at its end.
var report tallies

type tallies struct {
	mu       sync.Mutex // guards what follows
	all      []*tally
	notes    []string
	controls []string
}

func (r *tallies) add(name string) *tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := newTally(name)
	r.all = append(r.all, c)
	return c
}

func (r *tallies) control(name, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.controls = append(r.controls, name+": "+text)
}

// note is a line of a test that counts in its own way.
func (r *tallies) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

func (r *tallies) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all)+len(r.notes)+len(r.controls) > 0 {
		fmt.Fprintf(w, "\nREGFS_SEED=%d\n", seed)
	}
	for _, c := range r.all {
		fmt.Fprintln(w, c)
	}
	for _, text := range r.notes {
		fmt.Fprintln(w, text)
	}
	for _, c := range r.controls {
		fmt.Fprintln(w, "control", c)
	}
}
