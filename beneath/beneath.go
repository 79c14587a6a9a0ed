// Package beneath reaches files below one directory, and no others: no name
// leads out of it, and no symlink is followed, neither on the way nor at the
// end.
//
// An [os.Root] keeps a path inside, too, but follows symlinks that stay inside;
// what a release's user has put somewhere must not turn out to be something
// else, reached through a link of his. And it walks down to a file one
// component at a time, two system calls for each; here the kernel does the walk
// (openat2(2), Linux 5.6).
//
// Names are relative, with slashes, as [io/fs.ValidPath] has them; "." is the
// directory itself. Errors are those of the system calls, bare: who calls knows
// better what the file is to him.
package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Dir is the directory. Its methods may be called concurrently, except for
// Close.
type Dir struct{ file *os.File }

// Open opens a directory to reach files below it.
func Open(dir string) (*Dir, error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{file}, nil
}

// Sub opens a directory below this one. It is its own: no name of it leads up
// here again.
func (d *Dir) Sub(name string) (*Dir, error) {
	file, err := d.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{file}, nil
}

// Close closes the directory. Files that were opened stay open.
func (d *Dir) Close() error { return d.file.Close() }

// SyncAll makes the whole file system durable that the directory lies on.
func (d *Dir) SyncAll() error { return unix.Syncfs(int(d.file.Fd())) }

// Lstat returns what is known of a file.
func (d *Dir) Lstat(name string) (stat unix.Stat_t, err error) {
	err = d.in(name, func(dir int, base string) error {
		return unix.Fstatat(dir, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	})
	return stat, err
}

// OpenFile opens a file with the flags of open(2). A symlink is ELOOP. It
// never waits, not even for the other end of a FIFO.
func (d *Dir) OpenFile(name string, flags int, mode fs.FileMode) (*os.File, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	how := unix.OpenHow{Flags: uint64(flags), Resolve: resolve}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
	}
	fd, err := d.openat2(name, &how)
	if unsupported(err) {
		err = d.in(name, func(dir int, base string) (err error) {
			fd, err = unix.Openat(dir, base, flags, uint32(mode.Perm()))
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	// Else package os takes it for something to poll.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&unix.O_APPEND); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path.Join(d.file.Name(), name)), nil
}

var _ fs.ReadDirFS = (*Dir)(nil)

// Open opens a file for reading, as [fs.FS] has it.
func (d *Dir) Open(name string) (fs.File, error) {
	file, err := d.OpenFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file, nil
}

// ReadDir lists a directory, sorted.
func (d *Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := d.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	entries, err := file.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// OpenRegular opens a regular file for reading. Anything else is
// [ErrNotRegular].
func (d *Dir) OpenRegular(name string) (*os.File, error) {
	file, err := d.OpenFile(name, unix.O_RDONLY, 0)
	if err == unix.ELOOP {
		return nil, ErrNotRegular
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotRegular
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ErrNotRegular says that what stands at a name is no regular file.
var ErrNotRegular = errors.New("not a regular file")

// IsRegular says whether a file is a regular one.
func IsRegular(stat unix.Stat_t) bool { return stat.Mode&unix.S_IFMT == unix.S_IFREG }

// Mkdir makes a directory.
func (d *Dir) Mkdir(name string, mode fs.FileMode) error {
	return d.in(name, func(dir int, base string) error {
		return unix.Mkdirat(dir, base, uint32(mode.Perm()))
	})
}

// MkdirAll makes a directory, and those above it that are missing.
func (d *Dir) MkdirAll(name string, mode fs.FileMode) error {
	err := d.Mkdir(name, mode)
	if err == unix.ENOENT {
		if err = d.MkdirAll(path.Dir(name), mode); err == nil {
			err = d.Mkdir(name, mode)
		}
	}
	if err != unix.EEXIST {
		return err
	}
	stat, err := d.Lstat(name)
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	return err
}

// Unlink removes what is no directory.
func (d *Dir) Unlink(name string) error {
	return d.in(name, func(dir int, base string) error { return unix.Unlinkat(dir, base, 0) })
}

// Rmdir removes an empty directory.
func (d *Dir) Rmdir(name string) error {
	return d.in(name, func(dir int, base string) error { return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR) })
}

// RemoveAll removes a file, or a directory with all that is in it. It is no
// error if there is none.
func (d *Dir) RemoveAll(name string) error {
	err := d.Unlink(name)
	if err == unix.EISDIR {
		if err = d.removeIn(name); err == nil {
			err = d.Rmdir(name)
		}
	}
	if err == unix.ENOENT {
		return nil
	}
	return err
}

func (d *Dir) removeIn(dir string) error {
	entries, err := d.ReadDir(dir)
	for _, e := range entries {
		if err == nil {
			err = d.RemoveAll(path.Join(dir, e.Name()))
		}
	}
	return err
}

// Rename moves a file, over what is at its new place. The flags are those of
// renameat2(2).
func (d *Dir) Rename(from, to string, flags uint) error {
	if path.Dir(from) == path.Dir(to) {
		return d.in(from, func(dir int, base string) error {
			return unix.Renameat2(dir, base, dir, path.Base(to), flags)
		})
	}
	return d.in(from, func(fromDir int, fromBase string) error {
		return d.in(to, func(toDir int, toBase string) error {
			return unix.Renameat2(fromDir, fromBase, toDir, toBase, flags)
		})
	})
}

// RenameNew moves a file to a place that is free, else it is EEXIST.
func (d *Dir) RenameNew(from, to string) error {
	err := d.Rename(from, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL {
		return err
	}
	// Some file systems (NFS) cannot rename like this. There we look first: who
	// comes between the look and the rename is overwritten.
	switch _, err := d.Lstat(to); err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
		return d.Rename(from, to, 0)
	default:
		return err
	}
}

// Symlink makes a symbolic link.
func (d *Dir) Symlink(target, name string) error {
	return d.in(name, func(dir int, base string) error { return unix.Symlinkat(target, dir, base) })
}

// Readlink reads a symbolic link.
func (d *Dir) Readlink(name string) (target string, err error) {
	err = d.in(name, func(dir int, base string) error {
		buffer := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buffer)
		target = string(buffer[:max(n, 0)])
		return err
	})
	return target, err
}

// Link makes a second name for a file; for a symlink itself, not for what it
// points at.
func (d *Dir) Link(old, name string) error {
	return d.in(old, func(oldDir int, oldBase string) error {
		return d.in(name, func(dir int, base string) error {
			return unix.Linkat(oldDir, oldBase, dir, base, 0)
		})
	})
}

// Chmod changes the permission bits of what is no symlink; mode has the bits
// as the system call takes them.
func (d *Dir) Chmod(name string, mode uint32) error {
	return d.in(name, func(dir int, base string) error {
		return unix.Fchmodat(dir, base, mode, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Chown changes owner and group; -1 keeps one.
func (d *Dir) Chown(name string, uid, gid int) error {
	return d.in(name, func(dir int, base string) error {
		return unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Utimes sets the times of access and of change; nil keeps one.
func (d *Dir) Utimes(name string, atime, mtime *time.Time) error {
	return d.in(name, func(dir int, base string) error {
		times := []unix.Timespec{timespec(atime), timespec(mtime)}
		return unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func timespec(at *time.Time) unix.Timespec {
	if at == nil {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.NsecToTimespec(at.UnixNano())
}

// in calls with a file's directory and the name in it.
func (d *Dir) in(name string, call func(dir int, base string) error) error {
	dir, base := path.Split(name)
	if base == ".." {
		return unix.EXDEV // as openat2 says it
	}
	if dir == "" {
		return again(func() error { return call(int(d.file.Fd()), name) })
	}
	fd, err := d.openDir(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return again(func() error { return call(fd, base) })
}

const (
	resolve  = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	dirFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
)

// openDir opens a directory for use with the *at calls.
func (d *Dir) openDir(name string) (int, error) {
	fd, err := d.openat2(name, &unix.OpenHow{Flags: dirFlags, Resolve: resolve})
	if unsupported(err) {
		return d.walk(name)
	}
	return fd, err
}

func (d *Dir) openat2(name string, how *unix.OpenHow) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat2(int(d.file.Fd()), name, how)
		return err
	})
	return fd, err
}

// unsupported: openat2 is missing before Linux 5.6, and forbidden in some
// containers.
func unsupported(err error) bool { return err == unix.ENOSYS || err == unix.EPERM }

// walk is openDir, one component after the other.
func (d *Dir) walk(name string) (fd int, err error) {
	fd, err = openat(int(d.file.Fd()), ".")
	for component := range strings.SplitSeq(name, "/") {
		if err != nil {
			return -1, err
		}
		if component == ".." {
			unix.Close(fd)
			return -1, unix.EXDEV
		}
		parent := fd
		fd, err = openat(parent, component)
		unix.Close(parent)
	}
	return fd, err
}

func openat(dir int, name string) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, dirFlags, 0)
		return err
	})
	return fd, err
}

// again calls until no signal comes between, as package os does.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
