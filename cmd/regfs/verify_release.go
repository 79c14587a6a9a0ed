package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/sealed"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/verify"
)

// namesRelease says whether what is to be verified is a release in the store,
// and not a file. What could be both is refused.
func (c *command) namesRelease(cmd *cobra.Command, name string, flags verifyFlags) (bool, error) {
	if name == "-" || flags.against != "" || flags.digest != "" || index.ValidRelease(name) != nil || store.Check(c.dir) != nil {
		return false, nil
	}
	if _, err := os.Lstat(name); err != nil {
		return true, nil
	}
	var all []control.Release
	err := c.with(cmd.Context(), func(client *control.Client) (err error) {
		all, err = client.Releases(cmd.Context())
		return err
	})
	if err == nil && slices.ContainsFunc(all, func(r control.Release) bool { return r.Name == name }) {
		return false, usage(cmd, fmt.Errorf("verify: %s is a release in the store, and a file here; write ./%s for the file, or go elsewhere", name, name))
	}
	return false, nil // where the store cannot be asked, it is a file
}

// verifyRelease reads all that a release needs. The blobs it reads itself: the
// server has better things to do.
func (c *command) verifyRelease(cmd *cobra.Command, name string, flags verifyFlags) error {
	var reading sealed.Reading
	var detail control.Detail
	err := c.with(cmd.Context(), func(client *control.Client) (err error) {
		reading, err = client.Document(cmd.Context(), name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("verify %s: there is no such file, and no release %s in the store %s", name, name, c.dir)
		}
		if err == nil {
			detail, err = client.Show(cmd.Context(), name)
		}
		return err
	})
	if err != nil {
		return err
	}
	report := &verify.Report{Problems: []verify.Problem{}}
	if reading.Document != nil {
		blobs, err := cas.Open(c.dir)
		if err != nil {
			return err
		}
		defer blobs.Close()
		bar := newProgress(detail.Bytes, name)
		defer bar.Close()
		report, err = verify.Release(cmd.Context(), reading.Document, blobs, flags.options(func(n int64) { bar.Add64(n) }))
		if err != nil {
			return fmt.Errorf("verify %s: %w", name, err)
		}
	}
	said := make(map[string]bool)
	for _, p := range report.Problems {
		said[p.Object] = true
	}
	for _, problem := range slices.Concat(reading.Problems, reading.Lacks) {
		if blob := strings.Fields(problem); len(blob) > 1 && said[blob[0]+" "+strings.TrimSuffix(blob[1], ":")] {
			continue
		}
		report.Problems = append(report.Problems, verify.Problem{Object: "release " + name, What: problem})
	}
	report.Release = reading.Sealed
	if flags.json || len(report.Problems) > 0 {
		return tellVerified(name, flags, report)
	}
	return printRelease(cmd.OutOrStdout(), name, reading.Sealed, report)
}

func printRelease(w io.Writer, name string, sealed digest.Digest, r *verify.Report) error {
	state := "not sealed"
	if sealed != "" {
		state = "sealed as " + sealed.String()
	}
	_, err := fmt.Fprintf(w, "%s: good: %s: %s, %s with %s, %s\n", name, state, count(r.Tags, "tag"), count(r.Manifests, "manifest"),
		count(r.Blobs, "blob"), humanize.Bytes(uint64(r.Bytes)))
	return err
}
