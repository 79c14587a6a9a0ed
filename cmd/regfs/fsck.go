package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/fsck"
)

func (c *command) fsckCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check the store, and mend it",
		Long: `Fsck holds the index against the store: every blob that a release needs must be
there and have the size that its manifests state, and the index must have all
its records. It works while releases are mounted and pushed to.`,
		Example: `  regfs fsck`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				report, err := client.Check(cmd.Context())
				if err != nil {
					return err
				}
				return tell(cmd.OutOrStdout(), report, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
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
	fmt.Fprintf(w, "%d releases, %d images, %d blobs (%s) checked: %s\n",
		r.Releases, r.Images, r.Blobs, humanize.Bytes(uint64(r.Bytes)), r.Verdict())
}
