package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) statusCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the store, its server and its mounts",
		Example: `  regfs status --json`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(client *control.Client) error {
				s, err := client.Status(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), s)
				}
				return printStatus(cmd.OutOrStdout(), s)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s control.Status) error {
	server := "none runs"
	if s.Server != 0 {
		server = fmt.Sprintf("process %d, supervised by process %d", s.Server, s.Supervisor)
		if s.Supervisor == 0 {
			server = fmt.Sprintf("process %d, and nobody starts it again after a crash", s.Server)
		}
	}
	fmt.Fprintf(w, "store:     %s (format %d)\n", s.Store, s.Format)
	fmt.Fprintf(w, "disk:      %s free of %s\n", humanize.Bytes(s.DiskFree), humanize.Bytes(s.DiskSize))
	fmt.Fprintf(w, "server:    %s\n", server)
	fmt.Fprintf(w, "releases:  %d, %d mounted\n", s.Releases, len(s.Mounts))
	for _, d := range s.Dead {
		why := ""
		if d.Error != "" {
			why = " (" + d.Error + ")"
		}
		fmt.Fprintf(w, "dead:      %s at %s%s; mount or umount it\n", cmp.Or(d.Release, "a release"), d.Mountpoint, why)
	}
	if len(s.Mounts) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tMOUNTED AT\tBACKEND\tREUSE\tSINCE\tPASSTHROUGH")
	for _, m := range s.Mounts {
		passthrough := "yes"
		if !m.Passthrough {
			passthrough = "no: " + m.Reason
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Release, m.Mountpoint, m.Backend, m.Reuse, m.Since.Local().Format(time.DateTime), passthrough)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if m.Fallback != "" {
			fmt.Fprintf(w, "\n%s is not mounted by FUSE: %s\n", m.Release, m.Fallback)
		}
	}
	return nil
}
