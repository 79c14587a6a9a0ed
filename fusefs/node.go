package fusefs

import (
	"context"
	"io/fs"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/tree"
)

// A node is what all nodes share. It holds no path: a directory above it may
// be renamed, and go-fuse keeps account of that.
type node struct {
	gofuse.Inode
	mount *Mount
}

func (n *node) tree() *tree.FS { return n.mount.tree }

// path is the node's path in the tree. A node that is in no directory any more
// has one that does not exist.
func (n *node) path() string { return n.Path(n.Root()) }

var _ gofuse.NodeStatfser = (*node)(nil)

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	st, err := n.tree().Statfs()
	if err != nil {
		return errno(err)
	}
	out.FromStatfsT(&st)
	return 0
}

// add makes the child that an Attr describes.
func (n *node) add(ctx context.Context, p string, a tree.Attr, out *fuse.EntryOut) *gofuse.Inode {
	fill(&out.Attr, a)
	out.SetAttrTimeout(attrTimeout(a.Kind))
	stable := gofuse.StableAttr{Mode: out.Attr.Mode & syscall.S_IFMT, Ino: a.Ino}
	switch a.Kind {
	case tree.Dir:
		out.SetEntryTimeout(keep)
		stable.Gen = n.mount.dirs.of(p)
		return n.NewInode(ctx, &dir{node{mount: n.mount}}, stable)
	case tree.Symlink:
		out.SetEntryTimeout(entryTimeout(p))
		return n.NewInode(ctx, &symlink{node{mount: n.mount}}, stable)
	}
	out.SetEntryTimeout(entryTimeout(p))
	if a.Settled {
		out.SetEntryTimeout(briefly)
	}
	return n.NewInode(ctx, &file{node: node{mount: n.mount}, kind: a.Kind, found: p}, stable)
}

// keep is how long the kernel may keep what comes and goes through this mount
// only, where the kernel sees it: plain files, and all directories that are
// there. Most requests of a registry are a path's components, ten of them for
// each file. The directory of one blob or link may outlast it, and is empty then.
const keep = time.Hour

// entryTimeout is how long the kernel may keep a file's name, or its absence.
func entryTimeout(p string) time.Duration {
	if tree.Own(p) {
		return keep
	}
	return 0
}

// briefly is how long the kernel may keep what could change unseen, but hardly
// while one request of a client is being served: a registry looks for the same
// blob several times over.
const briefly = time.Second

// absenceTimeout is how long the kernel may keep that there is no such name.
// That a manifest or a tag is absent it asks several times on the way to making
// one; a moment is enough for that.
func absenceTimeout(p string) time.Duration {
	if tree.Pushed(p) {
		return briefly
	}
	return entryTimeout(p)
}

// attrTimeout is how long the kernel may believe attributes. All changes to a
// plain file come through this mount, where the kernel sees them; a directory's
// and a blob's do not change. A small file may give way to another unseen.
func attrTimeout(k tree.Kind) time.Duration {
	if k == tree.Small {
		return 0
	}
	return keep
}

// owner is whose process has sent a request.
func owner(ctx context.Context) tree.Owner {
	if caller, ok := fuse.FromContext(ctx); ok {
		return tree.Owner{UID: caller.Uid, GID: caller.Gid}
	}
	return tree.Owner{}
}

func fill(out *fuse.Attr, a tree.Attr) {
	out.Ino = a.Ino
	out.Mode = modeBits(a.Mode)
	out.Size = uint64(a.Size)
	out.Blocks = uint64(a.Blocks)
	if a.Blocks == 0 {
		out.Blocks = (out.Size + 511) / 512
	}
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Blksize = 4096
	atime, ctime := a.Atime, a.Ctime
	if atime.IsZero() {
		atime, ctime = a.Time, a.Time
	}
	out.SetTimes(&atime, &a.Time, &ctime)
}

// modeBits turns Go's mode into the kernel's.
func modeBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	switch m.Type() {
	case fs.ModeDir:
		bits |= syscall.S_IFDIR
	case fs.ModeSymlink:
		bits |= syscall.S_IFLNK
	default:
		bits |= syscall.S_IFREG
	}
	for flag, bit := range special {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// fileMode turns the permission bits of the kernel's mode into Go's.
func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for flag, bit := range special {
		if bits&bit != 0 {
			m |= flag
		}
	}
	return m
}

var special = map[fs.FileMode]uint32{
	fs.ModeSetuid: syscall.S_ISUID, fs.ModeSetgid: syscall.S_ISGID, fs.ModeSticky: syscall.S_ISVTX,
}

// setattr is what SETATTR does to all nodes, apart from sizes of open files.
func (n *node) setattr(p string, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var c tree.Change
	if bits, ok := in.GetMode(); ok {
		mode := fileMode(bits)
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s := int64(size)
		c.Size = &s
	}
	c.Atime, c.Mtime = given(in.GetATime()), given(in.GetMTime())
	if err := n.tree().SetAttr(p, c); err != nil {
		return errno(err)
	}
	a, err := n.tree().Stat(p)
	fill(&out.Attr, a)
	out.SetTimeout(attrTimeout(a.Kind))
	return errno(err)
}

func given(t time.Time, ok bool) *time.Time {
	if !ok {
		return nil
	}
	return &t
}

// A symlink is one among the plain files.
type symlink struct{ node }

var _ gofuse.NodeReadlinker = (*symlink)(nil)

func (s *symlink) Readlink(context.Context) ([]byte, syscall.Errno) {
	target, err := s.tree().Readlink(s.path())
	return []byte(target), errno(err)
}

var _ gofuse.NodeGetattrer = (*symlink)(nil)

func (s *symlink) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	a, err := s.tree().Stat(s.path())
	fill(&out.Attr, a)
	return errno(err)
}

var _ gofuse.NodeSetattrer = (*symlink)(nil)

func (s *symlink) Setattr(_ context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return s.setattr(s.path(), in, out)
}
