package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) releaseCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Make, seal, list and remove releases",
	}
	cmd.AddCommand(c.releaseCreateCmd(), c.releaseLsCmd(), c.releaseSealCmd(), c.releaseShowCmd(), c.releaseForkCmd(), c.releaseRenameCmd(), c.releaseRmCmd())
	return group(cmd)
}

func (c *command) releaseRmCmd() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove releases",
		Long: `Rm removes releases with all that is their own: manifests, tags, links, plain
files. Their blobs stay in the store until "regfs gc" finds that no other
release needs them. A release that is mounted is not removed.

Interrupted, a release is half removed and cannot be used any more; rm, or the
next gc, removes the rest.`,
		Example: `  regfs release rm v0.9 && regfs gc
  regfs release rm -n v0.9`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, fmt.Errorf("%s: NAME is missing", cmd.CommandPath()))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				return removeReleases(cmd, client, args, dryRun)
			})
		},
	}
	cmd.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "say what would be removed, and remove nothing")
	return cmd
}

func removeReleases(cmd *cobra.Command, client *control.Client, names []string, dryRun bool) error {
	for _, name := range names { // all of them, before the first one goes
		if err := client.RemoveRelease(cmd.Context(), name, true); err != nil {
			return err
		}
	}
	for _, name := range names {
		if dryRun {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s would be removed\n", name)
			continue
		}
		if err := client.RemoveRelease(cmd.Context(), name, false); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is removed\n", name)
	}
	if !dryRun {
		fmt.Fprintln(cmd.ErrOrStderr(), "the space of its blobs comes back by \"regfs gc\"")
	}
	return nil
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
				fmt.Fprintln(t, "RELEASE\tCREATED\tSEALED\tMOUNTED AT")
				for _, r := range all {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Name, r.Created.Local().Format(time.DateTime), shortDigest(r.Sealed), r.Mountpoint)
				}
				return t.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// shortDigest is as much of a digest as tells it from others; "regfs release
// show" has all of it.
func shortDigest(d digest.Digest) string {
	if d == "" {
		return ""
	}
	return d.Encoded()[:12]
}
