package fusefs

import (
	"maps"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// requests stands between the kernel and go-fuse's tree of nodes. It counts
// what the kernel asks, by the names of fuse(4)'s requests, and says of a name
// that is absent how long that holds, which nodes cannot, and keeps account of
// what the kernel knows.
//
// FORGET is not counted: nobody waits for it.
type requests struct {
	fuse.RawFileSystem
	known *known

	mu     sync.Mutex // guards counts; a leaf
	counts map[string]uint64
}

func (r *requests) count(opcode string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[opcode]++
}

// Requests returns how many requests the kernel has sent so far, by opcode.
func (m *Mount) Requests() map[string]uint64 {
	m.requests.mu.Lock()
	defer m.requests.mu.Unlock()
	return maps.Clone(m.requests.counts)
}

// Lookup turns an absence that may be kept into the form that the kernel keeps:
// an answer without a node, but with a timeout.
func (r *requests) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	r.count("LOOKUP")
	status := r.RawFileSystem.Lookup(cancel, h, name, out)
	r.note(status, h, name, out)
	if status == fuse.ENOENT && out.EntryTimeout() > 0 {
		return fuse.OK
	}
	return status
}

func (r *requests) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	r.count("GETATTR")
	return r.RawFileSystem.GetAttr(cancel, in, out)
}

func (r *requests) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	r.count("SETATTR")
	return r.RawFileSystem.SetAttr(cancel, in, out)
}

func (r *requests) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	r.count("MKDIR")
	return r.RawFileSystem.Mkdir(cancel, in, name, out)
}

func (r *requests) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	r.count("UNLINK")
	return r.RawFileSystem.Unlink(cancel, h, name)
}

func (r *requests) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	r.count("RMDIR")
	return r.RawFileSystem.Rmdir(cancel, h, name)
}

func (r *requests) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	r.count("RENAME")
	return r.RawFileSystem.Rename(cancel, in, from, to)
}

func (r *requests) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	r.count("LINK")
	return r.RawFileSystem.Link(cancel, in, name, out)
}

func (r *requests) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	r.count("SYMLINK")
	return r.RawFileSystem.Symlink(cancel, h, target, name, out)
}

func (r *requests) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	r.count("READLINK")
	return r.RawFileSystem.Readlink(cancel, h)
}

func (r *requests) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	r.count("CREATE")
	return r.RawFileSystem.Create(cancel, in, name, out)
}

func (r *requests) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	r.count("OPEN")
	return r.RawFileSystem.Open(cancel, in, out)
}

func (r *requests) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r.count("READ")
	return r.RawFileSystem.Read(cancel, in, buf)
}

func (r *requests) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	r.count("RELEASE")
	r.RawFileSystem.Release(cancel, in)
}

func (r *requests) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	r.count("WRITE")
	return r.RawFileSystem.Write(cancel, in, data)
}

func (r *requests) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	r.count("WRITE")
	return r.RawFileSystem.Writev(cancel, in, data)
}

func (r *requests) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	r.count("FLUSH")
	return r.RawFileSystem.Flush(cancel, in)
}

func (r *requests) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	r.count("FSYNC")
	return r.RawFileSystem.Fsync(cancel, in)
}

func (r *requests) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	r.count("FALLOCATE")
	return r.RawFileSystem.Fallocate(cancel, in)
}

func (r *requests) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	r.count("OPENDIR")
	return r.RawFileSystem.OpenDir(cancel, in, out)
}

func (r *requests) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	r.count("READDIR")
	return r.RawFileSystem.ReadDir(cancel, in, out)
}

func (r *requests) ReleaseDir(in *fuse.ReleaseIn) {
	r.count("RELEASEDIR")
	r.RawFileSystem.ReleaseDir(in)
}

func (r *requests) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	r.count("FSYNCDIR")
	return r.RawFileSystem.FsyncDir(cancel, in)
}

func (r *requests) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	r.count("STATFS")
	return r.RawFileSystem.StatFs(cancel, h, out)
}
