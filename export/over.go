package export

import (
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/patch"
)

// A Patch is the difference between a release and what a customer has. Put over
// that, it makes the release: what it adds and what it requires are the files
// of the full export, each in one of the two.
type Patch struct {
	Inventory // what it adds

	base     *Base
	required []File
	removed  []string
}

// Over returns what a base lacks of the release.
//
// A patch only adds. Tags that the base has and the release has not stay where
// it is put; its documents list them.
func (inv *Inventory) Over(base *Base) *Patch {
	p := &Patch{Inventory: *inv, base: base, removed: base.gone(inv)}
	p.Files = nil
	for _, f := range inv.Files {
		if base.has(f) {
			p.required = append(p.required, f)
		} else {
			p.Files = append(p.Files, f)
		}
	}
	return p
}

// Removed lists the tags that stay where the patch is put, and are none of the
// release's.
func (p *Patch) Removed() []string { return p.removed }

// Required is what must be there before, in bytes of blobs and in numbers.
func (p *Patch) Required() patch.Amount { return patch.Count(members(p.required)) }

// Archive returns the files of the patch: its documents first.
func (p *Patch) Archive() (archive.Archive, error) {
	adds := members(p.Files)
	doc := patch.Document{
		Release:     p.Release,
		Over:        p.base.names,
		Any:         p.base.any,
		Inventory:   p.base.inventory,
		RemovedTags: p.removed,
	}
	if p.Document != "" {
		doc.Sealed = digest.FromString(p.Document)
	}
	docs, err := patch.Documents(doc, adds, members(p.required))
	if p.Document != "" {
		docs = append(docs, patch.Sealed(p.Release, p.Document))
	}
	return append(docs, adds...), err
}
