package index

import (
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// MaxDepth is how deep indexes may nest. Registries set no limit; real images
// use two levels, and what lies deeper is not followed but refused.
const MaxDepth = 8

// Facts are what manifests need, by digest.
type Facts map[digest.Digest]*manifest.Manifest

// A Need is one blob that a manifest needs.
type Need struct {
	manifest.Ref
	// Manifest says that the blob is a manifest: it has no layer link.
	Manifest bool
}

// A reach is everything a manifest needs, itself first, each blob once.
type reach struct {
	needs   []Need
	unknown []digest.Digest // manifests of which nothing is known yet
}

// reach walks from a manifest down to its layers.
func (db *DB) reach(root digest.Digest) reach {
	w := walk{db: db, seen: make(map[digest.Digest]int)}
	w.visit(manifest.Ref{Digest: root, Role: manifest.Child}, 0)
	return w.reach
}

type walk struct {
	reach
	db   *DB
	seen map[digest.Digest]int // index in needs
}

func (w *walk) visit(ref manifest.Ref, depth int) {
	if i, ok := w.seen[ref.Digest]; ok {
		// What one manifest may do without, another may need.
		w.needs[i].Optional = w.needs[i].Optional && ref.Optional
		return
	}
	if depth > MaxDepth {
		return
	}
	isManifest := ref.Role == manifest.Child
	w.seen[ref.Digest] = len(w.needs)
	w.needs = append(w.needs, Need{Ref: ref, Manifest: isManifest})
	if !isManifest {
		return
	}
	m, err := w.db.Manifest(ref.Digest)
	if err != nil {
		w.unknown = append(w.unknown, ref.Digest)
		return
	}
	for _, child := range m.Refs {
		w.visit(child, depth+1)
	}
}

// count enters a revision's reach into the release's counts.
func (r *Release) count(repo *repository, rev *revision, reach reach) {
	rev.reach = reach
	for _, need := range reach.needs {
		r.blobs.need(need.Digest, 1)
		if !need.Manifest {
			l := repo.layer(need.Digest)
			l.needs++
			if rev.time.After(l.needed) {
				l.needed = rev.time
			}
		}
	}
	for _, d := range reach.unknown {
		r.awaited[d] = true
	}
}

// uncount takes back what count did.
func (r *Release) uncount(repo *repository, rev *revision) {
	for _, need := range rev.reach.needs {
		r.blobs.need(need.Digest, -1)
		if need.Manifest {
			continue
		}
		l := repo.layer(need.Digest)
		if l.needs--; l.needs == 0 && l.mark == unmarked {
			delete(repo.layers, need.Digest)
		}
	}
	rev.reach = reach{}
}
