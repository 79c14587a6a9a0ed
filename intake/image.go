package intake

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// An Image is what comes into a release at once: manifests whose blobs are in
// the store already, and the tags that name them.
type Image struct {
	Repository string          `json:"repository"`
	Manifests  []digest.Digest `json:"manifests"` // to be linked; what a manifest needs comes before it
	// Present is what the image can do without, and comes with. What it can do
	// without and is not here stays absent, also if the store has it.
	Present []digest.Digest `json:"present,omitempty"`
	Tags    []index.TagLink `json:"tags,omitempty"`    // of manifests that are linked by then
	History []index.TagLink `json:"history,omitempty"` // to which tags pointed before
	// Known: some release has the manifests linked in this repository, with all
	// that comes here. Who says so of what is not makes blobs be uploaded again.
	Known bool `json:"-"`
}

// Images enters images, with one sync of the disk for all of them. An image
// that is not whole is refused; the others come in. The errors of refused
// images stand in the place of the image, and are EINVAL or fs.ErrNotExist; an
// error of the store stands alone.
func (in Intake) Images(images []Image) (refused []error, err error) {
	entries, refused, err := in.Check(images)
	if err != nil {
		return nil, err
	}
	if err := in.Release.Enter(entries); err != nil {
		return nil, err
	}
	return refused, nil
}

// Check is the first half of Images: it looks whether images are whole, sees to
// it that their blobs are durable, and enters nothing. The entries are those of
// the images that are not refused.
func (in Intake) Check(images []Image) (entries []*index.Entry, refused []error, err error) {
	// The links are the promise: what they point at must not be less durable.
	if err := in.Blobs.Flush(); err != nil {
		return nil, nil, err
	}
	all, errs := in.entries(images)
	refused = make([]error, len(images))
	for i, err := range errs {
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist):
			refused[i] = err
		case err != nil:
			return nil, nil, err
		default:
			entries = append(entries, all[i])
		}
	}
	return entries, refused, nil
}

// entries makes all entries, on all processors: each blob is asked for.
func (in Intake) entries(images []Image) ([]*index.Entry, []error) {
	in.seen = new(sync.Map)
	all, errs := make([]*index.Entry, len(images)), make([]error, len(images))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(len(images), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(images); i = int(next.Add(1)) - 1 {
				all[i], errs[i] = in.entry(images[i])
			}
		})
	}
	workers.Wait()
	return all, errs
}

// entry makes of an image what the index takes, if it is whole.
func (in Intake) entry(image Image) (*index.Entry, error) {
	if err := image.check(); err != nil {
		return nil, err
	}
	here := make(map[digest.Digest]bool)
	for _, d := range image.Present {
		here[d] = true
	}
	in.brought = func(d digest.Digest) bool { return here[d] }
	entry, linked := index.NewEntry(image.Repository), make(map[digest.Digest]bool)
	if image.Known {
		entry.Known()
	}
	for _, d := range image.Manifests {
		found, err := in.explore(d)
		if err != nil {
			return nil, err
		}
		if err := in.checkWhole(found); err != nil {
			return nil, err
		}
		if err := in.Blobs.Lost(found.blobs()...); err != nil {
			return nil, err
		}
		if err := entry.Manifest(d, found.facts, found.absent...); err != nil {
			return nil, err
		}
		linked[d] = true
	}
	for _, tag := range image.Tags {
		if err := in.checkLinked(image.Repository, tag, linked); err != nil {
			return nil, err
		}
		entry.Tag(tag)
	}
	for _, tag := range image.History {
		if in.checkLinked(image.Repository, tag, linked) == nil {
			entry.History(tag)
		}
	}
	return entry, nil
}

// check refuses names and digests that are none: they become keys and paths.
func (image Image) check() error {
	if !layout.ValidRepository(image.Repository) {
		return invalid("%q is not a repository's name", image.Repository)
	}
	all := slices.Concat(image.Manifests, image.Present)
	for _, tag := range slices.Concat(image.Tags, image.History) {
		if !layout.ValidTag(tag.Tag) {
			return invalid("%q is not a tag", tag.Tag)
		}
		all = append(all, tag.Digest)
	}
	for _, d := range all {
		if err := d.Validate(); err != nil {
			return invalid("digest %q: %w", d, err)
		}
	}
	return nil
}

// checkWhole looks for what was found to be needed. A push that lacks something
// brings it yet; an image that is brought in does not.
func (in Intake) checkWhole(found *exploration) error {
	for _, d := range found.unknown {
		return missing("manifest", d)
	}
	absent := make(map[digest.Digest]bool)
	for _, d := range found.absent {
		absent[d] = true
	}
	for d, m := range found.facts {
		if err := in.checkThere("manifest", d); err != nil {
			return err
		}
		for _, ref := range m.Refs {
			if ref.Optional && absent[ref.Digest] {
				continue
			}
			if err := in.checkThere(string(ref.Role), ref.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in Intake) checkThere(role string, d digest.Digest) error {
	if _, seen := in.seen.Load(d); seen {
		return nil
	}
	_, err := in.Blobs.Stat(d)
	if errors.Is(err, fs.ErrNotExist) {
		return missing(role, d)
	}
	if err == nil {
		in.seen.Store(d, true)
	}
	return err
}

func missing(role string, d digest.Digest) error {
	if role == string(manifest.Child) {
		role = "manifest"
	}
	return fmt.Errorf("%s %s is missing: %w", role, d, fs.ErrNotExist)
}

// checkLinked says whether a tag points at a manifest of the image, or of the
// repository.
func (in Intake) checkLinked(repo string, tag index.TagLink, linked map[digest.Digest]bool) error {
	if _, already := in.Release.Revision(repo, tag.Digest); already || linked[tag.Digest] {
		return nil
	}
	return invalid("tag %s points at %s, which is not linked", tag.Tag, tag.Digest)
}
