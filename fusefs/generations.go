package fusefs

import "sync"

// generations tells apart a directory that was removed from the one that is
// found under its name afterwards, though nobody has made it: what is there for
// lookups comes back by itself. The kernel holds the removed one for dead as
// long as it knows it, and finds nothing in it.
type generations struct {
	mu   sync.Mutex // guards what follows
	past map[string]uint64
	base uint64 // of all paths
}

// maxPast bounds how many paths are remembered. With one more, all directories
// become others to the kernel, which costs it a lookup each.
const maxPast = 10_000

// next begins a new one at a path.
func (g *generations) next(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.past == nil {
		g.past = make(map[string]uint64)
	}
	if len(g.past) >= maxPast {
		most := uint64(0)
		for _, n := range g.past {
			most = max(most, n)
		}
		g.base += most + 1 // a new one for every path
		clear(g.past)
	}
	g.past[path]++
}

func (g *generations) of(path string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.base + g.past[path]
}
