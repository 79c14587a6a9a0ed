package main

import (
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/store"
)

func (c *command) initCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make a store",
		Long: `Init makes a store in the directory that --store or $REGFS_STORE names. The
directory must be new or empty. Only its owner may enter it.`,
		Example: `  regfs --store /srv/regfs init`,
		Args:    exactly(),
		RunE:    func(*cobra.Command, []string) error { return store.Init(c.dir) },
	}
}
