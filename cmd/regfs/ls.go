package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/export"
)

func (c *command) lsCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls RELEASE",
		Short: "List the images of a release",
		Long: `Ls lists the images of a release, mounted or not: every tag, and manifests that
have no tag and belong to no other. The size is what the image needs, each blob
counted once, in bytes with --json.`,
		Example: `  regfs ls v1.1
  regfs ls v1.1 --json | jq -r '.[] | "\(.repository):\(.tag)@\(.digest)"'`,
		Args: exactly("RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				images, err := client.Images(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), images)
				}
				return printImages(cmd.OutOrStdout(), images)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printImages(w io.Writer, images []export.Image) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REPOSITORY\tTAG\tDIGEST\tSIZE")
	for _, i := range images {
		tag := i.Tag
		if tag == "" {
			tag = "<none>"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", i.Repository, tag, i.Digest, humanize.Bytes(uint64(i.Size)))
	}
	return t.Flush()
}
