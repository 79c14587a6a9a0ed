package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/store"
)

// version is set by the Makefile.
var version = "development"

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  regfs version`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			toolchain := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				toolchain = info.GoVersion
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "regfs %s, store format %d, %s\n", version, store.Format, toolchain)
			return err
		},
	}
}
