package archive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// maxWindow bounds the memory that a zstd stream may ask for. The encoders'
// highest level uses 128 MiB only if it is told to.
const maxWindow = 128 << 20

// Unpack returns a reader of what a stream is compressed from, by gzip or
// zstd. What is neither is read as it is. The caller closes the reader, which
// does not close the stream.
func Unpack(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// Unpacked reads a blob, and tells of what it is compressed from the size and
// the digest.
func Unpacked(ctx context.Context, blobs Opener, blob digest.Digest, algorithm digest.Algorithm) (size int64, d digest.Digest, err error) {
	f, err := blobs.Open(blob)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, "", ErrGone
	}
	if err != nil {
		return 0, "", cause(err)
	}
	defer f.Close()
	r, err := Unpack(f)
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	hash := algorithm.Digester()
	size, err = io.Copy(hash.Hash(), interruptible{ctx, r})
	return size, hash.Digest(), err
}

// unpackTo writes what the blob is compressed from, exactly the member's size
// and digest.
func (s *source) unpackTo(ctx context.Context, out *output) error {
	r, err := Unpack(s.File)
	if err != nil {
		return err
	}
	defer r.Close()
	hash := s.member.Unpacked.Algorithm().Hash()
	n, err := io.Copy(out, io.TeeReader(io.LimitReader(interruptible{ctx, r}, s.member.Size+1), hash))
	if err != nil {
		return err
	}
	if n != s.member.Size {
		return &SizeError{Want: s.member.Size, Got: n}
	}
	if got := digest.NewDigest(s.member.Unpacked.Algorithm(), hash); got != s.member.Unpacked {
		return &cas.CorruptError{Want: s.member.Unpacked, Got: got}
	}
	return nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	if err := context.Cause(i.ctx); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
