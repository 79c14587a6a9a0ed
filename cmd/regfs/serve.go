package main

import (
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) serveCmd() *cobra.Command {
	var idleExit bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a store's mounts in the foreground",
		Long: `Serve opens the store and waits for mounts. "regfs mount" starts it when it is
needed, so it is only of use where the server shall stay, and be somebody's to
watch over: as a service of its own. On SIGINT and SIGTERM it takes all mounts
down and leaves.`,
		Example: `  regfs --store /srv/regfs serve &
  regfs --store /srv/regfs mount v1.0 /var/lib/registry --detach`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Whoever reads the log may end before the server does.
			signal.Ignore(syscall.SIGPIPE)
			return control.Serve(cmd.Context(), c.dir, idleExit, c.log())
		},
	}
	cmd.Flags().BoolVar(&idleExit, "idle-exit", false, "leave when the last mount has ended")
	return cmd
}
