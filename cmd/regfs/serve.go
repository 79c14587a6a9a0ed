package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/supervise"
)

func (c *command) serveCmd() *cobra.Command {
	var idleExit bool
	var supervised string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a store's mounts in the foreground",
		Long: `Serve opens the store and waits for mounts. "regfs mount" starts it when it is
needed, so it is only of use where the server shall stay, and be somebody's to
watch over: as a service of its own. On SIGINT and SIGTERM it takes all mounts
down and leaves.

The server proper is a second process. If that crashes, it is started again, and
mounts what was mounted at the same places. After eight crashes in a row this
command gives up.`,
		Example: `  regfs --store /srv/regfs serve &
  regfs --store /srv/regfs mount v1.0 /var/lib/registry --detach`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Whoever reads the log may end before the server does.
			signal.Ignore(syscall.SIGPIPE)
			if supervised != "" {
				return c.serve(cmd.Context(), control.ServeOptions{IdleExit: idleExit, Again: supervised == nextServer})
			}
			return supervise.Run(cmd.Context(), c.serverCommand(idleExit), supervise.Default, c.log())
		},
	}
	cmd.Flags().BoolVar(&idleExit, "idle-exit", false, "leave when the last mount has ended")
	cmd.Flags().StringVar(&supervised, "supervised", "", "be the server proper: the first, or another after a crash")
	_ = cmd.Flags().MarkHidden("supervised")
	return cmd
}

// serverCommand makes the command of the server proper: this very program, also
// if another has taken its name meanwhile.
func (c *command) serverCommand(idleExit bool) func(crashed bool) *exec.Cmd {
	args := []string{os.Args[0], "--store", c.dir, "serve"}
	if idleExit {
		args = append(args, "--idle-exit")
	}
	if c.verbose {
		args = append(args, "--verbose")
	}
	return func(crashed bool) *exec.Cmd {
		which := firstServer
		if crashed {
			which = nextServer
		}
		return &exec.Cmd{
			Path: "/proc/self/exe", Args: append(slices.Clip(args), "--supervised="+which),
			Stdout: os.Stdout, Stderr: os.Stderr,
		}
	}
}

// What a server proper is to its supervisor.
const (
	firstServer = "first"
	nextServer  = "again"
)

// serve is the server proper.
func (c *command) serve(ctx context.Context, o control.ServeOptions) error {
	log := c.log()
	child, err := supervise.Attach(func() {
		log.Warn("the supervisor is gone; the server goes on, and nobody will start it again after a crash")
	})
	if err != nil {
		return err
	}
	o.Serving, o.Ending, o.Supervisor = child.Serving, child.End, child.Supervisor
	err = control.Serve(ctx, c.dir, o, log)
	if !errors.Is(err, control.ErrBroken) {
		child.End()
	}
	return err
}
