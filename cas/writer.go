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
	broken error       // why the content can no longer be trusted to reach the disk
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
// write to the file meanwhile: see Clone.
//
// Content that is not d is a [*CorruptError]; as with every error but a failed
// sync, the Writer can then be committed again, or returned. A blob that is
// there already is not stored twice. If its size is another, it is damaged,
// and is replaced.
func (w *Writer) Commit(d digest.Digest) (size int64, err error) {
	if size, err = w.commit(d); err != nil {
		return 0, failure("commit blob", d.String(), err)
	}
	return size, nil
}

func (w *Writer) commit(d digest.Digest) (int64, error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	if err := d.Validate(); err != nil {
		return 0, err
	}
	size, err := w.verify(d)
	if err != nil {
		return 0, err
	}
	if err := w.store.mark(); err != nil {
		return 0, err
	}
	if err := w.storeOnce(d, size); err != nil {
		return 0, err
	}
	// Also for a blob that was there: whoever put it there may be about to note
	// it, and our caller will not wait for him.
	w.store.flusher.note(path.Dir(blobPath(d)))
	return size, w.Close()
}

func (w *Writer) usable() error {
	if w.closed {
		return fs.ErrClosed
	}
	return w.broken
}

// buffers are large, as one read of a disk is, and few: one a running Commit.
var buffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// verify returns the size of the content, if it is d.
func (w *Writer) verify(d digest.Digest) (int64, error) {
	buffer := buffers.Get().(*[1 << 20]byte)
	defer buffers.Put(buffer)
	hash := d.Algorithm().Hash()
	size, err := io.CopyBuffer(hash, io.NewSectionReader(w.file, 0, math.MaxInt64), buffer[:])
	if err != nil {
		return 0, err
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d {
		return 0, &CorruptError{Want: d, Got: got}
	}
	return size, nil
}

// storeOnce sees to it that the blob is at its place. If it is there already,
// our file stays where it is, to be discarded.
func (w *Writer) storeOnce(d digest.Digest, size int64) error {
	if whole, err := w.store.holds(d, size); whole || err != nil {
		return err
	}
	if err := w.seal(); err != nil {
		return err
	}
	if err := w.store.dir.MkdirAll(path.Dir(blobPath(d)), dirMode); err != nil {
		return err
	}
	err := w.store.dir.RenameNew(w.name, blobPath(d))
	if errors.Is(err, fs.ErrExist) {
		return w.replace(d, size)
	}
	w.moved = err == nil
	return err
}

// replace takes the place of a damaged blob; but not if another Commit has
// stored the blob since we looked, as it may be open by now.
func (w *Writer) replace(d digest.Digest, size int64) error {
	if whole, err := w.store.holds(d, size); whole || err != nil {
		return err
	}
	err := w.store.dir.Rename(w.name, blobPath(d), 0)
	w.moved = err == nil
	return err
}

// holds reports whether the blob is there, undamaged as far as its size tells.
func (s *Store) holds(d digest.Digest, size int64) (bool, error) {
	info, err := s.stat(d)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size == size, err
}

// seal makes the file what a blob is, on the disk too.
func (w *Writer) seal() error {
	w.sealed = true
	if err := w.own(); err != nil {
		return err
	}
	if err := w.file.Chmod(blobMode); err != nil {
		return err
	}
	// After a sync that failed, the next may succeed although the content is
	// lost: the kernel reports it once.
	w.broken = w.store.disk.syncFile(w.file)
	return w.broken
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
