// Package compose makes a release of images that earlier releases have: from
// the index alone. No bytes are moved, and no registry is asked.
//
// Which release an image is taken from: the first one that has it, in the order
// in which they are given; if none are given, the newest one that has it. It
// comes with what travels with it, as an export selects it, and does without
// what it did without there. An image that has lost a blob is missing; another
// release is not asked then, or what comes would be another image than the rule
// says.
//
// Checked is that each blob that an image needs lies in the store, by one stat
// each. Their content is not read: that is for fsck.
package compose

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
)

// A Request says of what a release is to be made.
type Request struct {
	// From are the releases that images are taken from, the most wanted first.
	// Without it these are all, the newest first.
	From []string `json:"from,omitempty"`
	// Images are those wanted. Without them, all that the releases have.
	Images []imagelist.Reference `json:"images,omitempty"`
	// Complete is to make no release if an image is missing.
	Complete bool `json:"require_complete,omitempty"`
}

// A Report says what came of it. Its JSON form is the output of "regfs release
// create --json": keys are never given a new meaning.
type Report struct {
	Release string    `json:"release"`
	Made    bool      `json:"made"`
	Images  []Image   `json:"images"`
	Missing []Missing `json:"missing"`
}

// An Image is one that the release has now.
type Image struct {
	Reference  string        `json:"reference,omitempty"` // by which it was asked for, if it was
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"` // empty if it was asked for by its digest alone, or has none
	Digest     digest.Digest `json:"digest"`
	From       string        `json:"from"` // the release that it was taken from
}

// Name is the image's name as users know it.
func (i Image) Name() string {
	return layout.ImageName(i.Repository, i.Tag, i.Digest)
}

// A Missing is an image that the release has not. The reference is one of a
// list of images.
type Missing struct {
	Reference string `json:"reference"`
	From      string `json:"from,omitempty"` // the release that has it, and not whole
	Reason    string `json:"reason"`
}

// ErrIncomplete: a release was to be complete, and images are missing.
var ErrIncomplete = errors.New("images are missing")

// Err is ErrIncomplete if no release was made since images are missing.
func (r *Report) Err() error {
	if r.Made {
		return nil
	}
	return fmt.Errorf("release create %s: not made: %d of %d %w", r.Release, len(r.Missing), len(r.Missing)+len(r.Images), ErrIncomplete)
}

// Summary says in a line how many images come from which release.
func (r *Report) Summary() string {
	var order []string
	count := make(map[string]int)
	for _, i := range r.Images {
		if count[i.From]++; count[i.From] == 1 {
			order = append(order, i.From)
		}
	}
	slices.SortStableFunc(order, func(a, b string) int { return count[b] - count[a] })
	const most = 5
	var parts []string
	for _, from := range order[:min(most, len(order))] {
		parts = append(parts, fmt.Sprintf("%d from %s", count[from], from))
	}
	if more := len(order) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("the others from %d more releases", more))
	}
	parts = append(parts, fmt.Sprintf("%d missing", len(r.Missing)))
	return fmt.Sprintf("%d images: %s", len(r.Images), strings.Join(parts, ", "))
}

// Compose makes a release. It is made with all its images or not at all; a name
// that is taken is fs.ErrExist, a release that is not there fs.ErrNotExist.
func Compose(blobs *cas.Store, db *index.DB, log *slog.Logger, name string, req Request) (*Report, error) {
	release, err := db.Begin(name)
	if err != nil {
		return nil, err
	}
	defer release.Close()
	from, err := sources(db, req.From)
	if err != nil {
		return nil, err
	}
	g := &gathering{db: db, tags: make(map[string]taken)}
	if len(req.Images) == 0 {
		err = g.takeAll(from)
	} else {
		err = g.takeListed(from, req.Images)
	}
	if err != nil {
		return nil, fmt.Errorf("release create %s: %w", name, err)
	}
	pins := blobs.NewPins("on their way into release " + name)
	defer pins.Release()
	in := intake.Intake{Blobs: blobs, Pins: pins, Index: db, Release: release, Log: log}
	entries, refused, err := in.Check(g.images())
	if err != nil {
		return nil, fmt.Errorf("release create %s: %w", name, err)
	}
	report := g.report(name, refused)
	if req.Complete && len(report.Missing) > 0 {
		return report, nil
	}
	if err := release.Enter(entries); err != nil {
		return nil, err
	}
	report.Made = true
	return report, nil
}

// sources lists the releases to be asked, the most wanted first.
func sources(db *index.DB, from []string) ([]string, error) {
	all, err := db.Releases()
	if err != nil {
		return nil, err
	}
	var names []string
	if len(from) == 0 {
		for _, r := range slices.Backward(all) {
			names = append(names, r.Name)
		}
		return names, nil
	}
	for _, name := range from {
		if !slices.ContainsFunc(all, func(r index.Info) bool { return r.Name == name }) {
			_, err := db.Open(name) // which says it, in its words
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}
