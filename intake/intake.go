// Package intake brings what was written into a release: a blob that the store
// has, a link that names one. What follows from it (what a manifest needs, what
// it does without, who has waited for it) is found out here, whichever backend
// the registry wrote to.
package intake

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// An Intake is the way into one release. Its methods may be called from many
// goroutines.
type Intake struct {
	Blobs *cas.Store
	// Pins gets all that is entered, and what it needs, before it is: until the
	// index says so, nothing else says that the blobs must stay.
	Pins    *cas.Pins
	Index   *index.DB
	Release *index.Release
	// Finds says whether a registry that asks for a blob is told that it is
	// there: nil, or fs.ErrNotExist.
	Finds func(digest.Digest) error
	Log   *slog.Logger

	// brought says of what an image can do without that it comes with it; nil
	// where blobs come one by one.
	brought func(digest.Digest) bool
	seen    *sync.Map // blobs that are there, of all images at once: a base layer is in hundreds
}

// Blob enters a blob of the store into the release. linkManifest looks for the
// entry after its link, and this for the link after its entry: one of them sees
// the other, however they meet.
func (in Intake) Blob(d digest.Digest) error {
	if err := in.Release.AddBlob(d); err != nil {
		return err
	}
	if in.Release.Awaits(d) {
		if err := in.arrive(d); err != nil {
			in.Log.Warn("a linked manifest is none", "digest", d, "err", err)
		}
	}
	return nil
}

// arrive enters a manifest whose blob comes after the link that needs it, as
// when a tree is copied in. A blob that is awaited may also be a layer.
func (in Intake) arrive(d digest.Digest) error {
	found, err := in.explore(d)
	if err != nil {
		return err
	}
	return in.Release.AddFacts(d, found.facts, found.absent...)
}

// Link enters a link. The path says which: a layer's, a revision's, or one of
// a tag's two. The image is the promise: when the link of a revision or what a
// tag points at returns nil, it is durable, and so is all that the manifest
// needs and the store has. Others go to the disk with one that is.
func (in Intake) Link(at layout.Path, d digest.Digest) error {
	switch at.Kind {
	case layout.LayerLink:
		in.Pins.Add(d)
		if err := in.Blobs.Lost(d); err != nil {
			return err
		}
		return in.Release.LinkLayer(at.Repository, d)
	case layout.RevisionLink:
		return in.linkManifest(at.Repository, d)
	case layout.TagCurrentLink:
		return in.Release.Tag(at.Repository, at.Tag, d)
	}
	return in.Release.AddHistory(at.Repository, at.Tag, d)
}

func (in Intake) linkManifest(repo string, d digest.Digest) error {
	found, err := in.explore(d)
	if err != nil {
		return err
	}
	if err := in.promise(found.blobs()); err != nil {
		return err
	}
	if err := in.Release.LinkManifest(repo, d, found.facts, found.absent...); err != nil {
		return err
	}
	for _, d := range slices.Concat(found.unknown, found.absent) {
		if in.Release.Blob(d).State == index.Linked { // it has come meanwhile
			if err := in.Blob(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// promise makes blobs durable, as far as they are there.
func (in Intake) promise(blobs []digest.Digest) error {
	if err := in.Blobs.Flush(); err != nil {
		return err
	}
	return in.Blobs.Lost(blobs...)
}

// invalid is an error of what was written, not of the disk: EINVAL.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), syscall.EINVAL)
}
