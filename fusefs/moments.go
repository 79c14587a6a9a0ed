package fusefs

import (
	"context"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// moments remembers that for a moment a path is something else to one thread
// than to all others. The kernel's requests of one system call come from one
// thread; a moment spans two such requests, or two calls in a row.
//
// There are two uses:
//
// Rewrites. Who writes a committed blob in place must not share an inode with
// its readers: the kernel refuses to open one inode both with and without
// passthrough, and a truncation would change the size that readers see. So the
// open for writing is answered with ESTALE, upon which the kernel walks the
// path once more (path_openat with LOOKUP_REVAL, fs/namei.c); that lookup is
// given an inode of its own.
//
// Removals. A blob that a linked manifest needs stays when it is removed. To
// its remover it is gone for a moment, so that "remove, and make anew" works:
// GNU tar does that when it unpacks over what is there, and without an end if
// the file does not go.
type moments struct {
	mu    sync.Mutex // guards until
	until map[moment]time.Time
}

type moment struct {
	path   string
	thread uint32
}

// span is how long a moment lasts at most. The kernel comes back at once, and
// so does tar; a caller that was killed in between does not.
const span = time.Second

func of(ctx context.Context, path string) moment {
	if caller, ok := fuse.FromContext(ctx); ok {
		return moment{path, caller.Pid} // of the thread, in spite of its name
	}
	return moment{path: path}
}

func (m *moments) begin(at moment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for old, until := range m.until {
		if now.After(until) {
			delete(m.until, old)
		}
	}
	if m.until == nil {
		m.until = make(map[moment]time.Time)
	}
	m.until[at] = now.Add(span)
}

func (m *moments) lasts(at moment) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.until[at]
	return ok && time.Now().Before(until)
}

func (m *moments) end(at moment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, at)
}
