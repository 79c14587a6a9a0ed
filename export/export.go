// Package export makes of a release what leaves the house: the tar of a
// registry's storage directory, which holds that release and nothing else.
//
// It takes two steps, since two processes take them. Whoever has the index
// open calls [Take] and gets an [Inventory], plain data that goes through a
// socket as JSON. Whoever wants the tar calls [Inventory.WriteTar], which reads
// the blobs from the store's directory; so their bytes pass one process only.
//
// Promised: the tar of a release has the same bytes each time, in whichever
// order and store it was built; it is complete, or there is an error that says
// what is wrong with which image; and [Inventory.Size] is its size to the byte.
//
// Not promised: an inventory is no snapshot. What is pushed while it is taken
// may be in it or not, but an image that is in it is whole. What an image can do
// without (a foreign layer, an index's child) is in it if it was there when the
// image was pushed. And without Verify rot in a blob goes unnoticed,
// unless its size tells.
package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/patch"
)

// An Inventory lists all files of a release's tar. Its JSON form is what two
// processes of the same regfs exchange, and is stored nowhere.
type Inventory struct {
	Release string `json:"release"`

	// Part says that it is not all of the release.
	Part bool `json:"part,omitempty"`

	// Files are in the order in which they are to be written: blobs first, tags
	// last, see order.go.
	Files []File `json:"files"`

	// Document is that of a sealed release; empty if the release is open, or this
	// is a part of it. It goes with the tar.
	Document string `json:"document,omitempty"`

	// Images are the names of all images, sorted: library/nginx:1.24, or
	// library/nginx@sha256:... where a manifest has no tag.
	Images []string `json:"images"`

	// Notes say what was left out though somebody might look for it.
	Notes []string `json:"notes,omitempty"`

	// What keeps the release from being exported: see [Inventory.Err].
	Missing []Missing `json:"missing,omitempty"`
	Damaged []Damage  `json:"damaged,omitempty"`

	// Wrong are blobs that are whole, and of which a manifest states another
	// size. The notes say so, too.
	Wrong []Damage `json:"-"`
}

// A File is a blob or a link.
type File struct {
	Path string `json:"path"` // in the tar: docker/registry/v2/...
	Size int64  `json:"size"`

	// One of the two: the content's digest, or the digest that is the content.
	Blob digest.Digest `json:"blob,omitempty"`
	Link digest.Digest `json:"link,omitempty"`

	// Role says what a blob is.
	Role Role `json:"role,omitempty"`

	// NeededBy says which images need a blob, as positions in the inventory's
	// Images: a base layer has hundreds, whose names would be most of the JSON.
	NeededBy []int `json:"needed_by,omitempty"`
}

// A Role is what a blob is to those who need it. Where it is several things to
// several, it is the last of these.
type Role string

// The roles.
const (
	Config   Role = "config"
	Layer    Role = "layer"
	Manifest Role = "manifest"
)

// Err says why the release cannot be exported: a [*MissingError], a
// [*DamagedError], or both joined. It is nil if all is well.
func (inv *Inventory) Err() error {
	var errs []error
	if len(inv.Missing) > 0 {
		errs = append(errs, &MissingError{inv.Release, inv.Missing})
	}
	if len(inv.Damaged) > 0 {
		errs = append(errs, &DamagedError{inv.Release, inv.Damaged})
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// ImagesOf names the images that need a blob.
func (inv *Inventory) ImagesOf(f File) []string {
	var images []string
	for _, i := range f.NeededBy {
		if i >= 0 && i < len(inv.Images) { // it came through a socket
			images = append(images, inv.Images[i])
		}
	}
	return images
}

// Archive returns the inventory's files as they are written, and before them
// what goes with a sealed release.
func (inv *Inventory) Archive() archive.Archive {
	files := members(inv.Files)
	if inv.Document == "" {
		return files
	}
	return append(patch.Record(inv.Release, inv.Document, files), files...)
}

func members(files []File) archive.Archive {
	all := make(archive.Archive, len(files))
	for i, f := range files {
		all[i] = archive.Member{Path: f.Path, Size: f.Size, Blob: f.Blob, Text: f.Link.String()}
	}
	return all
}

// Size returns the size in bytes of the tar that WriteTar writes.
func (inv *Inventory) Size() int64 { return inv.Archive().Size() }

// Shared returns how many bytes of the tar will take no space in a new file.
func (inv *Inventory) Shared(file *os.File, blobs archive.Opener) int64 {
	return inv.Archive().Shared(file, blobs)
}

// WriteTar writes the release's tar, see [archive.Archive.WriteTar].
//
// An inventory with an Err is refused with it, before anything is written. A
// blob that has gone since is a [*MissingError], one with another size a
// [*DamagedError]; with Verify, one with another content is a
// [*cas.CorruptError].
func (inv *Inventory) WriteTar(ctx context.Context, w io.Writer, blobs archive.Opener, o archive.Options) error {
	if err := inv.Err(); err != nil {
		return err
	}
	return inv.Blame(inv.Archive().WriteTar(ctx, w, blobs, o))
}

// Blame says what an error of an archive means for the release: which images
// need the blob.
func (inv *Inventory) Blame(err error) error {
	var at *archive.BlobError
	if !errors.As(err, &at) {
		if err != nil {
			err = fmt.Errorf("export %s: %w", inv.Release, err)
		}
		return err
	}
	images := inv.needers(at.Member.Blob)
	var corrupt *cas.CorruptError
	var wrong *archive.SizeError
	switch {
	case errors.Is(err, archive.ErrGone):
		return &MissingError{inv.Release, []Missing{{at.Member.Blob, images}}}
	case errors.As(err, &wrong):
		return &DamagedError{inv.Release, []Damage{{Digest: at.Member.Blob, Problem: "damaged: " + wrong.Error(), Images: images}}}
	case errors.As(err, &corrupt):
		return fmt.Errorf("export %s: blob %s, needed by %s: %w", inv.Release, at.Member.Blob, enumerate(images), corrupt)
	}
	return fmt.Errorf("export %s: blob %s: %w", inv.Release, at.Member.Blob, at.Err)
}

// needers names the images that need a blob.
func (inv *Inventory) needers(d digest.Digest) []string {
	for _, f := range inv.Files {
		if f.Blob == d {
			return inv.ImagesOf(f)
		}
	}
	return nil
}

// cause strips what an os error says of operation and path: the errors here
// name their object themselves.
func cause(err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		return inner.Err
	}
	return err
}
