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
	"github.com/regfs/regfs/layout"
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
	if err := c.members(&position{r: plain}); err != nil {
		return nil, err
	}
	// The stream's own checksum stands at its end.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return nil, err
	}
	report := c.judge()
	if report.Blobs+report.Links+len(c.releases)+len(report.Problems) == 0 {
		return nil, fmt.Errorf("no registry's storage: it has nothing of %s: %w", layout.Root, fs.ErrNotExist)
	}
	return report, nil
}

// block is what a tar consists of. It ends with one of zeros, or more.
const block = 512

// members takes all files of a tar. One that was cut between two of them would
// seem whole, and have less: it must have its end.
func (c *checker) members(at *position) error {
	members := tar.NewReader(at)
	end := int64(0) // of what was read, in blocks
	for n := 0; ; n++ {
		header, err := members.Next()
		switch {
		case err == io.EOF && n == 0:
			return errors.New("an empty tar")
		case err == io.EOF && at.n < end+block:
			return fmt.Errorf("after %d files: cut short, its end is missing: %w", n, io.ErrUnexpectedEOF)
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("after %d files: %w", n, err)
		}
		err = c.member(header, members)
		if err == nil {
			_, err = io.Copy(io.Discard, members)
		}
		if err != nil {
			return fmt.Errorf("%.300q: %w", header.Name, err)
		}
		end = (at.n + block - 1) / block * block
	}
}

// position is a reader that knows how far it has read.
type position struct {
	r io.Reader
	n int64
}

func (p *position) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	return n, err
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
