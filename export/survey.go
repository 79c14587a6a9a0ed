package export

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// A repository is what a release says of one.
type repository struct {
	name      string
	tags      []tag // sorted by name
	revisions map[digest.Digest]*revision
}

type tag struct {
	name    string
	current digest.Digest // empty when only the history is left
	time    time.Time
	history []digest.Digest
}

// A revision is a linked manifest.
type revision struct {
	digest  digest.Digest
	time    time.Time
	needs   []index.Need // itself first
	unknown []digest.Digest
	subject digest.Digest // what it refers to, if it is a referrer
	tags    []string
	within  []*revision // the linked indexes that contain it
	images  []string    // the names under which users know it
}

// survey reads a repository, the tags first. A registry links a manifest
// before it tags it, so the manifests of all tags are seen, even while it is
// being pushed to.
func survey(release *index.Release, name string) *repository {
	r := &repository{name: name, revisions: make(map[digest.Digest]*revision)}
	for _, t := range release.Tags(name) {
		r.tags = append(r.tags, readTag(release, name, t))
	}
	for _, link := range release.Revisions(name) {
		needs := release.Needs(name, link.Digest)
		if len(needs) == 0 {
			continue // removed this moment
		}
		r.revisions[link.Digest] = &revision{
			digest:  link.Digest,
			time:    link.Time,
			needs:   needs,
			unknown: release.Unknown(name, link.Digest),
			subject: subjectOf(release, link.Digest),
		}
	}
	r.relate()
	r.nameImages()
	return r
}

func subjectOf(release *index.Release, d digest.Digest) digest.Digest {
	m, err := release.Manifest(d)
	if err != nil {
		return "" // nothing is known of it, which is said elsewhere
	}
	return m.Subject
}

func readTag(release *index.Release, repo, name string) tag {
	t := tag{name: name}
	if link, ok := release.TagLink(repo, name); ok {
		t.current, t.time = link.Digest, link.Time
	}
	for _, link := range release.History(repo, name) {
		t.history = append(t.history, link.Digest)
	}
	return t
}

// relate finds out which revisions are tagged, and which are part of others.
func (r *repository) relate() {
	for _, t := range r.tags {
		if rev, ok := r.revisions[t.current]; ok {
			rev.tags = append(rev.tags, t.name)
		}
	}
	for _, parent := range r.revisions {
		for _, need := range parent.needs[1:] {
			if rev, ok := r.revisions[need.Digest]; ok && need.Manifest {
				rev.within = append(rev.within, parent)
			}
		}
	}
}

// nameImages gives each revision the names of the images that it is, or is a
// part of.
func (r *repository) nameImages() {
	for _, rev := range r.revisions {
		rev.images = r.ownNames(rev)
		for _, parent := range rev.within {
			rev.images = append(rev.images, r.ownNames(parent)...)
		}
		if len(rev.images) == 0 { // part of an index whose other parts are unknown
			rev.images = []string{layout.ImageName(r.name, "", rev.digest)}
		}
		slices.Sort(rev.images)
		rev.images = slices.Compact(rev.images)
	}
}

// ownNames of a revision that is only a part of others are none.
func (r *repository) ownNames(rev *revision) []string {
	if rev.loose() {
		return []string{layout.ImageName(r.name, "", rev.digest)}
	}
	names := make([]string, len(rev.tags))
	for i, t := range rev.tags {
		names[i] = r.name + ":" + t
	}
	return names
}

// loose says whether a revision is an image of its own, though it has no tag.
func (rev *revision) loose() bool { return len(rev.tags) == 0 && len(rev.within) == 0 }

func (r *repository) linked(d digest.Digest) bool { return r.revisions[d] != nil }

// knows says whether it is known what a manifest below a revision needs. If
// it was linked here after its parent, it is its own revision that knows.
func (r *repository) knows(rev *revision, d digest.Digest) bool {
	if !slices.Contains(rev.unknown, d) {
		return true
	}
	own, ok := r.revisions[d]
	return ok && !slices.Contains(own.unknown, d)
}
