package fusefs

import (
	"context"
	"path"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/tree"
)

// A dir is a directory, the registry's or a plain one.
type dir struct{ node }

func (d *dir) child(name string) string { return path.Join(d.path(), name) }

var _ gofuse.NodeLookuper = (*dir)(nil)

func (d *dir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	p := d.child(name)
	if d.mount.removals.lasts(of(ctx, p)) {
		return nil, syscall.ENOENT
	}
	a, err := d.tree().Stat(p)
	if err != nil {
		out.SetEntryTimeout(absenceTimeout(p))
		return nil, errno(err)
	}
	if constant(a.Kind) && d.mount.rewrites.lasts(of(ctx, p)) {
		a.Kind, a.Ino, a.Settled = tree.Small, d.mount.privateIno(), false
	}
	return d.add(ctx, p, a, out), 0
}

var _ gofuse.NodeGetattrer = (*dir)(nil)

func (d *dir) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	a, err := d.tree().Stat(d.path())
	fill(&out.Attr, a)
	out.SetTimeout(attrTimeout(tree.Dir))
	return errno(err)
}

var _ gofuse.NodeSetattrer = (*dir)(nil)

func (d *dir) Setattr(_ context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return d.setattr(d.path(), in, out)
}

var _ gofuse.NodeReaddirer = (*dir)(nil)

// Readdir is written out because go-fuse's own lists every child that was ever
// looked up, and a lookup must not show in a listing.
func (d *dir) Readdir(context.Context) (gofuse.DirStream, syscall.Errno) {
	list, e := d.list()
	if e != 0 {
		return nil, e // and not a listing of nothing, which would be closed
	}
	return &listing{list, d}, 0
}

// A listing is what readdir shows of a directory, as it was when the reading
// began. Rewound, it is read anew.
type listing struct {
	gofuse.DirStream
	dir *dir
}

var _ gofuse.FileSeekdirer = (*listing)(nil)

func (l *listing) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	if off > 0 {
		return l.DirStream.(gofuse.FileSeekdirer).Seekdir(ctx, off)
	}
	list, e := l.dir.list()
	if e == 0 {
		l.DirStream = list
	}
	return e
}

func (d *dir) list() (gofuse.DirStream, syscall.Errno) {
	entries, err := d.tree().ReadDir(d.path())
	if err != nil {
		return nil, errno(err)
	}
	list := make([]fuse.DirEntry, len(entries))
	for i, e := range entries {
		list[i] = fuse.DirEntry{Name: e.Name, Mode: modeBits(e.Type), Ino: e.Ino}
	}
	return gofuse.NewListDirStream(list), 0
}

var _ gofuse.NodeMkdirer = (*dir)(nil)

func (d *dir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	a, err := d.tree().Mkdir(d.child(name), fileMode(mode), owner(ctx))
	if err != nil {
		return nil, errno(err)
	}
	return d.add(ctx, d.child(name), a, out), 0
}

var _ gofuse.NodeCreater = (*dir)(nil)

func (d *dir) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	p := d.child(name)
	if d.mount.removals.lasts(of(ctx, p)) {
		d.mount.removals.end(of(ctx, p))
		flags = flags&^syscall.O_EXCL | syscall.O_TRUNC
	}
	h, a, err := d.tree().Create(p, int(flags), fileMode(mode), owner(ctx))
	if err != nil {
		return nil, nil, 0, errno(err)
	}
	child := d.add(ctx, p, a, out)
	return child, child.Operations().(*file).opened(h), d.mount.openFlags(a.Kind, flags), 0
}

func (d *dir) childFile(name string) (*file, bool) {
	child := d.GetChild(name)
	if child == nil {
		return nil, false
	}
	f, ok := child.Operations().(*file)
	return f, ok
}

var _ gofuse.NodeUnlinker = (*dir)(nil)

func (d *dir) Unlink(ctx context.Context, name string) syscall.Errno {
	p := d.child(name)
	if err := d.tree().Unlink(p); err != nil {
		return errno(err)
	}
	if _, err := d.tree().Stat(p); err == nil {
		d.mount.removals.begin(of(ctx, p))
	}
	return 0
}

var _ gofuse.NodeRmdirer = (*dir)(nil)

func (d *dir) Rmdir(_ context.Context, name string) syscall.Errno {
	p := d.child(name)
	if err := d.tree().Rmdir(p); err != nil {
		return errno(err)
	}
	if _, err := d.tree().Stat(p); err == nil {
		d.mount.dirs.next(p)
	}
	return 0
}

var _ gofuse.NodeRenamer = (*dir)(nil)

func (d *dir) Rename(_ context.Context, name string, parent gofuse.InodeEmbedder, to string, flags uint32) syscall.Errno {
	const noReplace = 1 // RENAME_NOREPLACE of renameat2(2)
	target, ok := parent.(*dir)
	if !ok || flags&^noReplace != 0 {
		return syscall.EINVAL
	}
	from, dest := d.child(name), target.child(to)
	if err := d.tree().Rename(from, dest, flags&noReplace != 0); err != nil {
		return errno(err)
	}
	if moved, ok := d.childFile(name); ok && tree.Own(from) && !tree.Own(dest) {
		moved.committed.Store(&dest)
		// Not from here: the kernel holds the directory until it has the answer.
		go target.NotifyEntry(to)
	}
	return 0
}

var _ gofuse.NodeSymlinker = (*dir)(nil)

func (d *dir) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	a, err := d.tree().Symlink(target, d.child(name), owner(ctx))
	if err != nil {
		return nil, errno(err)
	}
	return d.add(ctx, d.child(name), a, out), 0
}

var _ gofuse.NodeLinker = (*dir)(nil)

func (d *dir) Link(ctx context.Context, target gofuse.InodeEmbedder, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	f, ok := target.(*file)
	if !ok {
		return nil, syscall.EPERM
	}
	a, err := d.tree().Link(f.path(), d.child(name))
	if err != nil {
		return nil, errno(err)
	}
	return d.add(ctx, d.child(name), a, out), 0
}

var _ gofuse.NodeFsyncer = (*dir)(nil)

func (d *dir) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno {
	return errno(d.tree().SyncDir(d.path()))
}
