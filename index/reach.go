package index

import (
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// MaxDepth is how deep indexes may nest. Registries set no limit; real images
// use two levels, and what lies deeper is not followed but refused.
const MaxDepth = 8

// MaxNeeds is how many blobs one manifest may need in all, with those of the
// manifests below it. A revision holds them in memory; a small index of large
// ones would otherwise take a gigabyte, and the next one another. It is a bound of
// ours, ten times what the largest index of single manifests has.
const MaxNeeds = 10 * manifest.MaxRefs

// Facts are what manifests need, by digest.
type Facts map[digest.Digest]*manifest.Manifest

// A Need is one blob that a manifest needs.
type Need struct {
	manifest.Ref
	// Manifest says that the blob is a manifest: it has no layer link.
	Manifest bool
	// Absent says that the manifest can do without the blob, and that the
	// release has done without it so far: a foreign layer, a platform left out
	// of an index. It stays absent when another release brings the blob, or
	// this one would change unasked.
	Absent bool
}

// A reach is everything a manifest needs, itself first, each blob once.
type reach struct {
	needs   []Need
	unknown []digest.Digest // manifests of which nothing is known yet
}

// present are the needs that count.
func (r reach) present() iter.Seq[Need] {
	return func(yield func(Need) bool) {
		for _, need := range r.needs {
			if !need.Absent && !yield(need) {
				return
			}
		}
	}
}

// waits says whether a blob that comes would change the reach.
func (r reach) waits(d digest.Digest) bool {
	return slices.Contains(r.unknown, d) ||
		slices.ContainsFunc(r.needs, func(n Need) bool { return n.Absent && n.Digest == d })
}

// reach walks from a manifest down to its layers, and does without what is
// absent where a manifest allows it.
func (db *DB) reach(root digest.Digest, absent []digest.Digest) reach {
	w := walk{db: db, absent: make(map[digest.Digest]bool), seen: make(map[digest.Digest]int)}
	for _, d := range absent {
		w.absent[d] = true
	}
	w.visit(manifest.Ref{Digest: root, Role: manifest.Child}, 0)
	return w.reach
}

type walk struct {
	reach
	db     *DB
	absent map[digest.Digest]bool
	seen   map[digest.Digest]int // index in needs
}

func (w *walk) visit(ref manifest.Ref, depth int) {
	if i, ok := w.seen[ref.Digest]; ok {
		// What one manifest may do without, another may need.
		w.needs[i].Optional = w.needs[i].Optional && ref.Optional
		w.needs[i].Absent = w.needs[i].Absent && ref.Optional
		return
	}
	need := Need{
		Ref: ref, Manifest: ref.Role == manifest.Child,
		Absent: ref.Optional && w.absent[ref.Digest],
	}
	w.seen[ref.Digest] = len(w.needs)
	w.needs = append(w.needs, need)
	if !need.Manifest || need.Absent {
		return
	}
	m, err := w.db.Manifest(ref.Digest)
	if err != nil || depth >= MaxDepth || len(w.needs) > MaxNeeds {
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
	for need := range reach.present() {
		r.blobs.need(need.Digest, 1)
		r.blobs.state(need.Digest, need.Size)
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
	for _, need := range reach.needs {
		if need.Absent {
			r.awaited[need.Digest] = true
		}
	}
}

// uncount takes back what count did.
func (r *Release) uncount(repo *repository, rev *revision) {
	for need := range rev.reach.present() {
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
