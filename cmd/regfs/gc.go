package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/gc"
)

type gcFlags struct {
	dryRun, asJSON bool
	grace          time.Duration
	keepLast       int
	keep           []string
}

// defaultGrace is how long a push may take from its first blob to its manifest,
// with a night in between.
const defaultGrace = 24 * time.Hour

func (c *command) gcCmd() *cobra.Command {
	var flags gcFlags
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove the blobs that no release needs",
		Long: `Gc removes from the store the blobs that no release needs any more, while
releases are mounted and registries push. It prints what goes, how much that is,
and why the rest stays:

  needed    a manifest of some release needs it
  uploaded  it was uploaded less than --grace ago, and its manifest may be coming
  pinned    somebody counts on it: it was seen through a mount since that mount
            began (the registry there may remember it), or is being exported
  new       it came while gc ran

With --keep-last it removes releases first: all but the newest N, those named by
--keep, and those that are mounted.

Gc can be interrupted at any time; the next one does the rest.`,
		Example: `  regfs gc -n                           # what would go, and why the rest stays
  regfs gc
  regfs gc --keep-last 5 --keep v1.0 -n
  regfs gc --grace 0                    # also what was uploaded a moment ago and is in no image`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := flags.request(cmd)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(client *control.Client) error {
				out := gcOutput{flags: flags, out: cmd.OutOrStdout(), begun: time.Now()}
				return client.GC(cmd.Context(), req, out.tell)
			})
		},
	}
	cmd.Flags().BoolVarP(&flags.dryRun, "dry-run", "n", false, "print what would be removed, and remove nothing")
	cmd.Flags().DurationVar(&flags.grace, "grace", defaultGrace, "how long uploaded blobs stay that no release needs")
	cmd.Flags().IntVar(&flags.keepLast, "keep-last", 0, "remove all releases but the newest `N`, those named by --keep, and those that are mounted")
	cmd.Flags().StringArrayVar(&flags.keep, "keep", nil, "with --keep-last: a release that stays; may be given several times")
	cmd.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	return cmd
}

func (f gcFlags) request(cmd *cobra.Command) (control.GCRequest, error) {
	req := control.GCRequest{DryRun: f.dryRun, Grace: f.grace}
	retains := cmd.Flags().Changed("keep-last")
	switch {
	case f.grace < 0:
		return req, usage(cmd, errors.New("gc: --grace is negative"))
	case f.keepLast < 0:
		return req, usage(cmd, errors.New("gc: --keep-last is negative"))
	case len(f.keep) > 0 && !retains:
		return req, usage(cmd, errors.New("gc: --keep says what --keep-last leaves; give --keep-last, too"))
	}
	if retains {
		req.Keep = &control.Retention{Last: f.keepLast, Names: f.keep}
	}
	return req, nil
}

// A gcOutput prints what a collection tells.
type gcOutput struct {
	flags gcFlags
	out   io.Writer
	begun time.Time
	plan  *control.GCPlan
	bar   *progressbar.ProgressBar
}

// gcResult is the JSON output.
type gcResult struct {
	DryRun bool `json:"dry_run"`
	*control.GCPlan
	Removed gc.Amount `json:"removed"`
}

func (o *gcOutput) tell(news control.GCNews) error {
	switch {
	case news.Plan != nil:
		o.plan = news.Plan
		if !o.flags.asJSON {
			printPlan(o.out, o.plan, o.flags)
		}
		if !o.flags.dryRun {
			o.bar = newProgress(o.plan.Remove.Bytes, "gc")
		}
	case news.Gone != nil:
		o.bar.Set64(news.Gone.Bytes)
	case news.End != nil:
		if o.bar != nil {
			o.bar.Close()
		}
		return o.end(news.End.Gone)
	}
	return nil
}

func (o *gcOutput) end(gone gc.Amount) error {
	if o.flags.asJSON {
		return printJSON(o.out, gcResult{o.flags.dryRun, o.plan, gone})
	}
	if !o.flags.dryRun {
		fmt.Fprintf(os.Stderr, "%s removed in %s\n", amount(gone), time.Since(o.begun).Round(time.Millisecond))
	}
	return nil
}

func amount(a gc.Amount) string {
	return fmt.Sprintf("%d blobs (%s)", a.Blobs, humanize.Bytes(uint64(a.Bytes)))
}

func printPlan(w io.Writer, p *control.GCPlan, flags gcFlags) {
	if len(p.RemoveReleases) > 0 {
		fmt.Fprintf(w, "releases that go: %s\n", strings.Join(p.RemoveReleases, " "))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tBLOBS\tSIZE\tWHY")
	row := func(what string, a gc.Amount, why string) {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", what, a.Blobs, humanize.Bytes(uint64(a.Bytes)), why)
	}
	row("goes", p.Remove, "no release needs it")
	for _, k := range p.Keep {
		row("stays", k.Amount, because(k, flags.grace))
	}
	t.Flush()
	if len(p.Releases) == 0 {
		return
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tNEEDS\tSIZE\tNEEDED BY NO OTHER")
	for _, r := range p.Releases {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", r.Name, r.Blobs, humanize.Bytes(uint64(r.Bytes)), humanize.Bytes(uint64(r.Only.Bytes)))
	}
	t.Flush()
}

func because(k gc.Kept, grace time.Duration) string {
	switch k.Reason {
	case gc.Needed:
		return "needed by releases"
	case gc.Uploaded:
		return fmt.Sprintf("uploaded less than %s ago, to %s", grace, k.Detail)
	case gc.New:
		return "came while gc ran"
	}
	return k.Detail
}
