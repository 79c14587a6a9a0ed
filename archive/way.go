package archive

import (
	"errors"
	"io"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// A way leads from one file to another inside the kernel. It begins at a given
// place of the blob and at the position of the output, which it moves on.
type way struct {
	call func(out, in int, from, n int64) (int64, error)

	// most is the bytes of one call. Between two of them an export can be
	// interrupted, and shows progress.
	most int64
}

var (
	// cloning makes two files share blocks: whole ones only.
	cloning = way{clone, 64 << 20}

	// copying is by page cache, or by the disk itself or the server of a
	// network file system, if they can.
	copying = way{copyRange, 8 << 20}

	// sending is from a file to anything, a pipe above all, into which pages
	// go without being copied; or to a file of another kind of file system.
	sending = way{send, 8 << 20}
)

// waysInto says which ways may lead into a file. Those that turn out not to
// are given up when they are tried: whether one leads from the store to here,
// only the kernel knows.
func waysInto(out *os.File) (syscall.RawConn, []way) {
	conn, err := out.SyscallConn()
	if err != nil {
		return nil, nil
	}
	ways := []way{sending}
	err = conn.Control(func(fd uintptr) {
		switch flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); {
		case err != nil || flags&unix.O_APPEND != 0:
			ways = nil // none of them appends
		case canClone(int(fd)):
			ways = []way{cloning, copying, sending}
		case isRegular(int(fd)):
			ways = []way{copying, sending}
		}
	})
	if err != nil {
		return nil, nil
	}
	return conn, ways
}

func isRegular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// canClone says whether blobs in the tar begin at blocks of the file. They do
// not if blocks are larger than usual, or the tar has begun between two.
func canClone(fd int) bool {
	var st unix.Statfs_t
	at, err := unix.Seek(fd, 0, io.SeekCurrent)
	return err == nil && at%alignment == 0 && isRegular(fd) &&
		unix.Fstatfs(fd, &st) == nil && st.Bsize > 0 && alignment%st.Bsize == 0
}

// move moves some bytes, up to a number. None without an error means that
// there are none in the blob.
func (w way) move(out syscall.RawConn, blob *os.File, from, left int64) (n int64, err error) {
	in := int(blob.Fd())
	outErr := out.Write(func(fd uintptr) bool {
		for {
			n, err = w.call(int(fd), in, from, min(left, w.most))
			if err != unix.EINTR {
				return err != unix.EAGAIN // then a pipe is waited for
			}
		}
	})
	if outErr != nil {
		err = outErr
	}
	return max(n, 0), err
}

// refused says whether a way is none for this output. What is no refusal is a
// fault: a full disk is no better reached by another way. EPIPE is for the
// file's own Write, which ends a command that nobody listens to; EPERM is of a
// container that does not know the call. A way that has moved nothing may be a
// blob that has shrunk, and it is for read to say so.
func refused(err error) bool {
	return err == nil || slices.ContainsFunc(refusals, func(errno error) bool { return errors.Is(err, errno) })
}

var refusals = []error{
	unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EBADF, unix.EPERM, unix.EPIPE,
}

func clone(out, in int, from, n int64) (int64, error) {
	at, err := unix.Seek(out, 0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	n -= n % alignment
	err = unix.IoctlFileCloneRange(out, &unix.FileCloneRange{
		Src_fd:      int64(in),
		Src_offset:  uint64(from),
		Src_length:  uint64(n),
		Dest_offset: uint64(at),
	})
	if err != nil {
		return 0, err
	}
	_, err = unix.Seek(out, n, io.SeekCurrent)
	return n, err
}

func copyRange(out, in int, from, n int64) (int64, error) {
	copied, err := unix.CopyFileRange(in, &from, out, nil, int(n), 0)
	return int64(copied), err
}

func send(out, in int, from, n int64) (int64, error) {
	sent, err := unix.Sendfile(out, in, &from, int(n))
	return int64(sent), err
}
