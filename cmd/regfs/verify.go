package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/verify"
)

type verifyFlags struct {
	against        string
	digest         string
	exact          bool
	json           bool
	documentDigest digest.Digest // what digest says
}

func (f verifyFlags) options(tell func(int64)) verify.Options {
	return verify.Options{Digest: f.documentDigest, Exact: f.exact, Progress: tell}
}

func (c *command) verifyCmd() *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify RELEASE|DIR|TAR",
		Short: "Check a release, a registry's storage directory, its tar, or a patch",
		Long: `Verify reads a registry's storage directory, or the tar of one as regfs export
writes it, whole or as a patch, compressed or not; "-" is standard input. It
checks that each blob has the content that its name says, that links and tags
point at what they should, and that whatever a manifest needs is there and
linked. It needs no store. Each problem is a line on standard output; then the
exit code is 3.

With --digest it checks also that a sealed release is there: what its document
names, and that the document has that digest. A customer needs nothing else to
trust. The document is regfs/RELEASE/release.json, which exports of a sealed
release bring along; where it is lost, the names that are there have to make it.
A directory may have more, such as what earlier releases have left; --exact
refuses that.

With --against the tar is a patch, and the directory that of a registry over
which it is to be unpacked: whatever the patch requires must be there.

The name of a release in the store, where no file has it, checks that release:
of a sealed one that its document has the digest, and that the store's index
says the same; of all, each blob down to the last layer.`,
		Example: `  regfs verify v1.1
  regfs verify /var/lib/registry
  regfs verify v1.1.tar
  regfs verify --digest sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef /var/lib/registry
  cat v1.1.tar.0* | regfs verify -
  regfs verify --against /var/lib/registry v1.1-over-v1.0.tar`,
		Args: exactly("RELEASE, DIR or TAR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			isRelease, err := c.namesRelease(cmd, args[0], flags)
			if err != nil {
				return err
			}
			if isRelease {
				return c.verifyRelease(cmd, args[0], flags)
			}
			return verifyIt(cmd.Context(), args[0], flags)
		},
	}
	cmd.Flags().StringVar(&flags.against, "against", "", "the directory over which the patch is to be unpacked")
	cmd.Flags().StringVar(&flags.digest, "digest", "", "the digest of the sealed release that must be there")
	cmd.Flags().BoolVar(&flags.exact, "exact", false, "with --digest, nothing else may be there")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print the report as JSON")
	return cmd
}

func (f *verifyFlags) check(cmd *cobra.Command) error {
	if f.exact && f.digest == "" {
		return usage(cmd, errors.New("verify: --exact is for --digest"))
	}
	if f.digest == "" {
		return nil
	}
	d, err := digest.Parse(f.digest)
	if err != nil || d.Algorithm() != digest.SHA256 {
		return usage(cmd, fmt.Errorf("verify: --digest %q is no digest of a release; one is sha256: and 64 digits", f.digest))
	}
	f.documentDigest = d
	return nil
}

func verifyIt(ctx context.Context, name string, flags verifyFlags) error {
	report, err := verifyAny(ctx, name, flags)
	if err == nil && flags.against != "" {
		err = against(ctx, flags.against, report)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	return tellVerified(name, flags, report)
}

func tellVerified(name string, flags verifyFlags, report *verify.Report) (err error) {
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
func verifyAny(ctx context.Context, name string, flags verifyFlags) (*verify.Report, error) {
	size := int64(-1)
	if info, err := os.Stat(name); err == nil {
		if info.IsDir() {
			bar := newProgress(-1, name)
			defer bar.Close()
			return verify.Dir(ctx, name, flags.options(func(n int64) { bar.Add64(n) }))
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
	return verify.Tar(ctx, f, flags.options(func(n int64) { bar.Add64(n) }))
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
	has := "has"
	if r.Patch != nil {
		has = "makes" // with what it requires
	}
	if r.Release != "" {
		what += "; it " + has + " the release " + r.Release.String()
	}
	if len(r.Extra) > 0 {
		what += fmt.Sprintf(", and %s that are no part of it", count(len(r.Extra), "name"))
	}
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
