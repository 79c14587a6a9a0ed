package index

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// A model is a release as plain maps, with nothing derived before it is asked
// for.
type model struct {
	facts  map[string]*manifest.Manifest // by the manifest's name; all that there are
	known  map[string]bool               // by the index
	layers map[[2]string]mark            // repository, name
	hidden map[[2]string]int             // when
	revs   map[[2]string]*modelRev
	tags   map[[2]string]string // repository, tag
	past   map[[3]string]bool   // repository, tag, manifest
	blobs  map[string]mark
	dirs   map[string]bool
	now    int
}

type modelRev struct {
	linked int
	absent map[string]bool
}

// needs is what a revision needs, by name: true for a layer or a config.
func (m *model) needs(top string, absent map[string]bool) map[string]bool {
	needs := map[string]bool{top: false}
	if !m.known[top] {
		return needs
	}
	for _, ref := range m.facts[top].Refs {
		name := names[ref.Digest]
		if absent[name] {
			continue
		}
		if ref.Role != manifest.Child {
			needs[name] = true
			continue
		}
		maps.Copy(needs, m.needs(name, absent))
	}
	return needs
}

func (m *model) link(repo, name string, absent map[string]bool) {
	m.known[name] = true
	for _, ref := range m.facts[name].Refs {
		if child := names[ref.Digest]; ref.Role == manifest.Child && !absent[child] {
			m.known[child] = true
		}
	}
	rev := &modelRev{m.now, absent}
	m.revs[[2]string{repo, name}] = rev
	m.show(repo, name, rev)
	m.arrive(name)
}

func (m *model) show(repo, name string, rev *modelRev) {
	for need, layer := range m.needs(name, rev.absent) {
		at := [2]string{repo, need}
		if layer && m.layers[at] == hidden && m.hidden[at] <= rev.linked {
			delete(m.layers, at)
		}
	}
}

// arrive: a manifest or a blob has come.
func (m *model) arrive(name string) {
	for at, rev := range m.revs {
		if rev.absent[name] {
			delete(rev.absent, name)
			m.show(at[0], at[1], rev)
		}
	}
}

func (m *model) view(repos, tags, all []string) string {
	needed := map[string]bool{}
	links := map[[2]string]State{}
	for at, rev := range m.revs {
		for name, layer := range m.needs(at[1], rev.absent) {
			needed[name] = true
			if layer {
				links[[2]string{at[0], name}] = Needed
			}
		}
	}
	for at, mark := range m.layers {
		links[at] = markStates[mark]
	}
	var b strings.Builder
	listed := map[string]bool{}
	for at, state := range links {
		listed[at[0]] = listed[at[0]] || state.Listed()
	}
	for at := range m.revs {
		listed[at[0]] = true
	}
	for at := range m.tags {
		listed[at[0]] = true
	}
	for at := range m.past {
		listed[at[0]] = true
	}
	maps.DeleteFunc(listed, func(_ string, is bool) bool { return !is })
	fmt.Fprintln(&b, slices.Sorted(maps.Keys(listed)), slices.Sorted(maps.Keys(m.dirs)))
	for _, repo := range repos {
		for _, name := range all {
			_, linked := m.revs[[2]string{repo, name}]
			fmt.Fprintln(&b, repo, name, stateNames[links[[2]string{repo, name}]], linked)
		}
		for _, tag := range tags {
			var past []string
			for at := range m.past {
				if at[0] == repo && at[1] == tag {
					past = append(past, at[2])
				}
			}
			slices.Sort(past)
			fmt.Fprintln(&b, repo, tag, m.tags[[2]string{repo, tag}], past)
		}
	}
	for _, name := range all {
		state := markStates[m.blobs[name]]
		if needed[name] {
			state = Needed
		}
		fmt.Fprintln(&b, name, stateNames[state], m.blobs[name] == hidden)
	}
	return b.String()
}

var markStates = map[mark]State{own: Linked, hidden: Hidden}

// shortView is the same of a release.
func shortView(r *Release, repos, tags, all []string) string {
	var b strings.Builder
	var listed []string
	listed = append(listed, r.Repositories()...)
	fmt.Fprintln(&b, listed, r.Dirs())
	for _, repo := range repos {
		for _, name := range all {
			_, linked := r.Revision(repo, dg(name))
			fmt.Fprintln(&b, repo, name, stateNames[r.Layer(repo, dg(name)).State], linked)
		}
		for _, tag := range tags {
			l, _ := r.TagLink(repo, tag)
			var past []string
			for _, l := range r.History(repo, tag) {
				past = append(past, names[l.Digest])
			}
			slices.Sort(past)
			fmt.Fprintln(&b, repo, tag, names[l.Digest], past)
		}
	}
	for _, name := range all {
		fmt.Fprintln(&b, name, stateNames[r.Blob(dg(name)).State], r.BlobRemoved(dg(name)))
	}
	return b.String()
}

// names of digests; filled by TestRandom.
var names = map[digest.Digest]string{}

// Random changes of two releases, compared with the model; and now and then
// the index is closed and opened, and must come back as it was, times and all.
func TestRandom(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testRandom(t, seed) })
	}
}

func testRandom(t *testing.T, seed uint64) {
	steps := 400
	if testing.Short() {
		steps = 100
	}
	random := rand.New(rand.NewPCG(seed, 7))
	pick := func(s []string) string { return s[random.IntN(len(s))] }
	repos, tags := []string{"a", "a/b", "a/b/c", "ab"}, []string{"1", "1.0", "latest"}
	images, lists := []string{"m0", "m1", "m2", "m3", "m4", "m5"}, []string{"i0", "i1", "i2"}
	layers := []string{"l0", "l1", "l2", "l3", "l4", "l5", "foreign"}
	all := slices.Concat(images, lists, layers)
	var digests []digest.Digest
	for _, n := range all {
		names[dg(n)] = n
		digests = append(digests, dg(n))
	}
	facts := map[string]*manifest.Manifest{}
	for i, n := range images {
		facts[n] = image(layers[i], layers[(i+1)%6], layers[(i+3)%6])
	}
	facts["m5"].Refs = append(facts["m5"].Refs, optional(layerRef("foreign")))
	facts["i0"], facts["i1"], facts["i2"] = list("m0", "m1"), list("m2", "m5"), list("m3", "m1")

	db := openDB(t, t.TempDir())
	releases, models := map[string]*Release{}, map[string]*model{}
	known := map[string]bool{}
	for _, name := range []string{"v1", "v1.0"} {
		ok(t, db.Create(name))
		releases[name] = openRelease(t, db, name)
		models[name] = &model{
			facts: facts, known: known, layers: map[[2]string]mark{}, hidden: map[[2]string]int{}, revs: map[[2]string]*modelRev{},
			tags: map[[2]string]string{}, past: map[[3]string]bool{}, blobs: map[string]mark{}, dirs: map[string]bool{},
		}
	}

	// bring is what package tree does with a manifest: it looks what is below,
	// and some of what may be absent is.
	bring := func(name string) (Facts, map[string]bool, []digest.Digest) {
		found, absent := Facts{dg(name): facts[name]}, map[string]bool{}
		var follow func(*manifest.Manifest)
		follow = func(m *manifest.Manifest) {
			for _, ref := range m.Refs {
				switch n := names[ref.Digest]; {
				case ref.Optional && random.IntN(4) == 0:
					absent[n] = true
				case ref.Role == manifest.Child:
					found[ref.Digest] = facts[n]
					follow(facts[n])
				}
			}
		}
		follow(facts[name])
		var list []digest.Digest
		for n := range absent {
			list = append(list, dg(n))
		}
		return found, absent, list
	}

	for step := range steps {
		name := pick([]string{"v1", "v1.0"})
		r, m := releases[name], models[name]
		m.now = step
		repo, tag := pick(repos), pick(tags)
		layer, man, any := pick(layers), pick(append(images, lists...)), pick(all)
		var what string
		switch random.IntN(15) {
		case 0, 1:
			what = fmt.Sprint("link layer ", repo, " ", layer)
			ok(t, r.LinkLayer(repo, dg(layer)))
			m.layers[[2]string{repo, layer}] = own
			if m.blobs[layer] == unmarked {
				m.blobs[layer] = own
			}
		case 2, 3:
			what = fmt.Sprint("hide layer ", repo, " ", layer)
			ok(t, r.HideLayer(repo, dg(layer)))
			m.layers[[2]string{repo, layer}], m.hidden[[2]string{repo, layer}] = hidden, step
		case 4, 5, 6:
			found, absent, list := bring(man)
			what = fmt.Sprint("link ", repo, " ", man, " without ", absent)
			ok(t, r.LinkManifest(repo, dg(man), found, list...))
			m.link(repo, man, absent)
		case 7, 8:
			what = fmt.Sprint("unlink ", repo, " ", man)
			ok(t, r.UnlinkManifest(repo, dg(man)))
			delete(m.revs, [2]string{repo, man})
		case 9:
			what = fmt.Sprint("tag ", repo, " ", tag)
			ok(t, r.Tag(repo, tag, dg(man)))
			m.tags[[2]string{repo, tag}] = man
			ok(t, r.AddHistory(repo, tag, dg(man)))
			m.past[[3]string{repo, tag, man}] = true
		case 10:
			what = fmt.Sprint("untag ", repo, " ", tag)
			ok(t, r.Untag(repo, tag))
			delete(m.tags, [2]string{repo, tag})
		case 11:
			what = fmt.Sprint("forget ", repo, " ", tag)
			ok(t, r.RemoveHistory(repo, tag, dg(man)))
			delete(m.past, [3]string{repo, tag, man})
		case 12:
			what = fmt.Sprint("blob ", any)
			if r.Awaits(dg(any)) && facts[any] != nil {
				m.known[any] = true
				ok(t, r.AddFacts(dg(any), Facts{dg(any): facts[any]}))
			}
			ok(t, r.AddBlob(dg(any)))
			m.blobs[any] = own
			m.arrive(any)
		case 13:
			what = fmt.Sprint("hide blob ", any)
			ok(t, r.HideBlob(dg(any)))
			m.blobs[any] = hidden
		case 14:
			what = fmt.Sprint("directory ", repo)
			if m.dirs[repo] {
				ok(t, r.RemoveDir(repo))
				delete(m.dirs, repo)
			} else {
				ok(t, r.AddDir(repo))
				m.dirs[repo] = true
			}
		}
		if d := diffText(m.view(repos, tags, all), shortView(r, repos, tags, all)); d != "" {
			t.Fatalf("step %d, %s: %s: model, then index: %s", step, name, what, d)
		}
		if random.IntN(steps/8) != 0 {
			continue
		}
		before := map[string]string{}
		for name, r := range releases {
			before[name] = view(r, repos, tags, digests)
		}
		ok(t, db.Verify(t.Context()))
		dir := db.badger.Opts().Dir
		ok(t, db.Close())
		db = openDB(t, dir)
		for name := range releases {
			releases[name] = openRelease(t, db, name)
			if d := diffText(before[name], view(releases[name], repos, tags, digests)); d != "" {
				t.Fatalf("step %d, %s, after it was opened again: %s", step, name, d)
			}
		}
	}
}
