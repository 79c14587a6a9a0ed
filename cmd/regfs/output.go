package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
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
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return fmt.Errorf("export: standard output is a terminal; name a file with -o, or redirect: %w", errUsage{})
		}
		return nil
	}
	info, err := os.Stat(flags.output)
	if err == nil && info.Mode().IsRegular() && !flags.force {
		return fmt.Errorf("export: %s exists; use --force to overwrite it: %w", flags.output, fs.ErrExist)
	}
	if err == nil && info.IsDir() {
		return fmt.Errorf("export: %s is a directory; name a file in it: %w", flags.output, errUsage{})
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// writeOutput lets write fill the output. A file appears under its name when
// it is whole and on the disk; if anything goes wrong, or it does not fit,
// nothing is left of it.
func writeOutput(name string, fits func(*os.File) error, write func(io.Writer) error) error {
	if name == "-" {
		return write(os.Stdout)
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return writeDevice(name, write)
	}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target // a link to the file stays one
	}
	if _, err := os.Stat(filepath.Dir(name)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // which is its name no more if all went well
	if err = fits(f); err == nil {
		err = write(f)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// writeDevice writes to what is no file: a pipe, /dev/null.
func writeDevice(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
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
