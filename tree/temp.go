package tree

import (
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// A temp is a file that stands beside a blob or a link until it is renamed
// over it, as 3.x writes everything small. It needs no directory of its own on
// the disk, and does not outlive the server: nobody has a use for half a
// rename.
type temp struct {
	fs  *FS
	ino atomic.Uint64 // another with each name, as a node stays where it was found

	mu     sync.RWMutex // guards what follows; held for reading while the file is in use
	w      *scratch
	sealed bool   // being committed, or gone: no more writes
	heir   Handle // what it has become, for handles that read on
	users  int    // handles, and one for the name
}

// maxTemps bounds what they take of memory, at 4 KiB each: 256 MiB. A registry
// has one for each file that it is writing just now; those of a registry that was
// killed stay until they are removed, or the mount is.
const maxTemps = 1 << 16

func (t *FS) createTemp(p string) (Handle, error) {
	f := &temp{fs: t, w: newScratch(t.blobs), users: 2}
	f.ino.Store(t.privateIno())
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.temps.get(p); ok {
		return nil, fs.ErrExist
	}
	if t.tempCount >= maxTemps {
		t.Log.Error("refused", "path", p, "err", "there are too many unfinished files; remove the .tmp files, or mount the release anew")
		return nil, syscall.ENOSPC
	}
	t.tempCount++
	t.temps.set(p, f)
	return &tempHandle{f}, nil
}

func (t *FS) openTemp(p string, flags int) (Handle, error) {
	f, err := t.temp(p)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		return nil, fs.ErrNotExist
	}
	if flags&os.O_TRUNC != 0 {
		if err := f.w.Truncate(0); err != nil {
			return nil, err
		}
	}
	f.users++
	return &tempHandle{f}, nil
}

func (t *FS) temp(p string) (*temp, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.temps.get(p)
	if !ok {
		return nil, fs.ErrNotExist
	}
	return f, nil
}

func (t *FS) statTemp(p string) (Attr, error) {
	f, err := t.temp(p)
	if err != nil {
		return Attr{}, err
	}
	return f.stat()
}

// takeTemp removes a temp's name. The caller has the name's use of it now.
func (t *FS) takeTemp(p string) (*temp, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.temps.get(p)
	if !ok {
		return nil, fs.ErrNotExist
	}
	t.temps.remove(p)
	t.tempCount--
	return f, nil
}

// putTemp gives a temp a name, in place of what had it.
func (t *FS) putTemp(p string, f *temp) {
	t.mu.Lock()
	old, ok := t.temps.get(p)
	if !ok {
		t.tempCount++
	}
	t.temps.set(p, f)
	t.mu.Unlock()
	if ok {
		old.release()
	}
}

func (f *temp) stat() (Attr, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.heir != nil {
		return f.heir.Stat()
	}
	a, err := f.fs.scratchAttr(f.w, f.ino.Load())
	a.Kind = Temp
	return a, err
}

func (t *FS) scratchAttr(s *scratch, ino uint64) (Attr, error) {
	size, modified, err := s.stat()
	return t.fileAttr(Small, ino, size, modified), err
}

// seal ends all writing, or begins it again. The lock is not held while the
// temp is committed, so that a reader need not wait.
func (f *temp) seal(sealed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = sealed
}

// release ends one use; the last one throws the file away unless it has become
// something else.
func (f *temp) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users > 0 {
		return nil
	}
	f.sealed = true
	if f.heir != nil {
		return f.heir.Close()
	}
	return f.w.Close()
}

// become lets the handles that are still open read what is at the path now.
func (f *temp) become(p string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Close()
	if f.users == 1 {
		return nil // only the name's, which goes next
	}
	heir, err := f.fs.Open(p, os.O_RDONLY)
	f.heir = heir
	return err
}

type tempHandle struct{ *temp }

func (h *tempHandle) ReadAt(p []byte, off int64) (int, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.heir != nil {
		return h.heir.ReadAt(p, off)
	}
	return h.w.ReadAt(p, off)
}

func (h *tempHandle) WriteAt(p []byte, off int64) (int, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.sealed {
		return 0, syscall.EBADF
	}
	return h.w.WriteAt(p, off)
}

func (h *tempHandle) Truncate(size int64) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.sealed {
		return syscall.EBADF
	}
	return h.w.Truncate(size)
}

func (h *tempHandle) Stat() (Attr, error) { return h.stat() }

// Sync leaves the disk alone: what a temp holds counts from its rename on, and
// that makes it durable.
func (h *tempHandle) Sync() error    { return nil }
func (h *tempHandle) Flush() error   { return nil }
func (h *tempHandle) Close() error   { return h.release() }
func (h *tempHandle) File() *os.File { return nil }
