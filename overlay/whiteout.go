package overlay

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// How overlayfs says in an upper directory what is not there any more: a
// character device with the number 0 in place of a name, an attribute on a
// directory that replaces the one below. It also marks what was copied up, and
// where what lies below has another path.
const (
	opaqueAttr   = "trusted.overlay.opaque"
	originAttr   = "trusted.overlay.origin"
	redirectAttr = "trusted.overlay.redirect"
)

func makeWhiteout(path string) error {
	if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
		return &fs.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}

func isWhiteout(entry fs.DirEntry) bool {
	if entry.Type()&fs.ModeCharDevice == 0 {
		return false
	}
	info, err := entry.Info()
	return err == nil && info.Sys().(*syscall.Stat_t).Rdev == 0
}

func isOpaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, opaqueAttr, value)
	return err == nil && n == 1 && value[0] == 'y'
}

func isCopiedUp(path string) bool {
	n, err := unix.Lgetxattr(path, originAttr, nil)
	return err == nil && n > 0
}

func makeTransparent(dir string) error {
	err := unix.Lremovexattr(dir, opaqueAttr)
	if err == unix.ENODATA {
		return nil
	}
	return err
}
