package index

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// A State says why a name is there, or is not.
type State int

const (
	// Absent: the release says nothing of it; the store may still have it.
	Absent State = iota
	// Linked through this release: the link was written, the blob uploaded.
	Linked
	// Needed by a manifest of the release.
	Needed
	// Hidden: removed through this release.
	Hidden
)

// Listed says whether a name in this state shows in a listing.
func (s State) Listed() bool { return s == Linked || s == Needed }

// A Link is a name's digest, or a digest's link.
type Link struct {
	Digest digest.Digest
	Time   time.Time
	State  State
}

// Layer says what the release knows of a layer link.
func (r *Release) Layer(repo string, d digest.Digest) Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok && p.layers[d] != nil {
		return p.layers[d].link(d)
	}
	return Link{Digest: d}
}

func (l *layer) link(d digest.Digest) Link {
	switch {
	case l.mark == own:
		return Link{d, l.time, Linked}
	case l.mark == hidden:
		return Link{d, l.time, Hidden}
	case l.needs > 0:
		return Link{d, l.needed, Needed}
	}
	return Link{Digest: d}
}

// Layers lists a repository's layer links.
func (r *Release) Layers(repo string) []Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Link
	if p, ok := r.repos[repo]; ok {
		for d, l := range p.layers {
			if l.listed() {
				all = append(all, l.link(d))
			}
		}
	}
	return sortLinks(all)
}

// Revision finds a manifest's link.
func (r *Release) Revision(repo string, d digest.Digest) (Link, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok && p.revisions[d] != nil {
		return Link{d, p.revisions[d].time, Linked}, true
	}
	return Link{}, false
}

// Revisions lists a repository's manifests.
func (r *Release) Revisions(repo string) []Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Link
	if p, ok := r.repos[repo]; ok {
		for d, rev := range p.revisions {
			all = append(all, Link{d, rev.time, Linked})
		}
	}
	return sortLinks(all)
}

// Needs lists what a linked manifest needs, itself first.
func (r *Release) Needs(repo string, d digest.Digest) []Need {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok && p.revisions[d] != nil {
		return slices.Clone(p.revisions[d].reach.needs)
	}
	return nil
}

// Manifest returns what is known of a manifest, in whichever release;
// fs.ErrNotExist if nothing is.
func (r *Release) Manifest(d digest.Digest) (*manifest.Manifest, error) { return r.db.Manifest(d) }

// Unknown lists the manifests below a linked one of which nothing is known:
// their blobs were never there.
func (r *Release) Unknown(repo string, d digest.Digest) []digest.Digest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok && p.revisions[d] != nil {
		return slices.Clone(p.revisions[d].reach.unknown)
	}
	return nil
}

// TagLink finds what a tag points at.
func (r *Release) TagLink(repo, name string) (Link, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok {
		if t := p.tags[name]; t != nil && t.current != "" {
			return Link{t.current, t.time, Linked}, true
		}
	}
	return Link{}, false
}

// Tags lists the names of a repository's tags, those included of which only
// the history is left.
func (r *Release) Tags(repo string) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok {
		return slices.Sorted(maps.Keys(p.tags))
	}
	return nil
}

// History lists the manifests that a tag points or pointed at.
func (r *Release) History(repo, name string) []Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Link
	if p, ok := r.repos[repo]; ok && p.tags[name] != nil {
		for d, t := range p.tags[name].history {
			all = append(all, Link{d, t, Linked})
		}
	}
	return sortLinks(all)
}

// HistoryLink finds one manifest in a tag's history.
func (r *Release) HistoryLink(repo, name string, d digest.Digest) (Link, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.repos[repo]; ok && p.tags[name] != nil {
		if t, ok := p.tags[name].history[d]; ok {
			return Link{d, t, Linked}, true
		}
	}
	return Link{}, false
}

// Blob says what the release knows of a blob. Needed wins over Hidden.
func (r *Release) Blob(d digest.Digest) Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if b, ok := r.blobs.all[d]; ok {
		return b.link(d)
	}
	return Link{Digest: d}
}

func (b *blob) link(d digest.Digest) Link {
	switch {
	case b.needs > 0:
		return Link{d, b.time, Needed}
	case b.mark == own:
		return Link{d, b.time, Linked}
	case b.mark == hidden:
		return Link{d, b.time, Hidden}
	}
	return Link{Digest: d}
}

// StatedSize returns the size of a blob that the manifests state which need it,
// if they agree; else 0. It may be wrong all the same.
func (r *Release) StatedSize(d digest.Digest) int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if b, ok := r.blobs.all[d]; ok && b.needs > 0 && b.stated > 0 {
		return b.stated
	}
	return 0
}

// BlobRemoved says whether somebody removed the blob, even if it is needed and
// so still there.
func (r *Release) BlobRemoved(d digest.Digest) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	b, ok := r.blobs.all[d]
	return ok && b.mark == hidden
}

// BlobPrefixes lists the algorithm's first-two-digits directories.
func (r *Release) BlobPrefixes(a digest.Algorithm) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []string
	for prefix, blobs := range r.blobs.byPrefix[a] {
		if anyListed(blobs) {
			all = append(all, prefix)
		}
	}
	slices.Sort(all)
	return all
}

func anyListed(blobs map[digest.Digest]*blob) bool {
	for _, b := range blobs {
		if b.listed() {
			return true
		}
	}
	return false
}

// Blobs lists the blobs whose digests begin with the two digits.
func (r *Release) Blobs(a digest.Algorithm, prefix string) []Link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Link
	for d, b := range r.blobs.byPrefix[a][prefix] {
		if b.listed() {
			all = append(all, b.link(d))
		}
	}
	return sortLinks(all)
}

// Repository says whether the name is a repository with anything to list, or
// a step towards one.
func (r *Release) Repository(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.shows(name)
}

func (r *Release) shows(name string) bool {
	if p, ok := r.repos[name]; ok && p.listed() {
		return true
	}
	for step := range r.steps[name] {
		if r.shows(join(name, step)) {
			return true
		}
	}
	return false
}

// Steps lists the next components of repository names below a name; "" is the
// top.
func (r *Release) Steps(name string) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []string
	for step := range r.steps[name] {
		if r.shows(join(name, step)) {
			all = append(all, step)
		}
	}
	slices.Sort(all)
	return all
}

func join(name, step string) string {
	if name == "" {
		return step
	}
	return name + "/" + step
}

// Repositories lists the names of all repositories with anything to list.
func (r *Release) Repositories() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []string
	for name, p := range r.repos {
		if p.listed() {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// AllRepositories lists the names of all repositories of which the release says
// anything, also of which it says only what was removed.
func (r *Release) AllRepositories() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.repos))
}

// HiddenLayers lists the layer links that were removed from a repository.
func (r *Release) HiddenLayers(repo string) []digest.Digest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []digest.Digest
	if p, ok := r.repos[repo]; ok {
		for d, l := range p.layers {
			if l.mark == hidden {
				all = append(all, d)
			}
		}
	}
	return all
}

// HiddenBlobs lists the blobs that were removed, and that no manifest needs.
func (r *Release) HiddenBlobs() []digest.Digest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []digest.Digest
	for d, b := range r.blobs.all {
		if b.mark == hidden && b.needs == 0 {
			all = append(all, d)
		}
	}
	return all
}

// Dirs lists the directories that somebody made.
func (r *Release) Dirs() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.dirs))
}

func sortLinks(links []Link) []Link {
	slices.SortFunc(links, func(a, b Link) int {
		if a.Digest < b.Digest {
			return -1
		}
		return 1
	})
	return links
}
