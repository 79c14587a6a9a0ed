package fusefs

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/regfs/regfs/cas"
)

// errno is the only place where an error becomes a number. What the kernel has
// no name for is an I/O error: a damaged blob must never look like an absent
// one, or a registry would upload over it unseen.
func errno(err error) syscall.Errno {
	var number syscall.Errno
	var corrupt *cas.CorruptError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &corrupt):
		return syscall.EIO
	case errors.As(err, &number):
		return number
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		return syscall.EPERM
	case errors.Is(err, fs.ErrClosed):
		return syscall.EBADF
	}
	return syscall.EIO
}
