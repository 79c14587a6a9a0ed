// Package archive writes files in a given order, as a tar or as a tree of
// directories. Their contents are blobs of a store, or text.
//
// Promised: the bytes of a tar depend on its members only, [Archive.Size] is
// its size to the byte, and memory does not grow with the contents. Large
// blobs do not pass through this process where the kernel can share or copy
// them, see [Archive.WriteTar].
//
// Not promised: a blob's content is taken as it is, unless [Options.Verify] is
// set; only another size than the member's is always an error.
package archive

import (
	"errors"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// An Archive is its members, in order. Directories are none of them: one is
// made before the first member in it.
type Archive []Member

// A Member is one file.
type Member struct {
	Path string // relative, with slashes
	Size int64  // of the content

	// One of these is the content: a blob, a text, or that of another member
	// before this one, of which this is a second name (a hard link; the size
	// is 0).
	Blob digest.Digest
	Text string
	Same string

	// Unpacked, with Blob, says that the content is not the blob but what it is
	// compressed from, of which this is the digest.
	Unpacked digest.Digest
}

// Options say how to write an archive.
type Options struct {
	// Verify hashes each blob and compares it with its digest.
	Verify bool

	// Progress, if given, is called with the bytes that were written since the
	// last call; for a tar they add up to [Archive.Size].
	Progress func(bytes int64)
}

// An Opener is the half of a [cas.Store] that a reader needs.
type Opener interface {
	Open(digest.Digest) (*os.File, error)
}

var _ Opener = (*cas.Store)(nil)

// A BlobError says which member's blob could not be written, and why: [ErrGone],
// a [*SizeError], a [*cas.CorruptError], or an error of the system.
type BlobError struct {
	Member Member
	Err    error
}

func (e *BlobError) Error() string { return "blob " + e.Member.Blob.String() + ": " + e.Err.Error() }
func (e *BlobError) Unwrap() error { return e.Err }

// ErrGone is an absent blob; an absent directory of the output is not.
var ErrGone = errors.New("not in the store")

// cause strips what an os error says of operation and path: the errors here
// name their object themselves.
func cause(err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		return inner.Err
	}
	return err
}
