package index

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// DropTag removes a tag with its history, in one change, and says what it
// pointed at; ok is false if there is no such tag. With its image goes the
// manifest, if no other tag of the repository points at it and no other manifest
// there lists it, and so do the manifests below it.
func (r *Release) DropTag(repo, name string, withImage bool) (d digest.Digest, ok bool, err error) {
	err = r.durable(func(time.Time) records {
		p, known := r.repos[repo]
		if !known || p.tags[name] == nil {
			return nil
		}
		t := p.tags[name]
		d, ok = t.current, true
		rs := records{del(key(r.Name, keyTag, repo, name))}
		for old := range t.history {
			rs = append(rs, del(key(r.Name, keyTagIndex, repo, name, old.String())))
		}
		delete(p.tags, name)
		if withImage {
			rs = append(rs, r.dropUnnamed(repo, p, d)...)
		}
		return rs
	})
	return d, ok, err
}

// dropUnnamed unlinks a manifest that has no name, and then those below it that
// have none.
func (r *Release) dropUnnamed(repo string, p *repository, top digest.Digest) (rs records) {
	if p.revisions[top] == nil {
		return nil
	}
	var below []digest.Digest
	for _, need := range p.revisions[top].reach.needs {
		if need.Manifest {
			below = append(below, need.Digest) // the top first
		}
	}
	for _, d := range below {
		rev := p.revisions[d]
		if rev == nil || p.names(d) {
			continue
		}
		r.uncount(p, rev)
		delete(p.revisions, d)
		rs = append(rs, del(key(r.Name, keyRevision, repo, d.String())))
	}
	return rs
}

// names says whether a tag points at a manifest, or another manifest lists it.
func (p *repository) names(d digest.Digest) bool {
	for _, t := range p.tags {
		if t.current == d {
			return true
		}
	}
	for top, rev := range p.revisions {
		if top != d && slices.ContainsFunc(rev.reach.needs, func(n Need) bool { return n.Manifest && n.Digest == d }) {
			return true
		}
	}
	return false
}
