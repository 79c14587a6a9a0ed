package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/sealed"
)

func (c *command) releaseSealCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "seal NAME",
		Short: "Make a release one that never changes, and print its digest",
		Long: `Seal writes down what a release has, every repository, tag and manifest by its
digest, as a document in the store, and prints the digest of that. The same
content has the same digest in every store, under whichever name and pushed in
whichever order. From then on the release is mounted read-only, and nothing
changes it; "regfs release fork" makes an open one of it.

A release that is mounted has to be unmounted first. One that has no image, or
of which something is missing, is refused with what it is: exit code 3. Sealing
a sealed release prints its digest again.`,
		Example: `  regfs release seal v1.1
  regfs release show v1.1 --document > v1.1.json     # what to sign; its sha256sum is the digest
  regfs verify v1.1`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d digest.Digest
			err := c.with(cmd.Context(), func(client *control.Client) (err error) {
				d, err = client.Seal(cmd.Context(), args[0])
				return err
			})
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), d)
			}
			return err
		},
	}
}

func (c *command) releaseShowCmd() *cobra.Command {
	var asJSON, document bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a release: whether it is sealed, and how much it is",
		Long: `Show tells of one release what there is to say in a few lines; "regfs ls" lists
its images. With --document it prints the document of a sealed release, byte by
byte: sha256sum of it is the release's digest.`,
		Example: `  regfs release show v1.1
  regfs release show v1.1 --json | jq -r .sealed
  regfs release show v1.1 --document | sha256sum`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && document {
				return usage(cmd, errors.New("release show: either --json or --document"))
			}
			if document {
				return c.printDocument(cmd, args[0])
			}
			var d control.Detail
			err := c.with(cmd.Context(), func(client *control.Client) (err error) {
				d, err = client.Show(cmd.Context(), args[0])
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), d)
			}
			return printDetail(cmd.OutOrStdout(), d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&document, "document", false, "print the document of a sealed release, and nothing else")
	return cmd
}

func (c *command) reading(cmd *cobra.Command, name string) (reading sealed.Reading, err error) {
	err = c.with(cmd.Context(), func(client *control.Client) error {
		reading, err = client.Document(cmd.Context(), name)
		return err
	})
	return reading, err
}

func (c *command) printDocument(cmd *cobra.Command, name string) error {
	reading, err := c.reading(cmd, name)
	if err != nil {
		return err
	}
	switch {
	case reading.Sealed == "":
		return fmt.Errorf("release show: release %s is not sealed and has no document; \"regfs release seal %s\" makes one", name, name)
	case digest.FromBytes(reading.Document) != reading.Sealed:
		return reading.Err(name)
	}
	_, err = cmd.OutOrStdout().Write(reading.Document)
	return err
}

func printDetail(w io.Writer, d control.Detail) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "release\t%s\n", d.Name)
	fmt.Fprintf(t, "created\t%s\n", d.Created.Local().Format(time.DateTime))
	if d.Sealed != "" {
		fmt.Fprintf(t, "sealed\t%s\n", d.Sealed)
	} else {
		fmt.Fprintf(t, "sealed\tno\n")
	}
	if d.Mountpoint != "" {
		fmt.Fprintf(t, "mounted at\t%s\n", d.Mountpoint)
	}
	fmt.Fprintf(t, "images\t%d\n", d.Images)
	fmt.Fprintf(t, "blobs\t%d, %s\n", d.Blobs, humanize.Bytes(uint64(d.Bytes)))
	if d.Missing > 0 {
		fmt.Fprintf(t, "missing\t%s; see \"regfs fsck\"\n", count(d.Missing, "blob"))
	}
	return t.Flush()
}
