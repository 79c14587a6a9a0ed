package archive

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

// WriteTar writes the tar. It takes the blobs from a store, into whose
// directory somebody may be writing meanwhile. If w is an [*os.File], at
// whichever position, large blobs do not pass through this process: they share
// their blocks with the store's, or the kernel copies them.
//
// What is wrong with a blob is a [*BlobError]. After any error w has a part of
// a tar, which its owner should remove. When ctx ends, its cause is returned
// before long, also in the middle of a blob.
func (a Archive) WriteTar(ctx context.Context, w io.Writer, blobs Opener, o Options) error {
	t := &tarWriter{out: newOutput(w, o.Progress), blobs: blobs, verify: o.Verify}
	if err := t.writeEntries(ctx, a); err != nil {
		return err
	}
	_, err := t.out.Write(make([]byte, trailerSize))
	if err == nil {
		err = t.out.flush()
	}
	return cause(err)
}

// A tarWriter is a tar being written.
type tarWriter struct {
	out    *output
	blobs  Opener
	verify bool
}

func (t *tarWriter) writeEntries(ctx context.Context, a Archive) error {
	for header, member := range a.entries() {
		err := context.Cause(ctx)
		switch {
		case err != nil:
			return err
		case member != nil && member.Blob != "":
			err = t.writeBlob(ctx, header, member)
		default:
			err = t.writeSmall(header, member)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSmall writes a directory, a text, or a second name.
func (t *tarWriter) writeSmall(header *tar.Header, member *Member) error {
	err := t.writeHeader(header)
	if err == nil && member != nil {
		err = t.out.writeText(member.Text)
	}
	if err == nil {
		err = t.out.pad()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", header.Name, cause(err))
	}
	return nil
}

func (t *tarWriter) writeHeader(header *tar.Header) error {
	data, err := encodeAt(header, t.out.at)
	if err == nil {
		_, err = t.out.Write(data)
	}
	return err
}

func (t *tarWriter) writeBlob(ctx context.Context, header *tar.Header, member *Member) error {
	source, err := openMember(t.blobs, member)
	if err == nil {
		err = errors.Join(t.copyBlob(ctx, header, source, member), source.Close())
	}
	if err != nil {
		return &BlobError{*member, cause(err)}
	}
	return nil
}

func (t *tarWriter) copyBlob(ctx context.Context, header *tar.Header, source *source, member *Member) error {
	if err := t.writeHeader(header); err != nil {
		return err
	}
	if err := source.copyTo(ctx, t.out, t.verify); err != nil {
		return err
	}
	return t.out.pad()
}

// A SizeError says that a blob is not as long as its member.
type SizeError struct{ Want, Got int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf("%d bytes in the store, %d by the inventory", e.Got, e.Want)
}

// A source is a member's blob, opened.
type source struct {
	*os.File
	member *Member
}

// openMember opens a blob, and looks whether it has the member's size, which
// one that is to be unpacked shows only in the end.
func openMember(blobs Opener, member *Member) (*source, error) {
	blob, err := blobs.Open(member.Blob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	info, err := blob.Stat()
	if err == nil && member.Unpacked == "" && info.Size() != member.Size {
		err = &SizeError{Want: member.Size, Got: info.Size()}
	}
	if err != nil {
		blob.Close()
		return nil, err
	}
	return &source{blob, member}, nil
}

func (s *source) copyTo(ctx context.Context, out *output, verify bool) error {
	if s.member.Unpacked != "" {
		return s.unpackTo(ctx, out)
	}
	if !verify {
		return out.copy(ctx, s.File, s.member.Size, nil)
	}
	algorithm := s.member.Blob.Algorithm()
	hash := algorithm.Hash()
	if err := out.copy(ctx, s.File, s.member.Size, hash); err != nil {
		return err
	}
	if got := digest.NewDigest(algorithm, hash); got != s.member.Blob {
		return &cas.CorruptError{Want: s.member.Blob, Got: got}
	}
	return nil
}
