package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/bench"
)

type benchFlags struct {
	dir, registry, output, render string
	rounds, images, releases      int
	workloads, subjects           []string
	quick, asJSON                 bool
}

// The rounds of the two kinds of run.
const (
	fullRounds  = 5
	quickRounds = 1
)

func benchCmd() *cobra.Command {
	var flags benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure regfs against a plain directory and kernel overlayfs",
		Long: `Bench measures, on this machine, what regfs and the ways of keeping a registry's
storage that it replaces take for the same work by the same stock registry. It
needs registry 3.1, and root for all but a plain directory and regfs. A whole
run takes some 15 minutes and 25 GB of disk in --dir, and leaves nothing behind;
--quick takes less than a minute, and its figures say little.

The report goes to standard output as Markdown; with --output it goes into a
directory, with charts and with every single sample as JSON. --render makes a
report anew from such a file, and measures nothing.

Workloads: ` + strings.Join(bench.Workloads(), ", ") + `.
Subjects:  ` + strings.Join(bench.Subjects(), ", ") + `.`,
		Example: `  regfs bench --quick
  regfs bench --output report
  regfs bench --workload push,known --subject overlayfs,fuse
  regfs bench --render report/results.json --output report`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := flags.report(cmd.Context())
			if errors.Is(err, bench.ErrUsage) {
				return usage(cmd, err)
			}
			if err != nil {
				return err
			}
			return flags.print(cmd, report)
		},
	}
	flags.add(cmd)
	return cmd
}

func (f *benchFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "a directory on the disk to measure (default: the temporary directory)")
	flags.StringVar(&f.registry, "registry", "", "the stock registry's program (default: \"registry\" in $REGFS_TOOLS or $PATH)")
	flags.StringVarP(&f.output, "output", "o", "", "a directory for the report")
	flags.StringVar(&f.render, "render", "", "make the report from this JSON file")
	flags.IntVar(&f.rounds, "rounds", 0, fmt.Sprintf("rounds that are counted (default: %d, %d with --quick)", fullRounds, quickRounds))
	flags.IntVar(&f.images, "images", 0, "images in a release (default: 100, 20 with --quick)")
	flags.IntVar(&f.releases, "releases", 0, "releases in the history (default: 50, 4 with --quick)")
	flags.StringSliceVar(&f.workloads, "workload", nil, "what to measure (default: everything)")
	flags.StringSliceVar(&f.subjects, "subject", nil, "whom to measure (default: everybody)")
	flags.BoolVar(&f.quick, "quick", false, "show in less than a minute that all works")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// report measures, or reads what was measured.
func (f *benchFlags) report(ctx context.Context) (*bench.Report, error) {
	if f.render != "" {
		file, err := os.Open(f.render)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return bench.Read(file)
	}
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	return bench.Run(ctx, options)
}

func (f *benchFlags) options() (bench.Options, error) {
	program, err := os.Executable()
	if err != nil {
		return bench.Options{}, err
	}
	o := bench.Options{
		Program: program, Registry: f.findRegistry(), Dir: f.dir, Rounds: fullRounds,
		Workloads: f.workloads, Subjects: f.subjects, Sizes: bench.FullSizes, Progress: os.Stderr,
	}
	if f.quick {
		o.Rounds, o.Sizes = quickRounds, bench.QuickSizes
	}
	for _, n := range []struct {
		from int
		to   *int
	}{{f.rounds, &o.Rounds}, {f.images, &o.Sizes.Images}, {f.releases, &o.Sizes.Releases}} {
		if n.from != 0 {
			*n.to = n.from
		}
	}
	return o, nil
}

// findRegistry returns the registry's program; whether it is there is found out
// by who uses it.
func (f *benchFlags) findRegistry() string {
	if f.registry != "" {
		return f.registry
	}
	if path, err := exec.LookPath(filepath.Join(os.Getenv("REGFS_TOOLS"), "registry")); err == nil {
		return path
	}
	return "registry"
}

func (f *benchFlags) print(cmd *cobra.Command, report *bench.Report) error {
	switch {
	case f.output != "":
		return report.WriteDir(f.output)
	case f.asJSON:
		return report.Write(cmd.OutOrStdout())
	}
	_, err := cmd.OutOrStdout().Write(report.Markdown())
	return err
}
