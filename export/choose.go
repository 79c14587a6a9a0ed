package export

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// A Chooser finds the images of a release, each with what travels with it: by
// the rules of a [Selection], and from the index alone. It is for one goroutine.
type Chooser struct {
	release *index.Release
	repos   map[string]*repository
}

// NewChooser returns a chooser for a release, which stays open.
func NewChooser(release *index.Release) *Chooser {
	return &Chooser{release, make(map[string]*repository)}
}

// A Choice is one image of a release.
type Choice struct {
	Repository string
	Tag        string // empty if it was found by its digest, or has none
	Digest     digest.Digest
	Referrer   bool // it says something of another image of the repository

	// Manifests are all linked ones that belong to the image, itself included.
	// What a manifest needs comes before it.
	Manifests []digest.Digest
	// Present are the blobs that these need, and Absent those that the release
	// has done without.
	Present, Absent []digest.Digest

	Tags    []index.TagLink
	History []index.TagLink
}

// Name is the image's name as users know it.
func (c Choice) Name() string {
	return layout.ImageName(c.Repository, c.Tag, c.Digest)
}

// Find finds the image that a reference names, with its signatures and other
// referrers. Of the tag's history is in it what is in the image.
func (c *Chooser) Find(ref imagelist.Reference) (Choice, bool) {
	r, t, rev := find(c.repository, ref)
	if rev == nil {
		return Choice{}, false
	}
	w := newSelecting(Selection{Images: []imagelist.Reference{ref}}, c.release.Name)
	if t != nil {
		w.takeTag(r, *t)
	} else {
		w.take(r, rev)
	}
	w.takeReferrers(r)
	return c.choice(w, r, t, rev), true
}

// All lists all images, by repository and tag: every tag that points at a
// linked manifest, with the linked manifests of its history, and every untagged
// manifest that no linked index contains. Referrers are images of their own.
func (c *Chooser) All() []Choice {
	var all []Choice
	for _, name := range c.release.Repositories() {
		r := c.repository(name)
		for i := range r.tags {
			t := &r.tags[i]
			if rev, ok := r.revisions[t.current]; ok {
				w := newSelecting(Selection{}, c.release.Name)
				w.takeTag(r, *t)
				all = append(all, c.choice(w, r, t, rev))
			}
		}
		for _, rev := range r.sorted() {
			if rev.loose() {
				w := newSelecting(Selection{}, c.release.Name)
				w.take(r, rev)
				all = append(all, c.choice(w, r, nil, rev))
			}
		}
	}
	return all
}

func (c *Chooser) repository(name string) *repository {
	r, ok := c.repos[name]
	if !ok {
		r = survey(c.release, name)
		c.repos[name] = r
	}
	return r
}

// choice makes a choice of what was taken of a repository.
func (c *Chooser) choice(w *selecting, r *repository, t *tag, rev *revision) Choice {
	choice := Choice{Repository: r.name, Digest: rev.digest, Referrer: r.isReferrer(rev)}
	if t != nil {
		choice.Tag = t.name
		choice.Referrer = r.refers(*t)
	}
	choice.Manifests = w.inOrder(r)
	choice.Present, choice.Absent = r.needsOf(choice.Manifests)
	for _, t := range r.tags {
		if !w.tags[repoTag{r.name, t.name}] {
			continue
		}
		if w.revisions[r.revisions[t.current]] {
			choice.Tags = append(choice.Tags, index.TagLink{Tag: t.name, Digest: t.current})
		}
		for _, d := range t.history {
			if w.revisions[r.revisions[d]] {
				choice.History = append(choice.History, index.TagLink{Tag: t.name, Digest: d})
			}
		}
	}
	return choice
}

// needsOf lists what some manifests need, each blob once. What one of them did
// without and another has counts as present.
func (r *repository) needsOf(manifests []digest.Digest) (present, absent []digest.Digest) {
	here := make(map[digest.Digest]bool)
	for _, d := range manifests {
		for _, need := range r.revisions[d].needs {
			here[need.Digest] = here[need.Digest] || !need.Absent
		}
	}
	for d, is := range here {
		if is {
			present = append(present, d)
		} else {
			absent = append(absent, d)
		}
	}
	return present, absent
}

// inOrder lists the manifests that were taken of a repository, each after those
// that it needs.
func (w *selecting) inOrder(r *repository) []digest.Digest {
	var all []digest.Digest
	seen := make(map[*revision]bool)
	var visit func(rev *revision)
	visit = func(rev *revision) {
		if seen[rev] || !w.revisions[rev] {
			return
		}
		seen[rev] = true
		for _, need := range rev.needs[1:] {
			if child, ok := r.revisions[need.Digest]; ok && need.Manifest {
				visit(child)
			}
		}
		all = append(all, rev.digest)
	}
	var taken []*revision
	for rev := range w.revisions {
		taken = append(taken, rev)
	}
	for _, rev := range sortRevisions(taken) {
		visit(rev)
	}
	return all
}

func (r *repository) sorted() []*revision {
	all := make([]*revision, 0, len(r.revisions))
	for _, rev := range r.revisions {
		all = append(all, rev)
	}
	return sortRevisions(all)
}

func sortRevisions(all []*revision) []*revision {
	slices.SortFunc(all, func(a, b *revision) int { return cmp.Compare(a.digest, b.digest) })
	return all
}
