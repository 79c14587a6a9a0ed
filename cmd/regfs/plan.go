package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/deliver"
	"github.com/regfs/regfs/export"
)

func (c *command) planCmd() *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:   "plan RELEASE",
		Short: "Say how large an export or a patch would be, and what makes it so",
		Long: `Plan is the short form of "regfs export RELEASE -n": it computes an export, or
with --base a patch, to the byte, and writes nothing. It names the images and
the layers that cause the size, the largest first. If most of a patch is there
because base images were rebuilt, it says so, and names their new layers.`,
		Example: `  regfs plan v1.1 --base v1.0
  regfs plan v1.1 --works-on-any v1.0,v0.9 --json | jq .size
  regfs plan v1.1 --images core.list --platform linux/amd64`,
		Args: exactly("RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.dryRun = true
			if err := flags.check(cmd); err != nil {
				return err
			}
			return c.export(cmd.Context(), args[0], flags)
		},
	}
	flags.addContents(cmd.Flags())
	cmd.Flags().BoolVar(&flags.json, "json", false, "print the plan as JSON")
	return cmd
}

// shown is how many of the largest images and blobs a plan names; --json has
// all.
const shown = 10

// tell prints what would be written.
func (p *parcel) tell(size int64, flags exportFlags) error {
	plan := p.inv.Plan()
	if p.patch != nil {
		plan = p.patch.Plan()
	}
	plan.Size, plan.Exact = size, flags.compression == deliver.None
	if flags.json {
		return printJSON(stdout, plan)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	before := ""
	if !plan.Exact {
		before = " before it is compressed"
	}
	fmt.Fprintf(w, "%s: %s, %s (%d bytes)%s\n", p.name, p.contents(), humanize.Bytes(uint64(size)), size, before)
	if p.patch != nil {
		fmt.Fprintf(w, "the base has %s of it already, %s\n", humanize.Bytes(uint64(plan.Requires.Bytes)), count(plan.Requires.Blobs, "blob"))
	}
	tellRebuilt(w, plan)
	if len(plan.Images) > 0 {
		fmt.Fprintf(w, "\nBYTES\tALONE\tIMAGE\n")
		for _, i := range plan.Images[:min(shown, len(plan.Images))] {
			fmt.Fprintf(w, "%s\t%s\t%s\n", humanize.Bytes(uint64(i.Bytes)), humanize.Bytes(uint64(i.Alone)), i.Name)
		}
		tellMore(w, len(plan.Images), "image")
		fmt.Fprintf(w, "\nBYTES\tBLOB\tNEEDED BY\n")
		for _, b := range plan.Blobs[:min(shown, len(plan.Blobs))] {
			fmt.Fprintf(w, "%s\t%s %s\t%s\n", humanize.Bytes(uint64(b.Bytes)), b.Role, b.Digest, few(b.Images))
		}
		tellMore(w, len(plan.Blobs), "blob")
	}
	return w.Flush()
}

// tellRebuilt says plainly why a patch is large.
func tellRebuilt(w *tabwriter.Writer, plan *export.Plan) {
	r := plan.Rebuilt
	if r == nil {
		return
	}
	fmt.Fprintf(w, "\nMost of it, %s of %s, are images that were rebuilt: the base has their repository, and none of their layers:\n%s.\n",
		humanize.Bytes(uint64(r.Bytes)), humanize.Bytes(uint64(plan.Adds.Bytes)), few(r.Images))
	if len(r.Layers) > 0 {
		fmt.Fprintf(w, "Several of them share new layers, so their base image was most likely rebuilt:\n\nBYTES\tSHARED BY\tNEW LAYER\n")
		for _, l := range r.Layers[:min(shown, len(r.Layers))] {
			fmt.Fprintf(w, "%s\t%s\t%s\n", humanize.Bytes(uint64(l.Bytes)), count(l.SharedBy, "image"), l.Digest)
		}
		tellMore(w, len(r.Layers), "layer")
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "Layers are compared whole. Built on the base image of before, such images make a small patch.\n")
}

func tellMore(w *tabwriter.Writer, n int, what string) {
	if n > shown {
		fmt.Fprintf(w, "and %s more (--json names all)\n", count(n-shown, what))
	}
}

// few names some, and counts the others.
func few(names []string) string {
	const most = 3
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
