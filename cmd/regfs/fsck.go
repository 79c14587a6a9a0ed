package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/fsck"
	"github.com/regfs/regfs/store"
)

type fsckOptions struct {
	data    bool
	repair  bool
	rebuild bool
	rate    string
	asJSON  bool
}

func (c *command) fsckCmd() *cobra.Command {
	var o fsckOptions
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check the store, and mend it",
		Long: `Fsck holds the index against the store: every blob that a release needs must be
there and have the size that its manifests state, and the index must have all
its records. It works while releases are mounted and pushed to.

With --data it also reads and hashes every blob, on all processors. Interrupted,
the next --data goes on where it was; after a whole one the next begins anew.

With --repair, damaged blobs are put aside into the directory quarantine of the
store, and the next push of an image brings them back; what follows from other
things is derived anew; what was left half-done is removed.

With --rebuild-index, for which no server may run, a new index is made of the
names that were written down beside each release (when it was made and
unmounted, and every 30 seconds while mounted), and of what the manifests in the
store say. The old one is kept under another name. Manifests that no release
names come into the release lost+found.

The exit code is 3 when something is damaged and not mended, and 0 when not.`,
		Example: `  regfs fsck
  regfs fsck --data --rate 100MB/s
  regfs fsck --data --repair
  regfs fsck --rebuild-index
  regfs fsck --json | jq -r '.findings[] | select(.damage) | .affected[]? | .release, .images[]'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.fsck(cmd, o) },
	}
	cmd.Flags().BoolVar(&o.rebuild, "rebuild-index", false, "make a new index from what was written down beside the releases")
	cmd.Flags().BoolVar(&o.repair, "repair", false, "put damaged blobs aside, and mend what can be derived")
	cmd.Flags().BoolVar(&o.data, "data", false, "read every blob")
	cmd.Flags().StringVar(&o.rate, "rate", "", "with --data, read at most so much in a second, such as 100MB/s")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

func (c *command) fsck(cmd *cobra.Command, o fsckOptions) error {
	if o.rebuild && (o.data || o.repair) {
		return usage(cmd, errors.New("--rebuild-index goes with neither --data nor --repair; run them after it"))
	}
	if o.rebuild {
		return c.rebuildIndex(cmd, o.asJSON)
	}
	rate, err := parseRate(o.rate)
	if err != nil {
		return usage(cmd, err)
	}
	if rate > 0 && !o.data {
		return usage(cmd, errors.New("--rate is for --data"))
	}
	report, err := c.check(cmd.Context(), o, rate)
	if err != nil {
		return err
	}
	if o.repair && report.PutAside() {
		fmt.Fprintln(cmd.ErrOrStderr(), "note: a registry that keeps blob descriptors in memory (cache: blobdescriptor: inmemory) "+
			"does not hear of this; restart it before you push")
	}
	return tell(cmd.OutOrStdout(), report, o.asJSON)
}

func (c *command) rebuildIndex(cmd *cobra.Command, asJSON bool) error {
	rebuilt, err := fsck.Rebuild(cmd.Context(), c.dir, c.log())
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w; for --rebuild-index no server may run: unmount all, or stop \"regfs serve\"", err)
	}
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), rebuilt)
	} else {
		printRebuilt(cmd.OutOrStdout(), rebuilt)
	}
	return errors.Join(err, rebuilt.Err())
}

func printRebuilt(w io.Writer, r *fsck.Rebuilt) {
	if r.Aside != "" {
		fmt.Fprintf(w, "the old index is kept in %s\n", r.Aside)
	}
	for _, release := range r.Releases {
		if release.Problem != "" {
			fmt.Fprintf(w, "%s: came back empty: %s\n", release.Name, release.Problem)
			continue
		}
		fmt.Fprintf(w, "%s: %s, as of %s\n", release.Name, count(release.Images, "image"), release.As.Local().Format(time.DateTime))
		for _, missing := range release.Missing {
			fmt.Fprintf(w, "  %s\n", missing)
		}
	}
	if r.Unnamed > 0 {
		fmt.Fprintf(w, "%d manifests that no release names are in the release %s\n", r.Unnamed, fsck.Found)
	}
	fmt.Fprint(w, `lost, as far as it was not written down: tags set or moved since those times (their manifests are in lost+found);
  which blobs were uploaded or linked and needed by no image, or were removed; the times of links and tags; empty directories
`)
	printFindings(w, r.Report)
}

// check lets go of the store while the blobs are read, which may take hours:
// without a server, nobody else could have it.
func (c *command) check(ctx context.Context, o fsckOptions, rate int64) (report *fsck.Report, err error) {
	err = c.with(ctx, func(client *control.Client) error {
		if o.repair {
			report, err = client.Repair(ctx)
			return err
		}
		report, err = client.Check(ctx)
		return err
	})
	if err != nil || !o.data {
		return report, err
	}
	result, err := c.scan(ctx, rate)
	if err != nil {
		return nil, err
	}
	err = c.with(ctx, func(client *control.Client) error {
		affects, err := client.Affects(ctx, result.Digests())
		report.Merge(result, affects)
		if err != nil || !o.repair {
			return err
		}
		outcomes, err := client.Quarantine(ctx, result.Digests())
		report.Mended(outcomes)
		return err
	})
	return report, err
}

func (c *command) scan(ctx context.Context, rate int64) (fsck.Result, error) {
	_, size, err := fsck.Measure(ctx, c.dir)
	if err != nil {
		return fsck.Result{}, err
	}
	bar := newProgress(size, "reading blobs")
	defer bar.Finish()
	return fsck.Scan(ctx, c.dir, fsck.Options{Rate: rate, Progress: func(n int64) { bar.Add64(n) }})
}

// parseRate reads "100MB/s", "100MB" or "100MiB/s".
func parseRate(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(strings.TrimSuffix(text, "/s"))
	if err != nil || n == 0 || n > math.MaxInt64 {
		return 0, fmt.Errorf("--rate %s: no number of bytes, such as 100MB/s", text)
	}
	return int64(n), nil
}

// tell prints a report; damage is an error.
func tell(w io.Writer, r *fsck.Report, asJSON bool) error {
	if asJSON {
		if err := printJSON(w, r); err != nil {
			return err
		}
	} else {
		printFindings(w, r)
	}
	return r.Err()
}

func printFindings(w io.Writer, r *fsck.Report) {
	var kind fsck.Kind
	for _, f := range r.Findings {
		if f.Kind != kind {
			kind = f.Kind
			fmt.Fprintf(w, "%s:\n", kind)
		}
		fmt.Fprintf(w, "  %s\n", f)
	}
	if all := r.Affected(); len(all) > 0 {
		fmt.Fprintln(w, "affected images:")
		for _, a := range all {
			for _, image := range a.Images {
				fmt.Fprintf(w, "  %s %s\n", a.Release, image)
			}
		}
	}
	if r.Read > 0 {
		fmt.Fprintf(w, "%d blobs (%s) read\n", r.Read, humanize.Bytes(uint64(r.ReadBytes)))
	}
	fmt.Fprintf(w, "%s, %s, %s (%s) checked: %s\n",
		count(r.Releases, "release"), count(r.Images, "image"), count(r.Blobs, "blob"), humanize.Bytes(uint64(r.Bytes)), r.Verdict())
}
