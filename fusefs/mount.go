// Package fusefs serves a tree as a FUSE file system. It decides nothing: what
// a name means and what a write does is package tree's. Here are the kernel's
// ways: inodes, open flags, passthrough, errno.
//
// What the kernel may keep, and for how long, is in node.go. It keeps no
// absence of a blob or a layer link, so that what one mount commits is there
// through all others at once.
package fusefs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/tree"
)

// Options are how to mount, where tree.Options are what to show.
type Options struct {
	// Source is what mount(8) and /proc/mounts show as the device.
	Source string
	// AllowOther lets other users in. It needs root, or user_allow_other in
	// /etc/fuse.conf.
	AllowOther bool
	// ReadOnly is for a tree that is.
	ReadOnly bool
	// NoPassthrough makes all reads and writes go through the server.
	NoPassthrough bool
	// Attach, if it is given, puts the mount in its place, instead of mounting on
	// the directory as it is. It is given a mount that is nowhere yet, and is
	// served already (fsmount(2)). It needs root.
	Attach func(mount int) error
	// Probe is a file of the store's disk, by which is found out whether
	// passthrough works there.
	Probe *os.File
	// Nodes is how many nodes the kernel may know by lookups before it is told to
	// forget some; 0 is 50,000.
	Nodes int
	Log   *slog.Logger
}

// A Mount is a tree that is mounted.
type Mount struct {
	tree     *tree.FS
	server   *fuse.Server
	requests requests
	dirs     generations
	rewrites moments       // a blob is a writer's own
	removals moments       // a blob that stays is gone
	writers  atomic.Uint64 // inode numbers given to writers

	passthrough bool
	why         string // why there is no passthrough
}

// New mounts the tree on a directory and begins to serve it.
func New(mountpoint string, t *tree.FS, o Options) (*Mount, error) {
	m := &Mount{tree: t}
	top, err := t.Stat("")
	if err != nil {
		return nil, err
	}
	zero := time.Duration(0)
	m.requests.counts = make(map[string]uint64)
	m.requests.known = newKnown(cmp.Or(o.Nodes, maxKnown), func(parent uint64, name string) { m.server.EntryNotify(parent, name) })
	m.requests.RawFileSystem = gofuse.NewNodeFS(&dir{node{mount: m}}, &gofuse.Options{
		EntryTimeout:    &zero,
		AttrTimeout:     &zero,
		NullPermissions: true,
		RootStableAttr:  &gofuse.StableAttr{Ino: top.Ino},
	})
	if o.Attach != nil {
		err = m.attach(mountpoint, o)
	} else {
		err = m.mount(mountpoint, o)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	return m, nil
}

func (m *Mount) mount(mountpoint string, o Options) (err error) {
	if m.server, err = newServer(&m.requests, mountpoint, mountOptions(o)); err != nil {
		return explain(err)
	}
	m.passthrough, m.why = probe(m.server, o)
	go m.server.Serve()
	return m.server.WaitMount()
}

// Threads that wait for the kernel's next request count among those that run Go
// code, until the runtime takes the processor away from them and wakes another
// thread for it. Both cost more than most requests. So there are few that wait,
// and processors enough that none need be taken.
const (
	readers    = 3
	processors = 16
)

var mounting sync.Mutex // makes setting the processors and setting them back one step

// newServer makes a server with so many readers: go-fuse lets as many wait as
// there are processors when it is made.
func newServer(raw fuse.RawFileSystem, mountpoint string, o *fuse.MountOptions) (*fuse.Server, error) {
	mounting.Lock()
	defer mounting.Unlock()
	enough := max(processors, runtime.GOMAXPROCS(readers))
	defer runtime.GOMAXPROCS(enough)
	return fuse.NewServer(raw, mountpoint, o)
}

func mountOptions(o Options) *fuse.MountOptions {
	// Where only the one who mounts gets in, there is nobody to be kept from
	// anything. Else the kernel checks modes, for which it asks for the
	// attributes of each directory after each change in it.
	var permissions []string
	if o.AllowOther {
		permissions = []string{"default_permissions"}
	}
	// Without root fusermount3 takes it as an option, and with root the kernel as
	// a flag.
	flags := uintptr(syscall.MS_NOSUID | syscall.MS_NODEV)
	if o.ReadOnly && os.Geteuid() == 0 {
		flags |= syscall.MS_RDONLY
	} else if o.ReadOnly {
		permissions = append(permissions, "ro")
	}
	return &fuse.MountOptions{
		DirectMountFlags: flags,

		Name:              "regfs",
		FsName:            o.Source,
		Options:           permissions,
		AllowOther:        o.AllowOther,
		DirectMountStrict: os.Geteuid() == 0,
		DisableXAttrs:     true,
		MaxBackground:     128,
		MaxWrite:          1 << 20,
		// A registry reads a directory to remove it: attributes with the
		// names would be fetched for nothing.
		DisableReadDirPlus: true,
		// One store, one layer: what lies on an overlay is not passed
		// through, and another file system may be put on top of the mount.
		MaxStackDepth: 1,
		// Else O_TRUNC would come as a truncation of the inode, apart from
		// the open, and a draft is its handle's alone.
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC,
		Logger:            slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
}

// explain says what to do where the bare error would leave a user guessing.
func explain(err error) error {
	dev, devErr := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if devErr == nil {
		dev.Close()
	}
	switch {
	case errors.Is(devErr, fs.ErrNotExist):
		return fmt.Errorf("no /dev/fuse here: load the fuse module, or give the container --device /dev/fuse: %w", err)
	case errors.Is(devErr, fs.ErrPermission):
		return fmt.Errorf("/dev/fuse may not be opened: run as root, or let this user open it (mode 0666 is usual): %w", err)
	case errors.As(err, new(*exec.Error)): // not exec.ErrNotFound: go-fuse tries /bin by its path
		return fmt.Errorf("run as root, or install fusermount3 (package fuse3): %w", err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mounting is not allowed: in a container, give it --cap-add SYS_ADMIN: %w", err)
	}
	return err
}

// probe finds out whether reads and writes may pass through to the store's
// files. It is asked once for the whole mount: the kernel refuses an inode
// that is opened now with passthrough, now without.
func probe(server *fuse.Server, o Options) (ok bool, why string) {
	if o.NoPassthrough {
		return false, "switched off"
	}
	if o.Probe == nil {
		return false, "nothing to probe it with"
	}
	if os.Geteuid() != 0 {
		return false, "needs root (CAP_SYS_ADMIN)"
	}
	if server.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH == 0 {
		return false, "the kernel has none (Linux 6.9 and newer do)"
	}
	id, e := server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(o.Probe.Fd())})
	switch e {
	case 0:
		server.UnregisterBackingFd(id)
		return true, ""
	case syscall.ELOOP:
		return false, "the store's file system is stacked on another (an overlay)"
	case syscall.EPERM:
		return false, "needs CAP_SYS_ADMIN in the first user namespace"
	}
	return false, e.Error()
}

// Passthrough says whether reads and writes go to the store's files without a
// way through the server, and if not, why.
func (m *Mount) Passthrough() (ok bool, why string) { return m.passthrough, m.why }

// Wait returns when the mount is gone.
func (m *Mount) Wait() { m.server.Wait() }

// privateIno is an inode number for a writer's own file; tree has none with
// these two bits.
func (m *Mount) privateIno() uint64 { return 3<<62 | m.writers.Add(1) }

// openFlags says how the kernel is to treat an open file of a kind.
func (m *Mount) openFlags(kind tree.Kind, flags uint32) uint32 {
	// noFlush (FOPEN_NOFLUSH, Linux 5.16) spares a request at each close of a
	// file for which close means nothing.
	const noFlush = 1 << 5
	switch {
	case constant(kind):
		return noFlush | fuse.FOPEN_KEEP_CACHE
	case kind == tree.Plain:
		return noFlush
	case kind == tree.Temp:
		return noFlush | fuse.FOPEN_DIRECT_IO
	case flags&(syscall.O_WRONLY|syscall.O_RDWR) == 0:
		return noFlush | fuse.FOPEN_DIRECT_IO
	}
	return fuse.FOPEN_DIRECT_IO
}
