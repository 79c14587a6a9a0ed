package tree

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/layout"
)

// A Handle is an open file. Flush is what close(2) waits for, and may come
// more than once; Close comes once, when nobody can use the handle any more.
type Handle interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Stat() (Attr, error)
	// Sync makes durable what was written; a draft is committed by it.
	Sync() error
	Flush() error
	Close() error
	// File is the file that holds exactly what the handle reads and writes,
	// for passthrough; nil if there is none.
	File() *os.File
}

// Owner is whose process makes a plain file.
type Owner struct{ UID, GID uint32 }

const writing = os.O_WRONLY | os.O_RDWR

// Open opens what stands at a path. Of flags it heeds the access mode and
// O_TRUNC. A blob or a link opened for writing gives a draft of its own to
// each who opens it.
func (t *FS) Open(p string, flags int) (Handle, error) {
	if flags&(writing|os.O_TRUNC) != 0 {
		if err := t.writable("open", p); err != nil {
			return nil, err
		}
	}
	at := layout.Parse(p)
	var h Handle
	var err error
	switch {
	case at.Kind == layout.Other:
		h, err = t.openPlain(p, flags)
	case at.Kind == layout.Temp:
		h, err = t.openTemp(p, flags)
	case at.Kind == layout.BlobData:
		h, err = t.openBlob(p, at, flags)
	case at.Kind.IsLink():
		h, err = t.openLink(p, at, flags)
	default:
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError("open", p, err)
	}
	return h, nil
}

func (t *FS) openBlob(p string, at layout.Path, flags int) (Handle, error) {
	info, err := t.blob(at.Digest)
	if err != nil {
		return nil, err
	}
	f, err := t.openProven(at.Digest, flags)
	if err != nil {
		return nil, err
	}
	b := &blobHandle{constant{ReaderAt: f, attr: t.fileAttr(Blob, namedIno(p), info.Size, info.ModTime)}, f}
	if flags&writing == 0 {
		return b, nil
	}
	return t.newDraft(p, at, b, flags)
}

// openProven refuses a damaged blob as far as that can be known. Who writes is
// let in: what he brings may be the cure.
func (t *FS) openProven(d digest.Digest, flags int) (*os.File, error) {
	if flags&writing != 0 {
		return t.blobs.Open(d)
	}
	f, err := t.blobs.OpenProven(d, t.release.StatedSize(d))
	if corrupt := new(cas.CorruptError); errors.As(err, &corrupt) {
		t.Log.Error("a blob is damaged; see \"regfs fsck --data --repair\"", "digest", d, "err", err)
	}
	return f, err
}

func (t *FS) openLink(p string, at layout.Path, flags int) (Handle, error) {
	link, err := t.link(at)
	if err != nil {
		return nil, err
	}
	content := []byte(link.Digest)
	l := &constant{
		ReaderAt: bytes.NewReader(content),
		attr:     t.fileAttr(linkKind(at), namedIno(p), int64(len(content)), link.Time),
	}
	if flags&writing == 0 {
		return l, nil
	}
	return t.newDraft(p, at, l, flags)
}

// Create makes a file and opens it. A blob or a link is not there before it is
// committed. With O_EXCL, what is there already is an error; without, it is
// opened.
func (t *FS) Create(p string, flags int, mode fs.FileMode, who Owner) (Handle, Attr, error) {
	if err := t.writable("create", p); err != nil {
		return nil, Attr{}, err
	}
	h, err := t.create(p, layout.Parse(p), flags, mode, who)
	if errors.Is(err, fs.ErrExist) && flags&os.O_EXCL == 0 {
		return t.opened(t.Open(p, flags))
	}
	return t.opened(h, pathError("create", p, err))
}

func (t *FS) create(p string, at layout.Path, flags int, mode fs.FileMode, who Owner) (Handle, error) {
	switch {
	case at.Kind == layout.Other:
		return t.createPlain(p, flags, mode, who)
	case at.Kind == layout.Temp:
		return t.createTemp(p)
	case at.Kind == layout.BlobData || at.Kind.IsLink():
		if _, err := t.Stat(p); err == nil {
			return nil, fs.ErrExist
		}
		return t.newDraft(p, at, t.nothing(), flags|os.O_TRUNC)
	}
	return nil, syscall.EISDIR
}

func (t *FS) opened(h Handle, err error) (Handle, Attr, error) {
	if err != nil {
		return nil, Attr{}, err
	}
	a, err := h.Stat()
	return h, a, err
}

// A constant is a handle to bytes that do not change.
type constant struct {
	io.ReaderAt
	attr Attr
}

func (t *FS) nothing() *constant {
	return &constant{ReaderAt: bytes.NewReader(nil), attr: t.fileAttr(Small, t.privateIno(), 0, time.Now())}
}

func (c *constant) WriteAt([]byte, int64) (int, error) { return 0, syscall.EBADF }
func (c *constant) Truncate(int64) error               { return syscall.EBADF }
func (c *constant) Stat() (Attr, error)                { return c.attr, nil }
func (c *constant) Sync() error                        { return nil }
func (c *constant) Flush() error                       { return nil }
func (c *constant) Close() error                       { return nil }
func (c *constant) File() *os.File                     { return nil }

// A blobHandle reads a committed blob.
type blobHandle struct {
	constant
	file *os.File
}

func (b *blobHandle) File() *os.File { return b.file }
func (b *blobHandle) Close() error   { return b.file.Close() }
