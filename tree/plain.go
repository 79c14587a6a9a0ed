package tree

import (
	"errors"
	"io/fs"
	"os"
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
	st, err := t.plain.Lstat(plainName(p))
	if err != nil {
		return Attr{}, err
	}
	return plainAttr(&st)
}

func plainAttr(st *unix.Stat_t) (Attr, error) {
	a := Attr{
		Kind: Plain, Ino: st.Ino, Mode: permissions(st.Mode), Size: st.Size, Time: time.Unix(st.Mtim.Unix()),
		Atime: time.Unix(st.Atim.Unix()), Ctime: time.Unix(st.Ctim.Unix()),
		UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Blocks: st.Blocks,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		a.Kind, a.Mode = Dir, a.Mode|fs.ModeDir
	case unix.S_IFLNK:
		a.Kind, a.Mode = Symlink, a.Mode|fs.ModeSymlink
	default:
		return Attr{}, syscall.EPERM // regfs makes no devices, pipes or sockets
	}
	return a, nil
}

// permissions are the mode without the type.
func permissions(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for flag, bit := range special {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// modeBits are permissions as the system calls take them.
func modeBits(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for flag, bit := range special {
		if m&flag != 0 {
			mode |= bit
		}
	}
	return mode
}

var special = map[fs.FileMode]uint32{
	fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX,
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
	return h, t.setMode(p, mode)
}

// setMode gives a new file its mode. The umask of the caller is in mode already;
// that of the server must not count too.
func (t *FS) setMode(p string, mode fs.FileMode) error {
	const more = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if mode&more == 0 && mode&t.umask == 0 {
		return nil // it has it
	}
	return t.plain.Chmod(p, modeBits(mode))
}

// give makes a new file its maker's, where the server may do that.
func (t *FS) give(p string, who Owner) error {
	if !t.root || who == t.self {
		return nil
	}
	return t.plain.Chown(p, int(who.UID), int(who.GID))
}

func (t *FS) openPlain(p string, flags int) (Handle, error) {
	return t.openPlainFile(p, flags, 0)
}

// openPlainFile does not follow a link at p: the kernel has done that where it
// was meant.
func (t *FS) openPlainFile(p string, flags int, mode fs.FileMode) (*plainHandle, error) {
	const heed = writing | os.O_TRUNC | os.O_CREATE | os.O_EXCL
	// Held over the open, so that nobody can be half-way into a file that has
	// lost its name: see alone.
	t.opening.RLock()
	defer t.opening.RUnlock()
	f, err := t.plain.OpenFile(p, flags&heed, mode)
	if err == syscall.ENXIO || err == syscall.EISDIR {
		err = syscall.ELOOP
	}
	if err != nil {
		return nil, err
	}
	// Whoever can write to the store's directory may have exchanged it since it
	// was looked up: a FIFO would keep its reader for ever, a device is worse.
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, syscall.EPERM
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
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return Attr{}, err
	}
	return plainAttr(&st)
}

// Sync leaves the disk alone for an upload. A registry syncs it three times or
// more; what it is promised by that counts from the commit on, which syncs it
// once.
func (h *plainHandle) Sync() error {
	if uploading(h.path) {
		return nil
	}
	return h.file.Sync()
}

// uploading says whether a path belongs to an upload.
func uploading(p string) bool {
	return strings.HasPrefix(p, layout.Root+"/repositories/") && strings.Contains(p, "/_uploads")
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
	if err := t.writable("setattr", p); err != nil {
		return err
	}
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
		if err := t.plain.Chown(p, orKeep(c.UID), orKeep(c.GID)); err != nil {
			return err
		}
	}
	if c.Mode != nil { // after the owner, whose change clears set-id bits
		if err := t.plain.Chmod(p, modeBits(*c.Mode)); err != nil {
			return err
		}
	}
	if c.Size != nil {
		if err := t.truncatePlain(p, *c.Size); err != nil {
			return err
		}
	}
	if c.Atime != nil || c.Mtime != nil {
		return t.plain.Utimes(p, c.Atime, c.Mtime)
	}
	return nil
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
