package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// chunk is how much is read or written at a time.
const chunk = 1 << 20

// uploads is where the streams' repository keeps its uploads.
var uploads = filepath.Join(layout.Root, "repositories/bench/stream/_uploads")

// read reads a large blob from one end to the other. It is in the page cache:
// what is measured is the way to it, not the disk.
func (v *visit) read(_ context.Context, at *site) error {
	if !v.wants("read") {
		return nil
	}
	path, err := storeBlob(at.root, v.Sizes.BlobSize)
	if err != nil {
		return err
	}
	once := func() error { return readFile(path, v.Sizes.BlobSize) }
	if err := once(); err != nil {
		return err
	}
	return v.measure("read", func() error {
		for range v.Sizes.Repeat {
			if err := once(); err != nil {
				return err
			}
		}
		return nil
	})
}

func readFile(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, chunk))
	if err == nil && n != size {
		err = fmt.Errorf("read %s: %d of %d bytes", path, n, size)
	}
	return err
}

// write writes an upload, syncs it, and gives it up, as often as a blob is
// read. Each is a sample: what the disk takes for one differs much.
func (v *visit) write(_ context.Context, at *site) error {
	for n := range v.Sizes.Repeat {
		dir := filepath.Join(at.root, uploads, fmt.Sprint("write-", n))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		data := filepath.Join(dir, "data")
		if err := v.measure("write", func() error { return writeFile(data, v.Sizes.BlobSize) }); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file to the disk.
func writeFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(writeNoise(f, size), f.Sync(), f.Close())
}

// noise is what files are filled with.
var noise = func() []byte {
	b := make([]byte, chunk)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

func writeNoise(w io.Writer, size int64) error {
	for size > 0 {
		n := min(size, chunk)
		if _, err := w.Write(noise[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// storeBlob makes a blob as a registry does, by an upload that is renamed, and
// returns its path.
func storeBlob(root string, size int64) (string, error) {
	hash := digest.SHA256.Digester()
	if err := writeNoise(hash.Hash(), size); err != nil {
		return "", err
	}
	upload := filepath.Join(root, uploads, "blob", "data")
	path := filepath.Join(root, layout.BlobDataPath(hash.Digest()))
	for _, dir := range []string{filepath.Dir(upload), filepath.Dir(path)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	if err := writeFile(upload, size); err != nil {
		return "", err
	}
	return path, os.Rename(upload, path)
}
