package main

import (
	"context"
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
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/export"
)

type exportFlags struct {
	output                string
	force, verify, dryRun bool
}

func (c *command) exportCmd() *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:   "export RELEASE -o FILE",
		Short: "Write a release as a tar of a registry's storage directory",
		Long: `Export writes exactly what the manifests of a release need, as a tar that
unpacks to a stock registry's storage directory. It works while the release is
mounted and the registry runs. The same release always gives the same bytes.

A blob that the release needs and the store has not is an error, and no tar is
left. Layers that may not be distributed, and platforms that were left out of an
index, are noted when they are absent.`,
		Example: `  regfs export v1.1 -o v1.1.tar
  regfs export v1.1 -o - | zstd > v1.1.tar.zst
  tar -xf v1.1.tar -C /var/lib/registry      # on the customer's side`,
		Args: exactly("RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.output == "" && !flags.dryRun {
				return usage(cmd, errors.New("export: --output is missing; \"-\" is standard output"))
			}
			return c.export(cmd.Context(), args[0], flags)
		},
	}
	cmd.Flags().StringVarP(&flags.output, "output", "o", "", "the file to write, or - for standard output")
	cmd.Flags().BoolVarP(&flags.force, "force", "f", false, "overwrite the file if it exists")
	cmd.Flags().BoolVar(&flags.verify, "verify", false, "check the digest of each blob while it is read")
	cmd.Flags().BoolVarP(&flags.dryRun, "dry-run", "n", false, "say what would be written, and write nothing")
	return cmd
}

func (c *command) export(ctx context.Context, release string, flags exportFlags) error {
	if err := checkOutput(flags); err != nil {
		return err
	}
	inv, err := c.inventory(ctx, release)
	if err != nil {
		return err
	}
	for _, note := range inv.Notes {
		fmt.Fprintln(os.Stderr, "note:", note)
	}
	if err := inv.Err(); err != nil {
		return err
	}
	size := inv.Size()
	if flags.dryRun {
		_, err := fmt.Printf("%s: %s, %s\n", release, contents(inv), humanize.Bytes(uint64(size)))
		return err
	}
	blobs, err := cas.Open(c.dir)
	if err != nil {
		return err
	}
	defer blobs.Close()
	begun := time.Now()
	fits := func(f *os.File) error { return checkSpace(f, size-inv.Shared(f, blobs)) }
	err = writeOutput(flags.output, fits, func(w io.Writer) error {
		bar := newProgress(size, release)
		defer bar.Close()
		return inv.WriteTar(ctx, w, blobs, export.Options{
			Verify:   flags.verify,
			Progress: func(n int64) { bar.Add64(n) },
		})
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %s, %s in %s\n", flags.output, contents(inv), humanize.Bytes(uint64(size)), time.Since(begun).Round(time.Millisecond))
	return nil
}

func (c *command) inventory(ctx context.Context, release string) (inv *export.Inventory, err error) {
	err = c.with(ctx, func(client *control.Client) error {
		inv, err = client.Inventory(ctx, release)
		return err
	})
	return inv, err
}

func contents(inv *export.Inventory) string {
	blobs := 0
	for _, f := range inv.Files {
		if f.Blob != "" {
			blobs++
		}
	}
	return fmt.Sprintf("%d blobs and %d links", blobs, len(inv.Files)-blobs)
}

// checkOutput finds out before any work what stands in the way of the output.
func checkOutput(flags exportFlags) error {
	if flags.dryRun {
		return nil
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
