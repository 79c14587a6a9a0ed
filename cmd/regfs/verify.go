package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/verify"
)

type verifyFlags struct {
	against string
	json    bool
}

func verifyCmd() *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify DIR|TAR",
		Short: "Check a registry's storage directory, its tar, or a patch; no store is needed",
		Long: `Verify reads a registry's storage directory, or the tar of one as regfs export
writes it, whole or as a patch, compressed or not; "-" is standard input. It
checks that each blob has the content that its name says, that links and tags
point at what they should, and that whatever a manifest needs is there and
linked. Each problem is a line on standard output; then the exit code is 3.

With --against the tar is a patch, and the directory that of a registry over
which it is to be unpacked: whatever the patch requires must be there.`,
		Example: `  regfs verify /var/lib/registry
  regfs verify v1.1.tar
  cat v1.1.tar.0* | regfs verify -
  regfs verify --against /var/lib/registry v1.1-over-v1.0.tar`,
		Args: exactly("DIR|TAR"),
		RunE: func(cmd *cobra.Command, args []string) error { return verifyIt(cmd.Context(), args[0], flags) },
	}
	cmd.Flags().StringVar(&flags.against, "against", "", "the directory over which the patch is to be unpacked")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print the report as JSON")
	return cmd
}

func verifyIt(ctx context.Context, name string, flags verifyFlags) error {
	report, err := verifyAny(ctx, name)
	if err == nil && flags.against != "" {
		err = against(ctx, flags.against, report)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	if flags.json {
		err = printJSON(stdout, report)
	} else {
		err = printVerified(stdout, name, flags.against, report)
	}
	if err == nil && report.Err() != nil {
		err = fmt.Errorf("verify %s: %w", name, report.Err())
	}
	return err
}

// verifyAny checks a directory, a tar, or standard input.
func verifyAny(ctx context.Context, name string) (*verify.Report, error) {
	size := int64(-1)
	if info, err := os.Stat(name); err == nil {
		if info.IsDir() {
			bar := newProgress(-1, name)
			defer bar.Close()
			return verify.Dir(ctx, name, verify.Options{Progress: func(n int64) { bar.Add64(n) }})
		}
		size = info.Size()
	}
	f, err := openInput(name)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	bar := newProgress(size, name)
	defer bar.Close()
	return verify.Tar(ctx, f, verify.Options{Progress: func(n int64) { bar.Add64(n) }})
}

func against(ctx context.Context, dir string, report *verify.Report) error {
	size := int64(-1)
	if report.Patch != nil {
		size = report.Patch.Requires.Bytes
	}
	bar := newProgress(size, dir)
	defer bar.Close()
	return verify.Against(ctx, dir, report, verify.Options{Progress: func(n int64) { bar.Add64(n) }})
}

func printVerified(w io.Writer, name, base string, r *verify.Report) error {
	for _, p := range r.Problems {
		if _, err := fmt.Fprintln(w, p); err != nil {
			return err
		}
	}
	if len(r.Problems) > 0 {
		return nil
	}
	what := fmt.Sprintf("%s, %s with %s, %s", count(r.Tags, "tag"), count(r.Blobs, "blob"), count(r.Links, "link"),
		humanize.Bytes(uint64(r.Bytes)))
	if p := r.Patch; p != nil {
		what += fmt.Sprintf("; yields %s, and requires %s (%s)", p.Release, count(p.Requires.Blobs, "blob"),
			humanize.Bytes(uint64(p.Requires.Bytes)))
		if base != "" {
			what += ", which " + base + " has"
		}
	}
	_, err := fmt.Fprintf(w, "%s: good: %s\n", name, what)
	return err
}
