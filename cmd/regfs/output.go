package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/deliver"
)

// checkOutput finds out before any work what stands in the way of the output.
func checkOutput(flags exportFlags) error {
	if flags.dryRun {
		return nil
	}
	if flags.dir != "" {
		return checkTree(flags.dir)
	}
	if flags.output == "-" {
		if err := deliver.Check("-", deliver.Options{Split: flags.partSize}); err != nil {
			return fmt.Errorf("export: %w: %w", err, errUsage{})
		}
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return fmt.Errorf("export: standard output is a terminal; name a file with -o, or redirect: %w", errUsage{})
		}
		return nil
	}
	err := deliver.Check(flags.output, deliver.Options{Split: flags.partSize, Force: flags.force})
	if errors.Is(err, syscall.EISDIR) {
		err = fmt.Errorf("%w: %w", err, errUsage{})
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// fits checks for space before anything is written. Blocks that are shared
// with the store take none, and of what was kept it is there already. How small
// a compressed tar will be is not known, so the least is asked for.
func (p *parcel) fits(f *os.File, size, kept int64, blobs *cas.Store, flags exportFlags) error {
	switch {
	case flags.compression != deliver.None:
		size = min(size, p.files.Packed(blobs))
	case flags.partSize == 0 && kept == 0:
		size -= p.files.Shared(f, blobs)
	}
	return checkSpace(f, size-kept)
}

// checkSpace says before anything is written that a file will not have room.
func checkSpace(f *os.File, size int64) error {
	dir := filepath.Dir(f.Name())
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if free := int64(st.Bavail) * st.Bsize; free < size {
		return fmt.Errorf("export: %s needed in %s, %s free: %w", humanize.Bytes(uint64(size)), dir, humanize.Bytes(uint64(free)), syscall.ENOSPC)
	}
	return nil
}

// newProgress shows progress where somebody is there to see it.
func newProgress(size int64, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions64(size,
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionShowBytes(true),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

// bare strips what an os error says of operation and path, where the error
// that it goes into names its object itself.
func bare(err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		return inner.Err
	}
	return err
}
