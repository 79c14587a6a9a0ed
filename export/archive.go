package export

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// Options say how to write a tar.
type Options struct {
	// Verify hashes each blob and compares it with its digest.
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
// the inventory's owner may be writing meanwhile. If w is an [*os.File], at
// whichever position, large blobs do not pass through this process: they share
// their blocks with the store's, or the kernel copies them.
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
	a := &archive{inventory: inv, out: newOutput(w, o.Progress), blobs: blobs, verify: o.Verify}
	if err := a.writeEntries(ctx); err != nil {
		return err
	}
	_, err := a.out.Write(make([]byte, trailerSize))
	if err == nil {
		err = a.out.flush()
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", inv.Release, cause(err))
	}
	return nil
}

// An archive is a tar being written.
type archive struct {
	inventory *Inventory
	out       *output
	blobs     opener
	verify    bool
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
	err := a.writeHeader(header)
	if err == nil && file != nil {
		_, err = a.out.Write([]byte(file.Link))
	}
	if err == nil {
		err = a.out.pad()
	}
	if err != nil {
		return fmt.Errorf("export %s: %s: %w", a.inventory.Release, header.Name, cause(err))
	}
	return nil
}

func (a *archive) writeHeader(header *tar.Header) error {
	data, err := encodeAt(header, a.out.at)
	if err == nil {
		_, err = a.out.Write(data)
	}
	return err
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
	if err := a.writeHeader(header); err != nil {
		return err
	}
	if err := a.copyContent(ctx, blob, file); err != nil {
		return err
	}
	return a.out.pad()
}

func (a *archive) copyContent(ctx context.Context, blob *os.File, file *File) error {
	if !a.verify {
		return a.out.copy(ctx, blob, file.Size, nil)
	}
	algorithm := file.Blob.Algorithm()
	hash := algorithm.Hash()
	if err := a.out.copy(ctx, blob, file.Size, hash); err != nil {
		return err
	}
	if got := digest.NewDigest(algorithm, hash); got != file.Blob {
		return &cas.CorruptError{Want: file.Blob, Got: got}
	}
	return nil
}
