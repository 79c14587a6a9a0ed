package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/regfs/regfs/deliver"
	"github.com/regfs/regfs/export"
)

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
	if r.Layer != "" {
		fmt.Fprintf(w, "%d of them share the new layer %s: their base image was most likely rebuilt.\n", r.SharedBy, r.Layer)
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
