// Package compare says how two releases differ: from the index alone, so it
// takes as long as opening them.
//
// Images are compared by name: a tag that points at another manifest than
// before is changed, one that is only in the later release is added. Which tag
// follows which is not guessed. Bytes are those of layers, each once, as the
// manifests state them; what an image does without does not count.
package compare

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// A Diff is what two releases differ in. Its JSON form is the output of "regfs
// diff --json": keys are never given a new meaning.
type Diff struct {
	Before string `json:"before"`
	After  string `json:"after"`

	Added   []Image `json:"added"`
	Removed []Image `json:"removed"`
	Changed []Image `json:"changed"`
	Same    int     `json:"same"` // images that are in both, with the same digest

	// Layers of all images, each once: those that only the later release has,
	// those that both have, and those that only the earlier one has.
	New    Layers `json:"new"`
	Shared Layers `json:"shared"`
	Gone   Layers `json:"gone"`
}

// An Image is one that differs. Of one that was removed the digest, the layers
// and the bytes are those of before.
type Image struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"` // empty if it can be pulled by digest only
	Digest     digest.Digest `json:"digest"`
	Was        digest.Digest `json:"was,omitempty"` // the digest before, of one that changed
	Referrer   bool          `json:"referrer,omitempty"`
	Layers     Layers        `json:"layers"` // of all its platforms
	New        Layers        `json:"new"`    // of these, those that the earlier release has nowhere
}

// Name is the image's name as users know it.
func (i Image) Name() string {
	return layout.ImageName(i.Repository, i.Tag, i.Digest)
}

// Layers are so many, with so many bytes.
type Layers struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
}

func (l *Layers) add(size int64) {
	l.Count++
	l.Bytes += size
}

// Differ says whether the releases have other images, or other digests of them.
func (d *Diff) Differ() bool { return len(d.Added)+len(d.Removed)+len(d.Changed) > 0 }

// Releases compares two releases.
func Releases(before, after *index.Release) *Diff {
	old, now := read(before), read(after)
	d := &Diff{Before: before.Name, After: after.Name, Added: []Image{}, Removed: []Image{}, Changed: []Image{}}
	for name, image := range now.images {
		was, both := old.images[name]
		switch {
		case both && was.Digest == image.Digest:
			d.Same++
		case both:
			d.Changed = append(d.Changed, now.image(image, was.Digest, old))
		default:
			d.Added = append(d.Added, now.image(image, "", old))
		}
	}
	for name, image := range old.images {
		if _, still := now.images[name]; !still {
			d.Removed = append(d.Removed, old.image(image, "", old))
		}
	}
	for _, images := range [][]Image{d.Added, d.Removed, d.Changed} {
		slices.SortFunc(images, byName)
	}
	d.count(old, now)
	return d
}

func byName(a, b Image) int {
	return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
}

// count counts the layers of both.
func (d *Diff) count(old, now *contents) {
	for layer, size := range now.layers {
		if _, had := old.layers[layer]; had {
			d.Shared.add(size)
		} else {
			d.New.add(size)
		}
	}
	for layer, size := range old.layers {
		if _, still := now.layers[layer]; !still {
			d.Gone.add(size)
		}
	}
}

// contents are what a release has: its images by name, and the layers of all.
type contents struct {
	release *index.Release
	images  map[string]export.Choice
	layers  map[digest.Digest]int64
}

func read(release *index.Release) *contents {
	c := &contents{release, make(map[string]export.Choice), make(map[digest.Digest]int64)}
	for _, image := range export.NewChooser(release).All() {
		c.images[image.Name()] = image
		for layer, size := range c.layersOf(image) {
			c.layers[layer] = size
		}
	}
	return c
}

// layersOf are the layers that an image needs, each once.
func (c *contents) layersOf(image export.Choice) map[digest.Digest]int64 {
	layers := make(map[digest.Digest]int64)
	for _, need := range c.release.Needs(image.Repository, image.Digest) {
		if need.Role == manifest.Layer && !need.Absent {
			layers[need.Digest] = need.Size
		}
	}
	return layers
}

func (c *contents) image(i export.Choice, was digest.Digest, old *contents) Image {
	image := Image{Repository: i.Repository, Tag: i.Tag, Digest: i.Digest, Was: was, Referrer: i.Referrer}
	for layer, size := range c.layersOf(i) {
		image.Layers.add(size)
		if _, had := old.layers[layer]; !had {
			image.New.add(size)
		}
	}
	return image
}
