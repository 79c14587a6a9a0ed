package export

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

const (
	copyBuffer  = 1 << 20   // as one read of a disk is
	writeBuffer = 256 << 10 // joins headers and links; larger pieces of blobs go past it
)

// Options say how to write a tar.
type Options struct {
	// Verify hashes each blob on its way and compares it with its digest.
	Verify bool

	// Progress, if given, is called with the bytes that were written since the
	// last call; they add up to [Inventory.Size].
	Progress func(bytes int64)
}

// opener is the half of a [cas.Store] that a reader needs.
type opener interface {
	Open(digest.Digest) (*os.File, error)
}

var _ opener = (*cas.Store)(nil)

// WriteTar writes the tar. It takes the blobs from a store, in whose directory
// the inventory's owner may be writing meanwhile.
//
// An inventory with an Err is refused with it, before anything is written. A
// blob that has gone since is a [*MissingError], one with another size a
// [*DamagedError]; with Verify, one with another content is a
// [*cas.CorruptError]. After any error w has a part of a tar, which its owner
// should remove. When ctx ends, its cause is returned before long, also in the
// middle of a blob.
func (inv *Inventory) WriteTar(ctx context.Context, w io.Writer, blobs opener, o Options) error {
	if err := inv.Err(); err != nil {
		return err
	}
	out := bufio.NewWriterSize(&meter{w, o.Progress}, writeBuffer)
	a := &archive{
		inventory: inv,
		tar:       tar.NewWriter(out),
		blobs:     blobs,
		verify:    o.Verify,
		buffer:    make([]byte, copyBuffer),
	}
	if err := a.writeEntries(ctx); err != nil {
		return err
	}
	err := a.tar.Close()
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", inv.Release, cause(err))
	}
	return nil
}

// A meter passes on what is written, and tells.
type meter struct {
	w    io.Writer
	tell func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	if m.tell != nil && n > 0 {
		m.tell(int64(n))
	}
	return n, err
}

// An archive is a tar being written.
type archive struct {
	inventory *Inventory
	tar       *tar.Writer
	blobs     opener
	verify    bool
	buffer    []byte
}

func (a *archive) writeEntries(ctx context.Context) error {
	for header, file := range a.inventory.entries() {
		err := context.Cause(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("export %s: %w", a.inventory.Release, err)
		case file != nil && file.Blob != "":
			err = a.writeBlob(ctx, header, file)
		default:
			err = a.writeSmall(header, file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSmall writes a directory or a link.
func (a *archive) writeSmall(header *tar.Header, file *File) error {
	err := a.tar.WriteHeader(header)
	if err == nil && file != nil {
		_, err = io.WriteString(a.tar, file.Link.String())
	}
	if err != nil {
		return fmt.Errorf("export %s: %s: %w", a.inventory.Release, header.Name, cause(err))
	}
	return nil
}

func (a *archive) writeBlob(ctx context.Context, header *tar.Header, file *File) error {
	err := a.copyBlob(ctx, header, file)
	images := a.inventory.imagesOf(*file)
	var corrupt *cas.CorruptError
	var wrong *sizeError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		return &MissingError{a.inventory.Release, []Missing{{file.Blob, images}}}
	case errors.As(err, &wrong):
		return &DamagedError{a.inventory.Release, []Damage{{file.Blob, "damaged: " + wrong.Error(), images}}}
	case errors.As(err, &corrupt):
		return fmt.Errorf("export %s: blob %s, needed by %s: %w", a.inventory.Release, file.Blob, enumerate(images), corrupt)
	}
	return fmt.Errorf("export %s: blob %s: %w", a.inventory.Release, file.Blob, cause(err))
}

// errGone is an absent blob; an absent directory of the output is not.
var errGone = errors.New("not in the store")

// A sizeError says that a blob is not as long as when the inventory was taken.
type sizeError struct{ want, got int64 }

func (e *sizeError) Error() string {
	return fmt.Sprintf("%d bytes in the store, %d by the inventory", e.got, e.want)
}

func (a *archive) copyBlob(ctx context.Context, header *tar.Header, file *File) error {
	blob, err := a.blobs.Open(file.Blob)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	info, err := blob.Stat()
	if err != nil {
		return err
	}
	if info.Size() != file.Size {
		return &sizeError{want: file.Size, got: info.Size()}
	}
	if err := a.tar.WriteHeader(header); err != nil {
		return err
	}
	if a.verify {
		return a.copyVerified(ctx, blob, file)
	}
	return a.copy(ctx, a.tar, blob, file.Size)
}

func (a *archive) copyVerified(ctx context.Context, blob io.Reader, file *File) error {
	algorithm := file.Blob.Algorithm()
	hash := algorithm.Hash()
	if err := a.copy(ctx, io.MultiWriter(a.tar, hash), blob, file.Size); err != nil {
		return err
	}
	if got := digest.NewDigest(algorithm, hash); got != file.Blob {
		return &cas.CorruptError{Want: file.Blob, Got: got}
	}
	return nil
}

// copy copies exactly size bytes.
func (a *archive) copy(ctx context.Context, w io.Writer, r io.Reader, size int64) error {
	for left := size; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.ReadFull(r, a.buffer[:min(left, copyBuffer)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return &sizeError{want: size, got: size - left + int64(n)}
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(a.buffer[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}
