package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/compose"
	"github.com/regfs/regfs/control"
)

type createFlags struct {
	from            []string
	images, missing string
	requireComplete bool
	json            bool
}

func (c *command) releaseCreateCmd() *cobra.Command {
	var flags createFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a release: empty, or of images that earlier releases have",
		Long: `Create makes a release. A name has letters, digits, '.', '_', '+' and '-'.

Without options it has no images. What earlier releases brought into the store
is there for a registry on the new release's mount, but no part of it until it
is pushed.

With --images it has those images of a list, one reference a line, that earlier
releases have: no bytes are moved, and no registry is asked. Each is taken from
the first --from release that has it; without --from, from the newest release
that has it. Signatures and other referrers travel with their image. What no
release has whole is written to standard output, as a list like the one that was
given: push that to a registry on the new release. With --require-complete
nothing is made then, and the exit code is 3.

With --from and no list it has all images of these releases; where two have a
tag, the first one's.`,
		Example: `  regfs release create v1.1
  regfs release create v1.1 --from v1.0
  regfs release create v1.1 --from v1.0 --from v0.9 --images images.list --missing todo.list
  regfs release create v1.1 --images images.list --require-complete --json | jq -r '.missing[].reference'
  regfs release create v1.1 --images images.list | while read -r image; do
      skopeo copy --all docker://$image docker://127.0.0.1:5000/${image#*/}; done`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			if !flags.composes() {
				return c.with(cmd.Context(), func(client *control.Client) error {
					return client.CreateRelease(cmd.Context(), args[0])
				})
			}
			return c.compose(cmd.Context(), args[0], flags)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.from, "from", nil, "take images from this release; may be repeated, the most wanted first")
	f.StringVar(&flags.images, "images", "", "only the images listed in this file, or - for standard input")
	f.StringVar(&flags.missing, "missing", "", "write the list of what is missing to this file, not to standard output")
	f.BoolVar(&flags.requireComplete, "require-complete", false, "make no release if an image is missing")
	f.BoolVar(&flags.json, "json", false, "print which image comes from which release, and what is missing, as JSON")
	return cmd
}

func (f createFlags) composes() bool { return len(f.from) > 0 || f.images != "" }

func (f createFlags) check(cmd *cobra.Command) error {
	if f.composes() || f.missing == "" && !f.requireComplete && !f.json {
		return nil
	}
	return usage(cmd, errors.New("release create: --missing, --require-complete and --json are for --images or --from"))
}

func (c *command) compose(ctx context.Context, name string, flags createFlags) error {
	req := compose.Request{From: flags.from, Complete: flags.requireComplete}
	if flags.images != "" {
		var err error
		if req.Images, err = readImages(flags.images); err != nil {
			return fmt.Errorf("release create: images: %w", err)
		}
	}
	var list *os.File
	if flags.missing != "" {
		// Opened before anything is made: the list must not be lost.
		var err error
		if list, err = os.OpenFile(flags.missing, os.O_WRONLY|os.O_CREATE, 0o666); err != nil {
			return fmt.Errorf("release create: missing: %w", err)
		}
		defer list.Close()
	}
	var report *compose.Report
	err := c.with(ctx, func(client *control.Client) (err error) {
		report, err = client.Compose(ctx, name, req)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.tellComposed(report, list, flags); err != nil {
		return err
	}
	return report.Err()
}

// tellComposed writes the lists to where they go, and a summary. A file for what
// is missing is overwritten.
func (c *command) tellComposed(r *compose.Report, list *os.File, flags createFlags) error {
	if c.verbose {
		for _, i := range r.Images {
			fmt.Fprintf(stderr, "%s from %s\n", i.Name(), i.From)
		}
	}
	var missing strings.Builder
	for _, m := range r.Missing {
		missing.WriteString(m.Reference + "\n")
		if m.From != "" {
			fmt.Fprintf(stderr, "note: %s: %s has it, and not whole: %s\n", m.Reference, m.From, m.Reason)
		}
	}
	var err error
	if list != nil {
		err = overwrite(list, missing.String())
	}
	if err == nil && flags.json {
		err = printJSON(stdout, r)
	} else if err == nil && list == nil {
		_, err = fmt.Fprint(stdout, missing.String())
	}
	if err != nil {
		return fmt.Errorf("release create: missing: %w", err)
	}
	if r.Made {
		fmt.Fprintf(stderr, "%s: %s\n", r.Release, r.Summary())
	}
	return nil
}

// overwrite makes a text all that is in a file, or writes it to what is none.
func overwrite(f *os.File, text string) error {
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteString(text)
	}
	return err
}
