package main

import (
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) releaseForkCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "fork OLD NEW",
		Short: "Make an open release that has what another one has",
		Long: `Fork makes a release NEW with all images of OLD, which may be sealed or mounted.
It takes no time and no space: the blobs are in the store already. Unfinished
uploads and other files of a registry are not taken along.`,
		Example: `  regfs release fork v1.1 v1.1.1`,
		Args:    exactly("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				return client.Fork(cmd.Context(), args[0], args[1])
			})
		},
	}
}

func (c *command) releaseRenameCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Give a release another name",
		Long: `Rename gives a release that is not mounted another name. Killed in the middle,
the release has one name or the other. The digest of a sealed release stays what
it is; its exports have the new name in the paths of their documents.`,
		Example: `  regfs release rename next v1.2`,
		Args:    exactly("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				return client.Rename(cmd.Context(), args[0], args[1])
			})
		},
	}
}
