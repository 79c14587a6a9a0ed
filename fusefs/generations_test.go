package fusefs

import (
	"fmt"
	"testing"
)

// However many directories are removed and found again, a generation is never
// given twice to one path, and they are not all remembered.
func TestGenerationsAreBounded(t *testing.T) {
	var g generations
	last := uint64(0)
	for i := range 3*maxPast + 10 {
		g.next(fmt.Sprint(i))
		if i%7 == 0 {
			g.next("often")
			if now := g.of("often"); now <= last {
				t.Fatalf("generation %d after %d", now, last)
			}
		}
		last = g.of("often")
		if len(g.past) > maxPast {
			t.Fatalf("%d paths are remembered", len(g.past))
		}
	}
}
