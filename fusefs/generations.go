package fusefs

import "sync"

// generations tells apart a directory that was removed from the one that is
// found under its name afterwards, though nobody has made it: what is there for
// lookups comes back by itself. The kernel holds the removed one for dead as
// long as it knows it, and finds nothing in it.
type generations struct {
	mu   sync.Mutex // guards past
	past map[string]uint64
}

// next begins a new one at a path.
func (g *generations) next(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.past == nil {
		g.past = make(map[string]uint64)
	}
	g.past[path]++
}

func (g *generations) of(path string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.past[path]
}
