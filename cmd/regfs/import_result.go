package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/source"
)

// An importResult is what "regfs import --json" prints.
type importResult struct {
	Release  string          `json:"release"`
	Images   []importedImage `json:"images"`
	Refused  []refusedImage  `json:"refused"`
	Notes    []string        `json:"notes"`
	Blobs    int             `json:"blobs"` // different ones that the images need
	Bytes    int64           `json:"bytes"`
	NewBlobs int             `json:"new_blobs"` // those that the store had not
	NewBytes int64           `json:"new_bytes"`

	blobs map[digest.Digest]countedBlob
}

type countedBlob struct {
	size  int64
	fresh bool
}

// An importedImage is one tag, or an image without.
type importedImage struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	Digest     digest.Digest `json:"digest"`
	Size       int64         `json:"size"`
	NewBytes   int64         `json:"new_bytes"` // that neither the store nor an image before it had
	Source     string        `json:"source"`
}

type refusedImage struct {
	Source string `json:"source"`
	Image  string `json:"image"`
	Reason string `json:"reason"`
}

func (r *importResult) refuse(src *source.Source, image, reason string) {
	r.Refused = append(r.Refused, refusedImage{src.Path, image, reason})
}

// add notes an image that is in.
func (r *importResult) add(src *source.Source, image source.Image, sizes map[digest.Digest]int64, fresh map[digest.Digest]bool) {
	one := importedImage{Repository: image.Repository, Digest: image.Digest, Source: src.Path}
	for _, blob := range image.Blobs {
		size := sizes[blob.Digest]
		one.Size += size
		if r.count(blob.Digest, size, fresh[blob.Digest]) && fresh[blob.Digest] {
			one.NewBytes += size
		}
	}
	for _, tag := range image.Tags {
		one.Tag = tag
		r.Images = append(r.Images, one)
		one.NewBytes = 0
	}
	if len(image.Tags) == 0 {
		r.Images = append(r.Images, one)
	}
}

// count notes a blob, and says whether it was not known.
func (r *importResult) count(d digest.Digest, size int64, fresh bool) bool {
	if r.blobs == nil {
		r.blobs = make(map[digest.Digest]countedBlob)
	}
	if _, known := r.blobs[d]; known {
		return false
	}
	r.blobs[d] = countedBlob{size, fresh}
	return true
}

// sum counts the blobs and puts the lists in order.
func (r *importResult) sum() {
	for _, b := range r.blobs {
		r.Blobs++
		r.Bytes += b.size
		if b.fresh {
			r.NewBlobs++
			r.NewBytes += b.size
		}
	}
	slices.SortStableFunc(r.Images, func(a, b importedImage) int {
		return strings.Compare(a.Repository+":"+a.Tag, b.Repository+":"+b.Tag)
	})
	// None is [] in JSON, not null.
	r.Images = append([]importedImage{}, r.Images...)
	r.Refused = append([]refusedImage{}, r.Refused...)
	r.Notes = append([]string{}, r.Notes...)
}

// print says what has come in, and what has not, which is an error.
func (im *importer) print(out io.Writer, took time.Duration) error {
	r := &im.result
	r.sum()
	if im.flags.asJSON {
		if err := printJSON(out, r); err != nil {
			return err
		}
	} else {
		if err := r.table(out); err != nil {
			return err
		}
		r.summary(im.flags.dryRun, took)
	}
	if len(r.Refused) == 0 {
		return nil
	}
	return fmt.Errorf("import: %d of %d refused, the first is %s (%s): %w",
		len(r.Refused), len(r.Refused)+len(r.Images), r.Refused[0].Image, r.Refused[0].Reason, control.ErrRefused)
}

func (r *importResult) table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REPOSITORY\tTAG\tDIGEST\tSIZE\tNEW")
	for _, i := range r.Images {
		tag := i.Tag
		if tag == "" {
			tag = "<none>"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", i.Repository, tag, i.Digest, humanize.Bytes(uint64(i.Size)), humanize.Bytes(uint64(i.NewBytes)))
	}
	return t.Flush()
}

func (r *importResult) summary(dryRun bool, took time.Duration) {
	for _, note := range r.Notes {
		fmt.Fprintln(stderr, "note:", note)
	}
	for _, one := range r.Refused {
		fmt.Fprintf(stderr, "refused: %s: %s: %s\n", one.Source, one.Image, one.Reason)
	}
	end := "in " + took.Round(time.Millisecond).String()
	if dryRun {
		end = "would come in"
	}
	fmt.Fprintf(stderr, "%s: %s, %s (%s), of which %d (%s) are new, %s\n", r.Release, count(len(r.Images), "image"),
		count(r.Blobs, "blob"), humanize.Bytes(uint64(r.Bytes)), r.NewBlobs, humanize.Bytes(uint64(r.NewBytes)), end)
}

// trimCause leaves out the kind of an error, which is for programs.
func trimCause(text string, kind error) string { return strings.TrimSuffix(text, ": "+kind.Error()) }
