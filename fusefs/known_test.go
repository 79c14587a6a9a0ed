package fusefs

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// What the kernel is told to forget, it forgets at once here; more than that, and
// the bound would mean nothing.
func TestKnownIsBounded(t *testing.T) {
	const bound = 100
	var k *known
	names := make(map[string]uint64) // what a kernel has
	var mu sync.Mutex
	k = newKnown(bound, func(_ uint64, name string) {
		mu.Lock()
		defer mu.Unlock()
		if node, ok := names[name]; ok {
			delete(names, name)
			k.forget(node, 1)
		}
	})
	for node := range uint64(10_000) {
		name := fmt.Sprint(node)
		mu.Lock()
		names[name] = node
		mu.Unlock()
		k.add(node, 1, name)
		if k.count() > bound {
			for deadline := time.Now().Add(10 * time.Second); k.isDropping(); time.Sleep(10 * time.Microsecond) {
				if time.Now().After(deadline) {
					t.Fatal("dropping has no end")
				}
			}
		}
		if n := k.count(); n > bound {
			t.Fatalf("%d nodes are known", n)
		}
	}
}

// A node is known until each of its lookups is forgotten; what was never looked
// up is none.
func TestKnownCountsLookups(t *testing.T) {
	k := newKnown(10, nil)
	k.add(7, 1, "a")
	k.add(7, 1, "a")
	k.forget(7, 1)
	k.forget(8, 1)
	if k.count() != 1 {
		t.Errorf("%d are known", k.count())
	}
	k.forget(7, 5) // also those by CREATE
	if k.count() != 0 {
		t.Errorf("%d are known", k.count())
	}
}

func (k *known) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.nodes)
}

func (k *known) isDropping() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dropping
}
