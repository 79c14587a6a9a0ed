package tree

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
)

// plainName is a path's name below the plain files' directory.
func plainName(p string) string {
	if p == "" {
		return "."
	}
	return p
}

func (t *FS) statPlain(p string) (Attr, error) {
	info, err := t.plain.Lstat(plainName(p))
	if err != nil {
		return Attr{}, err
	}
	return plainAttr(info)
}

func plainAttr(info fs.FileInfo) (Attr, error) {
	st := info.Sys().(*syscall.Stat_t)
	a := Attr{
		Kind: Plain, Ino: st.Ino, Mode: info.Mode(), Size: info.Size(), Time: info.ModTime(),
		Atime: time.Unix(st.Atim.Unix()), Ctime: time.Unix(st.Ctim.Unix()),
		UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Blocks: st.Blocks,
	}
	switch info.Mode().Type() {
	case 0:
	case fs.ModeDir:
		a.Kind = Dir
	case fs.ModeSymlink:
		a.Kind = Symlink
	default:
		return Attr{}, syscall.EPERM // regfs makes no devices, pipes or sockets
	}
	return a, nil
}

// makeParents makes the directories above a plain file that are there for the
// grammar only.
func (t *FS) makeParents(p string) error {
	dir := parent(p)
	if dir == "" || layout.Parse(dir).Kind == layout.Other {
		return nil
	}
	return t.plain.MkdirAll(dir, 0o700)
}

func (t *FS) createPlain(p string, flags int, mode fs.FileMode, who Owner) (Handle, error) {
	if err := t.makeParents(p); err != nil {
		return nil, err
	}
	h, err := t.openPlainFile(p, flags|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return nil, err
	}
	if err := t.give(p, who); err != nil {
		h.Close()
		return nil, err
	}
	// The umask of the caller is in mode already; that of the server must
	// not count too.
	return h, h.file.Chmod(mode)
}

// give makes a new file its maker's, where the server may do that.
func (t *FS) give(p string, who Owner) error {
	if os.Geteuid() != 0 || who.UID == 0 && int(who.GID) == os.Getegid() {
		return nil
	}
	return t.plain.Lchown(p, int(who.UID), int(who.GID))
}

func (t *FS) openPlain(p string, flags int) (Handle, error) {
	return t.openPlainFile(p, flags, 0)
}

// openPlainFile does not follow a link at p: the kernel has done that where it
// was meant.
func (t *FS) openPlainFile(p string, flags int, mode fs.FileMode) (*plainHandle, error) {
	const heed = writing | os.O_TRUNC | os.O_CREATE | os.O_EXCL
	if flags&os.O_EXCL == 0 {
		if info, err := t.plain.Lstat(p); err == nil && info.Mode().Type() != 0 {
			return nil, syscall.ELOOP
		}
	}
	// Held over the open, so that nobody can be half-way into a file that has
	// lost its name: see alone.
	t.opening.RLock()
	defer t.opening.RUnlock()
	f, err := t.plain.OpenFile(p, flags&heed, mode)
	if err != nil {
		return nil, err
	}
	return &plainHandle{path: p, file: f}, nil
}

// A plainHandle is an open file of the release's own directory.
type plainHandle struct {
	path string
	file *os.File
}

func (h *plainHandle) ReadAt(p []byte, off int64) (int, error)  { return h.file.ReadAt(p, off) }
func (h *plainHandle) WriteAt(p []byte, off int64) (int, error) { return h.file.WriteAt(p, off) }
func (h *plainHandle) Truncate(size int64) error                { return h.file.Truncate(size) }
func (h *plainHandle) Flush() error                             { return nil }
func (h *plainHandle) Close() error                             { return h.file.Close() }
func (h *plainHandle) File() *os.File                           { return h.file }

func (h *plainHandle) Stat() (Attr, error) {
	info, err := h.file.Stat()
	if err != nil {
		return Attr{}, err
	}
	return plainAttr(info)
}

// Sync leaves the disk alone for an upload's scaffolding: without its data,
// which is synced, it is worth nothing.
func (h *plainHandle) Sync() error {
	if scaffolding(h.path) {
		return nil
	}
	return h.file.Sync()
}

// scaffolding says whether a path is an upload's, but not its data.
func scaffolding(p string) bool {
	return strings.HasPrefix(p, layout.Root+"/repositories/") && strings.Contains(p, "/_uploads") && path.Base(p) != "data"
}

// patience is how long a commit waits for handles that are being given back:
// a close's RELEASE may reach the server after the RENAME that follows it.
const patience = time.Second

// alone reports whether nobody can write to a file any more, by a descriptor
// or a mapping, wherever it comes from: with passthrough one may outlive the
// server that gave it. The kernel knows, and tells who asks for a read lease
// (F_SETLEASE of fcntl(2)). The file's name must be gone already, so that
// nobody new comes, and f must be open for reading only.
func (t *FS) alone(f *os.File) bool {
	t.opening.Lock() // who had found the name before it went is through
	t.opening.Unlock()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		if err == nil {
			_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
			return err == nil
		}
		if err != unix.EAGAIN || time.Now().After(deadline) {
			return false // written to, or not to be found out
		}
	}
}

// Change is what SetAttr is to change; nil fields stay.
type Change struct {
	Mode         *fs.FileMode
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *time.Time
}

// SetAttr changes a file's attributes. Those of the registry's own tree belong
// to the mount: they stay, and nobody is told, so that tar and cp can lay down
// a tree. Sizes are changed through handles.
func (t *FS) SetAttr(p string, c Change) error {
	at := layout.Parse(p)
	if at.Kind == layout.Other {
		return pathError("setattr", p, t.setPlain(p, c))
	}
	if c.Size != nil {
		return pathError("truncate", p, syscall.EPERM)
	}
	_, err := t.Stat(p)
	return err
}

func (t *FS) setPlain(p string, c Change) error {
	p = plainName(p)
	if c.UID != nil || c.GID != nil {
		if err := t.plain.Lchown(p, orKeep(c.UID), orKeep(c.GID)); err != nil {
			return err
		}
	}
	if c.Mode != nil { // after the owner, whose change clears set-id bits
		if err := t.plain.Chmod(p, *c.Mode); err != nil {
			return err
		}
	}
	if c.Size != nil {
		if err := t.truncatePlain(p, *c.Size); err != nil {
			return err
		}
	}
	if c.Atime != nil || c.Mtime != nil {
		return t.setTimes(p, c)
	}
	return nil
}

// setTimes sets the times of a link itself, which os does not.
func (t *FS) setTimes(p string, c Change) error {
	dir, err := t.plain.Open(plainName(parent(p)))
	if err != nil {
		return err
	}
	defer dir.Close()
	times := []unix.Timespec{timespec(c.Atime), timespec(c.Mtime)}
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(p), times, unix.AT_SYMLINK_NOFOLLOW)
}

func timespec(at *time.Time) unix.Timespec {
	if at == nil {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.NsecToTimespec(at.UnixNano())
}

func (t *FS) truncatePlain(p string, size int64) error {
	f, err := t.plain.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func orKeep(id *uint32) int {
	if id == nil {
		return -1
	}
	return int(*id)
}
