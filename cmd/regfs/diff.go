package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/compare"
	"github.com/regfs/regfs/control"
)

// errDiffer is the exit code of diff --exit-code. The diff itself has said it.
var errDiffer = errors.New("the releases differ")

func (c *command) diffCmd() *cobra.Command {
	var asJSON, asMarkdown, exitCode bool
	cmd := &cobra.Command{
		Use:   "diff RELEASE RELEASE",
		Short: "Say how a release differs from an earlier one",
		Long: `Diff lists the images that the second release has and the first has not (+),
that only the first has (-), and whose tag points at another manifest now (~),
with their layers and the bytes of those that are new. Bytes are those of
layers, each counted once, as manifests state them; "regfs plan" computes the
size of a patch to the byte.

Signatures and other referrers are counted, and listed with --json.`,
		Example: `  regfs diff v1.0 v1.1
  regfs diff v1.0 v1.1 --markdown >> release-notes.md
  regfs diff v1.0 v1.1 --json | jq -r '.changed[] | "\(.repository):\(.tag)"'
  regfs diff v1.0 v1.0-rebuilt --exit-code > /dev/null && echo the same`,
		Args: exactly("RELEASE", "RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && asMarkdown {
				return usage(cmd, errors.New("diff: either --json or --markdown"))
			}
			var d *compare.Diff
			err := c.with(cmd.Context(), func(client *control.Client) (err error) {
				d, err = client.Diff(cmd.Context(), args[0], args[1])
				return err
			})
			switch {
			case err != nil:
				return err
			case asJSON:
				err = printJSON(stdout, d)
			case asMarkdown:
				err = markdownDiff(stdout, d)
			default:
				err = printDiff(stdout, d)
			}
			if err == nil && exitCode && d.Differ() {
				err = errDiffer
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&asMarkdown, "markdown", false, "print Markdown, for release notes")
	f.BoolVar(&exitCode, "exit-code", false, "exit with 1 if the releases differ")
	return cmd
}

func printDiff(w io.Writer, d *compare.Diff) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	added, removed, changed, referrers := images(d.Added), images(d.Removed), images(d.Changed), 0
	for _, all := range [][]compare.Image{d.Added, d.Removed, d.Changed} {
		referrers += len(all) - len(images(all))
	}
	if len(added)+len(removed)+len(changed) > 0 {
		fmt.Fprintln(t, "\tIMAGE\tLAYERS\tNEW\tBYTES OF NEW")
	}
	for _, i := range removed {
		fmt.Fprintf(t, "-\t%s\t%d\t\t\n", i.Name(), i.Layers.Count)
	}
	for _, part := range []struct {
		sign   string
		images []compare.Image
	}{{"+", added}, {"~", changed}} {
		for _, i := range part.images {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", part.sign, i.Name(), i.Layers.Count, i.New.Count, humanize.Bytes(uint64(i.New.Bytes)))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s to %s: %d added, %d removed, %d changed, %d as before", d.Before, d.After, len(added), len(removed), len(changed), d.Same)
	if referrers > 0 {
		fmt.Fprintf(w, "; and %s of images", count(referrers, "referrer"))
	}
	_, err := fmt.Fprintf(w, "\nlayers: %s new, %s shared, %s gone\n", layers(d.New), layers(d.Shared), layers(d.Gone))
	return err
}

// markdownDiff is for release notes: it has no digests, which nobody reads there.
func markdownDiff(w io.Writer, d *compare.Diff) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s, compared with %s\n\n", code(d.After), code(d.Before))
	fmt.Fprintf(&b, "%s added, %d changed, %d removed, %d as before. Layers: %s new, %s shared.\n",
		count(len(images(d.Added)), "image"), len(images(d.Changed)), len(images(d.Removed)), d.Same, layers(d.New), layers(d.Shared))
	for _, part := range []struct {
		title  string
		images []compare.Image
	}{{"Added", images(d.Added)}, {"Changed", images(d.Changed)}} {
		if len(part.images) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n| image | layers | of them new | bytes of these |\n| --- | ---: | ---: | ---: |\n", part.title)
		for _, i := range part.images {
			fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", code(i.Name()), i.Layers.Count, i.New.Count, humanize.Bytes(uint64(i.New.Bytes)))
		}
	}
	if removed := images(d.Removed); len(removed) > 0 {
		b.WriteString("\n### Removed\n\n")
		for _, i := range removed {
			fmt.Fprintf(&b, "- %s\n", code(i.Name()))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// code shows a name as it is, also in a table.
func code(name string) string {
	return "`" + strings.NewReplacer("|", `\|`, "`", "'", "\n", " ").Replace(name) + "`"
}

// images leaves out referrers.
func images(all []compare.Image) []compare.Image {
	var some []compare.Image
	for _, i := range all {
		if !i.Referrer {
			some = append(some, i)
		}
	}
	return some
}

func layers(l compare.Layers) string {
	return fmt.Sprintf("%d (%s)", l.Count, humanize.Bytes(uint64(l.Bytes)))
}
