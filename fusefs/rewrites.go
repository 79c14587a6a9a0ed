package fusefs

import (
	"sync"
	"time"
)

// rewrites remembers which committed blobs are about to be written in place.
//
// The writer must not share an inode with readers: the kernel refuses to open
// one inode both with and without passthrough, and a truncation would change
// the size that readers see. So the open for writing is answered with ESTALE,
// upon which the kernel walks the path once more (path_openat with
// LOOKUP_REVAL, fs/namei.c); that lookup is given an inode of its own.
type rewrites struct {
	mu    sync.Mutex // guards all
	until map[string]time.Time
	last  uint64
}

// window is how long a lookup is answered with the writer's inode. The kernel
// comes back at once; a caller that was killed in between does not.
const window = time.Second

func (r *rewrites) expect(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[string]time.Time)
	}
	r.until[path] = time.Now().Add(window)
}

func (r *rewrites) expected(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[path]
	if ok && time.Now().After(until) {
		delete(r.until, path)
		return false
	}
	return ok
}

// met ends what expect began.
func (r *rewrites) met(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.until, path)
}

// ino makes an inode number for a writer; tree uses no such numbers.
func (r *rewrites) ino() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	return 3<<62 | r.last
}
