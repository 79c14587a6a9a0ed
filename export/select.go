package export

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagelist"
)

// A Selection says which part of a release is wanted. The zero one wants all.
type Selection struct {
	// Images, if any, are the images wanted. A reference finds its image
	// under the first of its [imagelist.Reference.Repositories] that has it.
	Images []imagelist.Reference `json:"images,omitempty"`

	// Platforms, if any, are those wanted of an index, as os/arch[/variant].
	// The index stays as it is, with its digest, and sparse: see platform.go.
	Platforms []string `json:"platforms,omitempty"`

	// NoReferrers leaves out what says something of an image: signatures,
	// attestations, bills of materials. An image that is listed stays.
	NoReferrers bool `json:"no_referrers,omitempty"`
}

// IsAll says whether all of a release is wanted.
func (s Selection) IsAll() bool { return len(s.Images) == 0 && len(s.Platforms) == 0 && !s.NoReferrers }

// A SelectionError says that a release has not what was asked for. Its message
// is bounded, the lists are not.
type SelectionError struct {
	Release    string
	Images     []string // that are not in the release
	Platforms  []string // of the selection
	NoPlatform []string // images that have none of them
}

func (e *SelectionError) Error() string {
	var parts []string
	if len(e.Images) > 0 {
		parts = append(parts, "not in the release: "+enumerate(e.Images))
	}
	if len(e.NoPlatform) > 0 {
		parts = append(parts, fmt.Sprintf("not for %s: %s", strings.Join(e.Platforms, " or "), enumerate(e.NoPlatform)))
	}
	return "export " + e.Release + ": " + strings.Join(parts, "; ")
}

func (e *SelectionError) Is(target error) bool { return target == fs.ErrNotExist }

// A selecting is a selection being applied.
type selecting struct {
	Selection
	platforms *platforms // nil if all are wanted
	repos     map[string]*repository
	tags      map[repoTag]bool   // kept
	revisions map[*revision]bool // kept
	walked    map[*revision]bool // with what they need
	err       SelectionError
}

type repoTag struct{ repo, tag string }

func newSelecting(s Selection, release string) *selecting {
	return &selecting{
		Selection: s,
		repos:     make(map[string]*repository),
		tags:      make(map[repoTag]bool),
		revisions: make(map[*revision]bool),
		walked:    make(map[*revision]bool),
		err:       SelectionError{Release: release, Platforms: s.Platforms},
	}
}

// apply takes from surveyed repositories what is not wanted.
func (s Selection) apply(t *taking, repos []*repository) error {
	if s.IsAll() {
		return nil
	}
	w := newSelecting(s, t.release.Name)
	if len(s.Platforms) > 0 {
		w.platforms = newPlatforms(s, t)
	}
	for _, r := range repos {
		w.repos[r.name] = r
	}
	if len(s.Images) == 0 {
		w.takeAll(repos)
	} else {
		w.takeListed()
	}
	if !s.NoReferrers {
		for _, r := range repos {
			w.takeReferrers(r)
		}
	}
	for _, r := range repos {
		w.prune(r)
	}
	if len(w.err.Images)+len(w.err.NoPlatform) > 0 {
		slices.Sort(w.err.NoPlatform)
		w.err.NoPlatform = slices.Compact(w.err.NoPlatform)
		return &w.err
	}
	return nil
}

// takeAll takes every tag, and every manifest that is no part of an index.
func (w *selecting) takeAll(repos []*repository) {
	for _, r := range repos {
		for _, t := range r.tags {
			if !w.NoReferrers || !r.refers(t) {
				w.takeTag(r, t)
			}
		}
		for _, rev := range r.revisions {
			if rev.loose() && (!w.NoReferrers || !r.isReferrer(rev)) {
				w.take(r, rev)
			}
		}
	}
}

// takeListed takes what the list names.
func (w *selecting) takeListed() {
	for _, ref := range w.Images {
		if !w.takeReference(ref) {
			w.err.Images = append(w.err.Images, ref.String())
		}
	}
}

func (w *selecting) takeReference(ref imagelist.Reference) bool {
	r, t, rev := find(func(name string) *repository { return w.repos[name] }, ref)
	switch {
	case rev == nil:
		return false
	case t != nil:
		w.takeTag(r, *t)
	default:
		w.take(r, rev)
	}
	return true
}

// find finds the image that a reference names, in the first repository that has
// it; t is nil if it is named by its digest alone.
func find(repository func(name string) *repository, ref imagelist.Reference) (r *repository, t *tag, rev *revision) {
	for _, name := range ref.Repositories() {
		r := repository(name)
		if r == nil {
			continue
		}
		if ref.Tag == "" {
			if rev, ok := r.revisions[ref.Digest]; ok {
				return r, nil, rev
			}
			continue
		}
		i := slices.IndexFunc(r.tags, func(t tag) bool { return t.name == ref.Tag })
		if i >= 0 && r.linked(r.tags[i].current) && (ref.Digest == "" || ref.Digest == r.tags[i].current) {
			return r, &r.tags[i], r.revisions[r.tags[i].current]
		}
	}
	return nil, nil, nil
}

func (w *selecting) takeTag(r *repository, t tag) {
	w.tags[repoTag{r.name, t.name}] = true
	if rev, ok := r.revisions[t.current]; ok {
		w.take(r, rev)
	}
	if len(w.Images) > 0 {
		return
	}
	for _, d := range t.history {
		if rev, ok := r.revisions[d]; ok {
			w.take(r, rev)
		}
	}
}

// take takes a manifest with the linked ones that are part of it, as far as
// their platforms are wanted.
func (w *selecting) take(r *repository, rev *revision) {
	if w.walked[rev] {
		return
	}
	w.revisions[rev], w.walked[rev] = true, true
	if w.platforms != nil && !w.platforms.restrict(rev) {
		w.err.NoPlatform = append(w.err.NoPlatform, rev.images...)
	}
	for _, need := range rev.needs[1:] {
		if child, ok := r.revisions[need.Digest]; ok && need.Manifest {
			w.take(r, child)
		}
	}
}

// takeReferrers takes what refers to something that is taken, and what refers
// to that.
func (w *selecting) takeReferrers(r *repository) {
	for more := true; more; {
		more = false
		for _, rev := range r.revisions {
			if subject, ok := r.revisions[rev.subject]; ok && w.revisions[subject] && !w.revisions[rev] {
				w.take(r, rev)
				more = true
			}
		}
		for _, t := range r.tags {
			name := repoTag{r.name, t.name}
			if !w.tags[name] && w.refersToTaken(r, t) {
				w.takeTag(r, t)
				more = true
			}
		}
	}
}

// refersToTaken says whether a tag is one of a referrer of something taken.
func (w *selecting) refersToTaken(r *repository, t tag) bool {
	if rev, ok := r.revisions[subjectOfTag(t.name)]; ok && w.revisions[rev] {
		return true
	}
	rev, ok := r.revisions[t.current]
	if !ok {
		return false
	}
	subject, ok := r.revisions[rev.subject]
	return ok && w.revisions[subject]
}

// prune leaves in a repository what was taken.
func (w *selecting) prune(r *repository) {
	r.tags = slices.DeleteFunc(r.tags, func(t tag) bool { return !w.tags[repoTag{r.name, t.name}] })
	for d, rev := range r.revisions {
		if !w.revisions[rev] {
			delete(r.revisions, d)
		}
	}
	for i := range r.tags {
		t := &r.tags[i]
		t.history = slices.DeleteFunc(t.history, func(d digest.Digest) bool { return !r.linked(d) })
	}
	for _, rev := range r.revisions {
		rev.tags, rev.within = nil, nil
	}
	r.relate()
	r.nameImages()
}

// refers says whether a tag is of something that refers to an image of its
// repository.
func (r *repository) refers(t tag) bool {
	rev, ok := r.revisions[t.current]
	return r.linked(subjectOfTag(t.name)) || ok && r.isReferrer(rev)
}

func (r *repository) isReferrer(rev *revision) bool {
	return rev.subject != "" && r.linked(rev.subject)
}

// referrerTag is how clients tag what refers to an image, where the registry
// has no list of referrers: cosign with .sig, .att, .sbom, and OCI without a
// suffix.
var referrerTag = regexp.MustCompile(`^(sha256|sha384|sha512)-([0-9a-f]{64,128})(\.[A-Za-z0-9._-]+)?$`)

// subjectOfTag returns the digest that a tag is made of, or none.
func subjectOfTag(name string) digest.Digest {
	m := referrerTag.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(m[1]), m[2])
	if d.Validate() != nil {
		return ""
	}
	return d
}

// IsReferrerTag says whether a tag is one that clients make of a digest, for
// what refers to the image.
func IsReferrerTag(tag string) bool { return subjectOfTag(tag) != "" }
