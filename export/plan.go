package export

import (
	"cmp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/patch"
)

// A Plan says what an export would be, before any of it is written. Its JSON
// form is the output of "regfs export -n --json": keys are never given a new
// meaning.
type Plan struct {
	Release  string       `json:"release"`
	Over     []string     `json:"over,omitempty"`
	Size     int64        `json:"size"` // of what is written, to the byte, if Exact
	Exact    bool         `json:"exact"`
	Adds     patch.Amount `json:"adds"`
	Requires patch.Amount `json:"requires"`

	// Images cause the size, the largest first, and so do Blobs.
	Images []ImageShare `json:"images"`
	Blobs  []BlobShare  `json:"blobs"`

	// Rebuilt is there if rebuilt images make most of a patch.
	Rebuilt     *Rebuilt `json:"rebuilt,omitempty"`
	RemovedTags []string `json:"removed_tags,omitempty"`
}

// An ImageShare is what an image causes.
type ImageShare struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of blobs that it needs
	Alone int64  `json:"alone"` // of those that no other image needs: without it, it is so much less

	// Rebuilt: the base had the image's repository, and not one of its layers.
	Rebuilt bool `json:"rebuilt,omitempty"`
}

// A BlobShare is one blob.
type BlobShare struct {
	Digest digest.Digest `json:"digest"`
	Role   Role          `json:"role"`
	Bytes  int64         `json:"bytes"`
	Images []string      `json:"images"` // all that need it
}

// Rebuilt are images that were built anew from the bottom: the rule is that
// their repository had a tag in the base, that they have layers, and that the
// base has none of these. They are told if they make more than half of the
// bytes.
type Rebuilt struct {
	Images []string `json:"images"`
	Bytes  int64    `json:"bytes"` // of blobs that they need

	// Layer is the new layer that most of them share, the base image's most
	// likely; it is empty if none is shared.
	Layer    digest.Digest `json:"layer,omitempty"`
	SharedBy int           `json:"shared_by,omitempty"`

	// Layers are all new layers that several of them share, those first that
	// most do.
	Layers []SharedLayer `json:"layers,omitempty"`
}

// A SharedLayer is a new layer that several rebuilt images have.
type SharedLayer struct {
	Digest   digest.Digest `json:"digest"`
	Bytes    int64         `json:"bytes"`
	SharedBy int           `json:"shared_by"`
}

// Plan says what the export causes. The size is for the caller to say, who
// knows the form.
func (inv *Inventory) Plan() *Plan {
	p := &Plan{Release: inv.Release, Adds: patch.Count(members(inv.Files))}
	shares := make([]ImageShare, len(inv.Images))
	for i, name := range inv.Images {
		shares[i].Name = name
	}
	for _, f := range inv.Files {
		if f.Blob == "" {
			continue
		}
		p.Blobs = append(p.Blobs, BlobShare{f.Blob, f.Role, f.Size, inv.ImagesOf(f)})
		for _, i := range f.NeededBy {
			shares[i].Bytes += f.Size
			if len(f.NeededBy) == 1 {
				shares[i].Alone += f.Size
			}
		}
	}
	p.Images = slices.DeleteFunc(shares, func(s ImageShare) bool { return s.Bytes == 0 })
	slices.SortStableFunc(p.Images, func(a, b ImageShare) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Alone, a.Alone))
	})
	slices.SortStableFunc(p.Blobs, func(a, b BlobShare) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return p
}

// Plan says what the patch causes.
func (p *Patch) Plan() *Plan {
	plan := p.Inventory.Plan()
	plan.Over, plan.Requires, plan.RemovedTags = p.base.names, p.Required(), p.removed
	plan.Rebuilt = p.rebuilt(plan.Adds.Bytes)
	for i := range plan.Images {
		s := &plan.Images[i]
		s.Rebuilt = plan.Rebuilt != nil && slices.Contains(plan.Rebuilt.Images, s.Name)
	}
	return plan
}

// rebuilt finds the rebuilt images, if they make most of so many bytes.
func (p *Patch) rebuilt(all int64) *Rebuilt {
	isNew := make([]bool, len(p.Images)) // has a layer that is sent
	for _, f := range p.Files {
		for _, i := range f.NeededBy {
			isNew[i] = isNew[i] || f.Role == Layer
		}
	}
	for _, f := range p.required {
		for _, i := range f.NeededBy {
			isNew[i] = isNew[i] && f.Role != Layer
		}
	}
	r := new(Rebuilt)
	for i, name := range p.Images {
		isNew[i] = isNew[i] && p.base.hadRepository(name)
		if isNew[i] {
			r.Images = append(r.Images, name)
		}
	}
	for _, f := range p.Files {
		shared := 0
		for _, i := range f.NeededBy {
			if isNew[i] {
				shared++
			}
		}
		if shared > 0 {
			r.Bytes += f.Size
		}
		if f.Role == Layer && shared > 1 {
			r.Layers = append(r.Layers, SharedLayer{f.Blob, f.Size, shared})
		}
	}
	if 2*r.Bytes <= all {
		return nil
	}
	slices.SortStableFunc(r.Layers, func(a, b SharedLayer) int {
		return cmp.Or(cmp.Compare(b.SharedBy, a.SharedBy), cmp.Compare(b.Bytes, a.Bytes))
	})
	if len(r.Layers) > 0 {
		r.Layer, r.SharedBy = r.Layers[0].Digest, r.Layers[0].SharedBy
	}
	return r
}

// hadRepository says whether the base had a tag in an image's repository.
func (b *Base) hadRepository(image string) bool {
	if b.repositories == nil {
		b.repositories = make(map[string]bool)
		for name := range b.tags {
			b.repositories[repositoryOf(name)] = true
		}
	}
	return b.repositories[repositoryOf(image)]
}

// repositoryOf an image's name, which has a digest or a tag.
func repositoryOf(image string) string {
	if repo, _, ok := strings.Cut(image, "@"); ok {
		return repo
	}
	return image[:strings.LastIndexByte(image, ':')]
}
