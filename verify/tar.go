package verify

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/regfs/regfs/archive"
)

// Tar checks a tar, which may be compressed by gzip or zstd. It reads it once,
// from the beginning to the end. An error is one that kept it from reading on.
func Tar(ctx context.Context, r io.Reader, o Options) (*Report, error) {
	plain, err := archive.Unpack(&counted{ctx, r, o})
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	c := newChecker(o)
	members := tar.NewReader(plain)
	for n := 0; ; n++ {
		header, err := members.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, errors.New("an empty tar")
			}
			break
		}
		if err != nil {
			return nil, fmt.Errorf("after %d files: %w", n, err)
		}
		if err := c.member(header, members); err != nil {
			return nil, fmt.Errorf("%.300q: %w", header.Name, err)
		}
	}
	// The stream's own checksum stands at its end.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return nil, err
	}
	return c.judge(), nil
}

func (c *checker) member(header *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
	if name == "" || name == "." {
		return nil
	}
	if !fs.ValidPath(name) {
		c.problem(fmt.Sprintf("%.300q", header.Name), "may lead out of the directory where it is unpacked")
		return nil
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeReg:
		return c.file(name, r)
	}
	c.problem(name, "is no file but of type %q, which a registry's storage has not", header.Typeflag)
	return nil
}

// counted is a reader that tells what it has read, and ends with its context.
type counted struct {
	ctx context.Context
	r   io.Reader
	o   Options
}

func (c *counted) Read(p []byte) (int, error) {
	if err := done(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.o.tell(int64(n))
	return n, err
}
