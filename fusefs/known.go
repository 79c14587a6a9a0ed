package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxKnown is how many nodes the kernel may know by lookups. Walking a release of
// 500 images comes to as many. What it takes: docs/reliability.md.
const maxKnown = 50_000

// known are the nodes that the kernel has looked up and not forgotten. A node is
// held in memory for as long, and the kernel forgets when it is short of memory
// itself. But a name is a client's choice: a registry that is asked for a blob in
// a repository which nobody ever made looks up three directories, and there they
// are. So when there are too many the kernel is told to forget some of them,
// whichever; what is still of use it looks up again.
type known struct {
	drop func(parent uint64, name string)
	max  int

	mu       sync.Mutex // guards what follows; a leaf
	nodes    map[uint64]place
	dropping bool
}

// A place is where a node was looked up, and how often.
type place struct {
	parent  uint64
	name    string
	lookups uint64
}

func newKnown(max int, drop func(parent uint64, name string)) *known {
	return &known{max: max, drop: drop, nodes: make(map[uint64]place)}
}

// add notes that the kernel was told of a node.
func (k *known) add(node, parent uint64, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nodes[node] = place{parent, name, k.nodes[node].lookups + 1}
	if len(k.nodes) > k.max && !k.dropping {
		k.dropping = true
		// Not from here: the kernel holds the directory until it has the answer.
		go k.dropSome()
	}
}

// forget notes that the kernel has forgotten so many lookups of a node.
func (k *known) forget(node, lookups uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.nodes[node]
	if !ok {
		return
	}
	if p.lookups -= min(lookups, p.lookups); p.lookups > 0 {
		k.nodes[node] = p
		return
	}
	delete(k.nodes, node)
}

// dropSome makes room for a while. What is in use stays, open files and working
// directories, until its users are done.
func (k *known) dropSome() {
	for _, p := range k.some() {
		k.drop(p.parent, p.name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropping = false
}

func (k *known) some() []place {
	k.mu.Lock()
	defer k.mu.Unlock()
	var some []place
	for _, p := range k.nodes { // in no order, and another one each time
		if some = append(some, p); len(some) > k.max/4 {
			break
		}
	}
	return some
}

func (r *requests) Forget(node, lookups uint64) {
	r.RawFileSystem.Forget(node, lookups)
	r.known.forget(node, lookups)
}

// note keeps account of a lookup's answer.
func (r *requests) note(status fuse.Status, h *fuse.InHeader, name string, out *fuse.EntryOut) {
	if status == fuse.OK && out.NodeId != 0 {
		r.known.add(out.NodeId, h.NodeId, name)
	}
}
