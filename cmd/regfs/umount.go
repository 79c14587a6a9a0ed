package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/mountpoint"
)

func (c *command) umountCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount a release",
		Long: `Umount ends a mount. It finds the store by the mount. While some process uses
the mount, it refuses and names the process; with --force it waits for it a
moment and then takes the mount away. What a server that died has left behind is
cleared away.`,
		Example: `  regfs umount /var/lib/registry`,
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resolve(args[0])
			if err != nil {
				return err
			}
			at, ok, err := mountpoint.Find(dir)
			if err != nil {
				return err
			}
			if ok && at.Dead() {
				return at.Clear()
			}
			if ok {
				c.dir = at.Store
			}
			// If it is not here, a server may still have it for a container.
			return c.umount(cmd, dir, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "take the mount away from those who use it")
	return cmd
}

func (c *command) umount(cmd *cobra.Command, mountpoint string, force bool) error {
	return c.with(cmd.Context(), func(client *control.Client) error {
		status, err := client.Status(cmd.Context())
		if err != nil {
			return err
		}
		err = client.Unmount(cmd.Context(), mountpoint, force)
		if errors.Is(err, control.ErrLeaving) {
			return nil // and its mounts leave with it
		}
		if err == nil {
			control.AwaitExit(c.dir, status.Server)
		}
		return err
	})
}
