package cas

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	dirMode  = 0o755
	tempMode = 0o600
	blobMode = 0o444
)

// A Writer receives one blob, in a file that no path of a mount leads to.
// Close without Commit discards it, so "defer w.Close()" is always right. A
// Writer is for one goroutine.
type Writer struct {
	store  *Store
	name   string
	file   *os.File
	origin fs.FileInfo // what an adopted file was; nil for one of our own
	sealed bool        // it may no longer be that
	moved  bool        // the file has left its name
	closed bool
}

// NewWriter returns a Writer with an empty file, open for reading and writing.
func (s *Store) NewWriter() (*Writer, error) {
	name := newTempName()
	file, err := s.createTemp(name)
	if err != nil {
		return nil, failure("create", name, err)
	}
	return &Writer{store: s, name: name, file: file}, nil
}

func newTempName() string { return path.Join(tempDir, rand.Text()) }

// createTemp makes an empty file, and the directory for it if that is absent.
func (s *Store) createTemp(name string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	file, err := s.dir.OpenFile(name, flags, tempMode)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := s.makeTempDir(); err != nil {
		return nil, err
	}
	return s.dir.OpenFile(name, flags, tempMode)
}

func (s *Store) makeTempDir() error { return s.dir.MkdirAll(tempDir, dirMode) }

// File returns the file that receives the content. One that was adopted is
// open for reading only. After Commit, Return or Close it is closed.
func (w *Writer) File() *os.File { return w.file }

// Commit makes the file's content, from its beginning to its end, the blob d,
// and returns its size. The position of the file does not matter. Nobody may
// write to the file meanwhile: see Clone. It does not wait for the disk.
//
// Content that is not d is a [*CorruptError]; as with every error, the Writer
// can then be committed again, or returned. A blob that is there already is not
// stored twice. If its size is another, it is damaged, and is replaced.
func (w *Writer) Commit(d digest.Digest) (size int64, err error) {
	if size, err = w.commit(d); err != nil {
		return 0, failure("commit blob", d.String(), err)
	}
	return size, nil
}

func (w *Writer) commit(d digest.Digest) (int64, error) {
	if w.closed {
		return 0, fs.ErrClosed
	}
	if err := d.Validate(); err != nil {
		return 0, err
	}
	size, err := verify(w.file, d)
	if err != nil {
		return 0, err
	}
	if err := w.storeOnce(d, size); err != nil {
		return 0, err
	}
	return size, w.Close()
}

// buffers are large, as one read of a disk is, and few: one a running Commit.
var buffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// verify returns the size of a file's content, if it is d.
func verify(file *os.File, d digest.Digest) (int64, error) {
	buffer := buffers.Get().(*[1 << 20]byte)
	defer buffers.Put(buffer)
	hash := d.Algorithm().Hash()
	size, err := io.CopyBuffer(hash, io.NewSectionReader(file, 0, math.MaxInt64), buffer[:])
	if err != nil {
		return 0, err
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d {
		return 0, &CorruptError{Want: d, Got: got}
	}
	return size, nil
}

// storeOnce sees to it that the blob is there. If it is already, our file stays
// where it is, to be discarded. Who finds it on its way waits for it: a Flush
// that follows has to see it.
func (w *Writer) storeOnce(d digest.Digest, size int64) error {
	p := &w.store.pending
	b := &pendingBlob{digest: d, size: size, here: make(chan struct{})}
	for other := p.reserve(b); other != nil; other = p.reserve(b) {
		if <-other.here; other.err == nil {
			return nil
		}
	}
	file, err := w.moveToPending(d, size)
	if w.store.arrive(b, file, err) >= maxFresh {
		w.store.Flush() // whom an error concerns, Lost will tell
	}
	return err
}

// moveToPending returns the file at its pending name; none if the blob is at
// its place.
func (w *Writer) moveToPending(d digest.Digest, size int64) (*os.File, error) {
	if whole, err := w.store.stands(d, size); whole || err != nil {
		return nil, err
	}
	if err := w.seal(); err != nil {
		return nil, err
	}
	file, err := duplicate(w.file)
	if err != nil {
		return nil, err
	}
	err = w.store.dir.Rename(w.name, pendingPath(d), 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err = w.store.dir.MkdirAll(pendingDir, dirMode); err == nil {
			err = w.store.dir.Rename(w.name, pendingPath(d), 0)
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	w.moved = true
	return file, nil
}

// duplicate returns the same open file under another descriptor, which the
// Writer's user has not.
func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// seal makes the file what a blob is.
func (w *Writer) seal() error {
	w.sealed = true
	if err := w.own(); err != nil {
		return err
	}
	return w.file.Chmod(blobMode)
}

// own takes the file from another owner, who could make it writable again.
func (w *Writer) own() error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	uid, gid := owner(info)
	if os.Geteuid() != 0 || uid == os.Geteuid() && gid == os.Getegid() {
		return nil
	}
	return w.file.Chown(os.Geteuid(), os.Getegid())
}

func owner(info fs.FileInfo) (uid, gid int) {
	stat := info.Sys().(*syscall.Stat_t)
	return int(stat.Uid), int(stat.Gid)
}

// Close releases the Writer. If it was neither committed nor returned, its
// content is discarded. Closing it again does nothing.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.file.Close()
	if !w.moved {
		err = errors.Join(err, w.store.dir.Unlink(w.name))
	}
	if w.origin != nil {
		err = errors.Join(err, w.store.dir.Unlink(w.name+originSuffix))
	}
	return err
}
