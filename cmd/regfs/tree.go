package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
)

// checkTree finds out before any work what stands in the way of a tree.
func checkTree(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err = os.Stat(filepath.Dir(filepath.Clean(dir)))
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("export: %s is no directory: %w", dir, errUsage{})
	case err == nil && len(entries) > 0:
		return fmt.Errorf("export: %s is not empty; name a new directory: %w", dir, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// writeTree writes a tree beside its place, and then moves it there: a
// directory of that name is whole, or there is none. What an export that was
// killed has left there, the next one removes.
func (p *parcel) writeTree(ctx context.Context, blobs *cas.Store, flags exportFlags) error {
	begun := time.Now()
	dir := filepath.Clean(flags.dir)
	if target, err := filepath.EvalSymlinks(dir); err == nil {
		dir = target
	}
	part := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".part")
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(part) // which is no more if all went well
	size := p.files.Bytes()
	if err := p.fitsTree(part, size, blobs); err != nil {
		return err
	}
	bar := newProgress(size, p.inv.Release)
	defer bar.Close()
	err := p.inv.Blame(p.files.WriteDir(ctx, part, blobs, archive.Options{
		Verify:   flags.verify,
		Progress: func(n int64) { bar.Add64(n) },
	}))
	if err == nil {
		err = os.Rename(part, dir) // over an empty one
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s: %s, %s in %s\n", dir, p.contents(), humanize.Bytes(uint64(size)), time.Since(begun).Round(time.Millisecond))
	return nil
}

// fitsTree checks for space, as for a tar: what is shared takes none.
func (p *parcel) fitsTree(dir string, size int64, blobs *cas.Store) error {
	f, err := os.CreateTemp(dir, "space-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return checkSpace(f, size-p.files.Shared(f, blobs))
}
