package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/overlay"
)

func (c *command) syncCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sync RELEASE",
		Short: "Bring what a registry wrote by overlayfs into the store",
		Long: `Sync brings into the store and its index what was written to a release that is
mounted by overlayfs, while it is mounted. Umount does the same, and so does
every command that answers about the release. Mounted by FUSE there is nothing
to do: it is done as it is written.

Each blob is checked against its digest. What is not what its name says stays
out, is named, and makes the exit code 3.`,
		Example: `  regfs sync v1.1`,
		Args:    exactly("RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				report, err := client.Sync(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return printReport(cmd.OutOrStdout(), report, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printReport(w io.Writer, r overlay.Report, asJSON bool) error {
	if asJSON {
		if err := printJSON(w, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "%d blobs (%s) and %d links entered, %d removed\n", r.Blobs, humanize.Bytes(uint64(r.Bytes)), r.Links, r.Removed)
	}
	if len(r.Refused) == 0 {
		return nil
	}
	first := r.Refused[0]
	return fmt.Errorf("sync: %d files are not what their names say, the first is %s (%s): %w",
		len(r.Refused), first.Path, first.Reason, control.ErrRefused)
}
