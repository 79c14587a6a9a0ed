package fusefs

import (
	"context"
	"io"
	"sync/atomic"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/tree"
)

// A file is any regular file. Its kind never changes: a name that comes to
// mean something else gets another node at its next lookup.
type file struct {
	node
	kind tree.Kind
	// found is the path at which the file was looked up first.
	found string
	// committed is the path of the blob or the link that the file has become by
	// a rename. The kernel was let keep its name, and goes on to find this node
	// under the new one, where another should stand. It is told to forget that;
	// what comes by the name before it has heard is told to look again.
	committed atomic.Pointer[string]
	// last is the handle opened last, for a file that has no name yet: the
	// kernel sends fchmod(2) and its like without a handle.
	last atomic.Pointer[handle]
}

// path is where to find the file now. What is of the registry's tree stays
// where it was found: go-fuse takes the name from a node as soon as a lookup
// gives it to another, while the kernel may be about to use this one.
func (f *file) path() string {
	if f.kind == tree.Plain {
		return f.node.path()
	}
	return f.found
}

// errno is ESTALE for a file that has lost its name since the kernel looked it
// up. The kernel looks again then: the name may be another file's by now.
func (f *file) errno(err error) syscall.Errno {
	e := errno(err)
	if _, parent := f.Parent(); e == syscall.ENOENT && parent == nil {
		return syscall.ESTALE
	}
	return e
}

var _ gofuse.NodeOpener = (*file)(nil)

// constant says whether a file's content never changes. The kernel may keep it,
// and who writes to it is given another inode.
func constant(k tree.Kind) bool { return k == tree.Blob || k == tree.Link }

// Open of a committed blob or link for writing says ESTALE: the kernel looks the name
// up again, and is given another inode (see moments).
func (f *file) Open(ctx context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	p := f.path()
	writes := flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0
	committed := f.committed.Load()
	if committed != nil {
		p = *committed
	}
	if committed != nil && !writes {
		return nil, 0, syscall.ESTALE
	}
	if constant(f.kind) && writes || committed != nil {
		// The kernel looks again only once, so that lookup must not give the blob.
		f.mount.rewrites.begin(of(ctx, p))
		return nil, 0, syscall.ESTALE
	}
	h, err := f.tree().Open(p, int(flags))
	if err != nil {
		e := f.errno(err)
		if e == syscall.ENOENT && writes {
			e = syscall.ESTALE // removed since it was found; with O_CREAT the kernel comes back to make it
		}
		return nil, 0, e
	}
	if f.kind == tree.Small && writes {
		f.mount.rewrites.end(of(ctx, p))
	}
	return f.opened(h), f.mount.openFlags(f.kind, flags), 0
}

func (f *file) opened(h tree.Handle) *handle {
	open := &handle{Handle: h, file: f}
	f.last.Store(open)
	return open
}

var _ gofuse.NodeGetattrer = (*file)(nil)

// Getattr asks the open file first, which may have no name any more. For a
// small file the name comes first: go-fuse offers any open handle, and that
// may be somebody's draft.
func (f *file) Getattr(_ context.Context, fh gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	h, open := fh.(*handle)
	if open && f.kind != tree.Small {
		return h.getattr(out)
	}
	if f.committed.Load() != nil {
		return syscall.ESTALE
	}
	a, err := f.tree().Stat(f.path())
	if err != nil && open {
		return h.getattr(out)
	}
	fill(&out.Attr, a)
	out.SetTimeout(attrTimeout(f.kind))
	return f.errno(err)
}

var _ gofuse.NodeSetattrer = (*file)(nil)

func (f *file) Setattr(_ context.Context, fh gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	h, open := fh.(*handle)
	if !open && f.committed.Load() != nil {
		return syscall.ESTALE
	}
	if !open {
		e := f.setattr(f.path(), in, out)
		if h = f.last.Load(); e == syscall.ENOENT && h != nil {
			return h.getattr(out)
		}
		return e
	}
	if size, ok := in.GetSize(); ok {
		if err := h.Truncate(int64(size)); err != nil {
			return errno(err)
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	const others = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&others != 0 && f.kind == tree.Plain {
		if e := f.setattr(f.path(), in, out); e != 0 {
			return e
		}
	}
	return h.getattr(out)
}

// A handle is an open file of the tree.
type handle struct {
	tree.Handle
	file *file
}

func (h *handle) getattr(out *fuse.AttrOut) syscall.Errno {
	a, err := h.Stat()
	fill(&out.Attr, a)
	out.SetTimeout(attrTimeout(a.Kind))
	return errno(err)
}

var _ gofuse.FilePassthroughFder = (*handle)(nil)

func (h *handle) PassthroughFd() (int, bool) {
	f := h.File()
	if f == nil || !h.file.mount.passthrough {
		return 0, false
	}
	return int(f.Fd()), true
}

var _ gofuse.FileReader = (*handle)(nil)

func (h *handle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if f := h.File(); f != nil {
		return fuse.ReadResultFd(f.Fd(), off, len(dest)), 0
	}
	n, err := h.ReadAt(dest, off)
	if err != nil && err != io.EOF {
		return nil, errno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

var _ gofuse.FileWriter = (*handle)(nil)

func (h *handle) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, err := h.WriteAt(data, off)
	return uint32(n), errno(err)
}

var _ gofuse.FileFlusher = (*handle)(nil)

func (h *handle) Flush(context.Context) syscall.Errno { return errno(h.Handle.Flush()) }

var _ gofuse.FileFsyncer = (*handle)(nil)

func (h *handle) Fsync(context.Context, uint32) syscall.Errno { return errno(h.Sync()) }

var _ gofuse.FileReleaser = (*handle)(nil)

func (h *handle) Release(context.Context) syscall.Errno {
	h.file.last.CompareAndSwap(h, nil)
	return errno(h.Close())
}

var _ gofuse.FileAllocater = (*handle)(nil)

func (h *handle) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	f := h.File()
	if f == nil {
		return syscall.EOPNOTSUPP
	}
	return errno(syscall.Fallocate(int(f.Fd()), mode, int64(off), int64(size)))
}
