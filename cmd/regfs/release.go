package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) releaseCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Make and list releases",
	}
	cmd.AddCommand(c.releaseCreateCmd(), c.releaseLsCmd())
	return group(cmd)
}

func (c *command) releaseCreateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make an empty release",
		Long: `Create makes a release without images. A name has letters, digits, '.', '_',
'+' and '-'. What earlier releases brought into the store is there for a
registry on the new release's mount, but no part of it until it is pushed.`,
		Example: `  regfs release create v1.1`,
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				return client.CreateRelease(cmd.Context(), args[0])
			})
		},
	}
}

func (c *command) releaseLsCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the releases, the oldest first",
		Example: `  regfs release ls --json`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				all, err := client.Releases(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), all)
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "RELEASE\tCREATED\tMOUNTED AT")
				for _, r := range all {
					fmt.Fprintf(t, "%s\t%s\t%s\n", r.Name, r.Created.Local().Format(time.DateTime), r.Mountpoint)
				}
				return t.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
