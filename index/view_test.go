package index

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// What is said of one layer link and of one blob, after each row of changes,
// and again after the index was opened anew.
func TestStates(t *testing.T) {
	one := map[string]*manifest.Manifest{"m": image("c", "l")}
	two := map[string]*manifest.Manifest{"m2": image("c2", "l")}
	linkLayer := func(t *testing.T, r *Release) { ok(t, r.LinkLayer("a", dg("l"))) }
	hideLayer := func(t *testing.T, r *Release) { ok(t, r.HideLayer("a", dg("l"))) }
	addBlob := func(t *testing.T, r *Release) { ok(t, r.AddBlob(dg("l"))) }
	hideBlob := func(t *testing.T, r *Release) { ok(t, r.HideBlob(dg("l"))) }
	linkM := func(t *testing.T, r *Release) { link(t, r, "a", "m", one) }
	linkM2 := func(t *testing.T, r *Release) { link(t, r, "a", "m2", two) }
	linkElsewhere := func(t *testing.T, r *Release) { link(t, r, "b", "m", one) }
	unlinkM := func(t *testing.T, r *Release) { ok(t, r.UnlinkManifest("a", dg("m"))) }
	unlinkM2 := func(t *testing.T, r *Release) { ok(t, r.UnlinkManifest("a", dg("m2"))) }
	type steps []func(*testing.T, *Release)
	for _, c := range []struct {
		name        string
		steps       steps
		layer, blob State
		removed     bool
	}{
		{"nothing", nil, Absent, Absent, false},
		{"layer linked", steps{linkLayer}, Linked, Linked, false},
		{"layer linked, hidden", steps{linkLayer, hideLayer}, Hidden, Linked, false},
		{"layer hidden that was never there", steps{hideLayer}, Hidden, Absent, false},
		{"layer hidden, linked", steps{hideLayer, linkLayer}, Linked, Linked, false},
		{"blob hidden, linked", steps{hideBlob, linkLayer}, Linked, Hidden, true},
		{"blob", steps{addBlob}, Absent, Linked, false},
		{"blob hidden", steps{addBlob, hideBlob}, Absent, Hidden, true},
		{"blob hidden, uploaded again", steps{hideBlob, addBlob}, Absent, Linked, false},
		{"manifest", steps{linkM}, Needed, Needed, false},
		{"manifest gone", steps{linkM, unlinkM}, Absent, Absent, false},
		{"manifest gone, link written", steps{linkLayer, linkM, unlinkM}, Linked, Linked, false},
		{"link written after the manifest", steps{linkM, linkLayer, unlinkM}, Linked, Linked, false},
		{"manifest linked twice, gone", steps{linkM, linkM, unlinkM}, Absent, Absent, false},
		{"manifest unlinked that was never there", steps{unlinkM}, Absent, Absent, false},
		{"one of two manifests gone", steps{linkM, linkM2, unlinkM}, Needed, Needed, false},
		{"both gone", steps{linkM, linkM2, unlinkM, unlinkM2}, Absent, Absent, false},
		{"needed layer hidden", steps{linkM, hideLayer}, Hidden, Needed, false},
		{"needed layer hidden, manifest linked again", steps{linkM, hideLayer, linkM}, Needed, Needed, false},
		{"needed layer hidden, another manifest", steps{linkM, hideLayer, linkM2}, Needed, Needed, false},
		{"layer hidden, another repository's manifest", steps{linkM, hideLayer, linkElsewhere}, Hidden, Needed, false},
		{"layer hidden, its manifest gone", steps{linkM, hideLayer, unlinkM}, Hidden, Absent, false},
		{"layer hidden, manifest", steps{hideLayer, linkM}, Needed, Needed, false},
		{"layer hidden, manifest, gone", steps{hideLayer, linkM, unlinkM}, Absent, Absent, false},
		{"own link hidden, manifest: the link is the manifest's", steps{linkLayer, hideLayer, linkM, unlinkM}, Absent, Linked, false},
		{"needed blob hidden", steps{linkM, hideBlob}, Needed, Needed, true},
		{"needed blob hidden, manifest gone", steps{linkM, hideBlob, unlinkM}, Absent, Hidden, true},
		{"blob hidden, manifest", steps{hideBlob, linkM}, Needed, Needed, true},
		{"uploaded, needed, gone", steps{addBlob, linkM, unlinkM}, Absent, Linked, false},
		{"in another repository only", steps{linkElsewhere}, Absent, Needed, false},
		{"in two repositories, gone from one", steps{linkM, linkElsewhere, unlinkM}, Absent, Needed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelease(t)
			for _, step := range c.steps {
				step(t, r)
			}
			check := func() {
				t.Helper()
				wantLayer(t, r, "a", "l", c.layer)
				wantBlob(t, r, "l", c.blob)
				equal(t, "removed", r.BlobRemoved(dg("l")), c.removed)
			}
			check()
			r = reopen(t, r)
			check()
		})
	}
}

// A manifest is a blob, and has a revision's link instead of a layer's.
func TestManifestItself(t *testing.T) {
	r := newRelease(t)
	before := time.Now()
	link(t, r, "a", "m", map[string]*manifest.Manifest{"m": image("c", "l")})
	wantLayer(t, r, "a", "m", Absent)
	wantLayer(t, r, "a", "c", Needed)
	wantBlob(t, r, "m", Needed)
	rev, there := r.Revision("a", dg("m"))
	if !there || rev.Digest != dg("m") || rev.State != Linked || rev.Time.Before(before) {
		t.Errorf("revision %v, %v", rev, there)
	}
	equal(t, "revisions", r.Revisions("a"), []Link{rev})
	if _, there := r.Revision("b", dg("m")); there {
		t.Error("linked in a repository that there is not")
	}
	if layer := r.Layer("a", dg("l")); !layer.Time.Equal(rev.Time) {
		t.Errorf("the layer's link is of %v, the manifest's of %v", layer.Time, rev.Time)
	}
	var needs []digest.Digest
	for _, n := range r.Needs("a", dg("m")) {
		needs = append(needs, n.Digest)
		equal(t, "is a manifest", n.Manifest, n.Digest == dg("m"))
	}
	equal(t, "needs, itself first", needs, []digest.Digest{dg("m"), dg("c"), dg("l")})
	equal(t, "needs of one not linked", r.Needs("a", dg("c")), nil)
}

// Two indexes share a platform's image, and both their images a layer.
func TestNestedIndexes(t *testing.T) {
	r := newRelease(t)
	facts := map[string]*manifest.Manifest{
		"top": list("amd", "inner"), "inner": list("arm", "amd"),
		"amd": image("c1", "base", "l1"), "arm": image("c2", "base", "l2"),
	}
	link(t, r, "a", "top", facts)
	for _, name := range []string{"c1", "c2", "base", "l1", "l2"} {
		wantLayer(t, r, "a", name, Needed)
	}
	for _, name := range []string{"top", "inner", "amd", "arm", "c1", "base"} {
		wantBlob(t, r, name, Needed)
	}
	if len(r.Revisions("a")) != 1 {
		t.Error("an index's children have revision links: only the registry makes them")
	}
	link(t, r, "a", "amd", facts)
	ok(t, r.UnlinkManifest("a", dg("top")))
	for name, want := range map[string]State{"c1": Needed, "base": Needed, "l1": Needed, "c2": Absent, "l2": Absent} {
		wantLayer(t, r, "a", name, want)
	}
	for name, want := range map[string]State{"top": Absent, "inner": Absent, "arm": Absent, "amd": Needed} {
		wantBlob(t, r, name, want)
	}
	link(t, r, "b", "inner", facts)
	wantLayer(t, r, "b", "base", Needed)
	wantLayer(t, r, "a", "l2", Absent)
	ok(t, r.UnlinkManifest("a", dg("amd")))
	equal(t, "repositories", r.Repositories(), []string{"b"})
	wantBlob(t, r, "base", Needed)
	ok(t, r.UnlinkManifest("b", dg("inner")))
	equal(t, "blob directories", r.BlobPrefixes(digest.SHA256), nil)
	equal(t, "blobs remembered", len(r.blobs.all), 0)
}

// What one manifest may do without, another may need.
func TestOptionalIsMerged(t *testing.T) {
	r := newRelease(t)
	facts := map[string]*manifest.Manifest{
		"top": list("m1", "m2"),
		"m1":  {Refs: []manifest.Ref{optional(layerRef("l")), optional(layerRef("foreign"))}},
		"m2":  {Refs: []manifest.Ref{layerRef("l")}},
	}
	link(t, r, "a", "top", facts)
	got := map[digest.Digest]bool{}
	for _, n := range r.Needs("a", dg("top")) {
		got[n.Digest] = n.Optional
	}
	equal(t, "optional", got, map[digest.Digest]bool{
		dg("top"): false, dg("m1"): true, dg("m2"): true, dg("l"): false, dg("foreign"): true,
	})
	ok(t, r.LinkManifest("b", dg("top"), nil, dg("l"), dg("foreign")))
	wantLayer(t, r, "b", "l", Needed)
	wantLayer(t, r, "b", "foreign", Absent)
}

// What an image did without when it was linked stays absent, until this
// release brings it.
func TestAbsent(t *testing.T) {
	r := newRelease(t)
	foreign := &manifest.Manifest{Refs: []manifest.Ref{configRef("c"), optional(layerRef("foreign")), optional(layerRef("f2"))}}
	ok(t, r.LinkManifest("a", dg("m"), Facts{dg("m"): foreign}, dg("foreign"), dg("f2")))
	for range 2 {
		wantLayer(t, r, "a", "foreign", Absent)
		wantBlob(t, r, "foreign", Absent)
		wantLayer(t, r, "a", "c", Needed)
		equal(t, "awaited", r.Awaits(dg("foreign")), true)
		equal(t, "awaited that is there", r.Awaits(dg("c")), false)
		r = reopen(t, r)
	}
	ok(t, r.AddBlob(dg("foreign")))
	for range 2 {
		wantLayer(t, r, "a", "foreign", Needed)
		wantBlob(t, r, "foreign", Needed)
		wantBlob(t, r, "f2", Absent)
		equal(t, "awaited still", r.Awaits(dg("foreign")), false)
		equal(t, "the other, awaited", r.Awaits(dg("f2")), true)
		r = reopen(t, r)
	}
}

// A child of an index comes after the index; so do its own layers.
func TestLateChild(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkManifest("a", dg("top"), Facts{dg("top"): list("m")}, dg("m")))
	equal(t, "awaited", r.Awaits(dg("m")), true)
	m := &manifest.Manifest{Refs: []manifest.Ref{layerRef("l"), optional(layerRef("foreign"))}}
	ok(t, r.AddFacts(dg("m"), Facts{dg("m"): m}, dg("foreign")))
	ok(t, r.AddBlob(dg("m")))
	for range 2 {
		wantLayer(t, r, "a", "l", Needed)
		wantLayer(t, r, "a", "foreign", Absent)
		wantBlob(t, r, "m", Needed)
		equal(t, "awaited still", r.Awaits(dg("m")), false)
		equal(t, "its foreign layer, awaited", r.Awaits(dg("foreign")), true)
		equal(t, "noted as ever linked", r.db.EverLinked("a", dg("l")), true)
		r = reopen(t, r)
	}
}

// The link is there before the blob, as when a tree is copied in.
func TestLateManifest(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkManifest("a", dg("m"), nil))
	equal(t, "awaited", r.Awaits(dg("m")), true)
	equal(t, "unknown", r.Unknown("a", dg("m")), []digest.Digest{dg("m")})
	wantBlob(t, r, "m", Needed)
	r = reopen(t, r)
	equal(t, "awaited", r.Awaits(dg("m")), true)
	ok(t, r.AddFacts(dg("m"), Facts{dg("m"): image("c", "l")}))
	for range 2 {
		equal(t, "awaited still", r.Awaits(dg("m")), false)
		equal(t, "unknown still", r.Unknown("a", dg("m")), nil)
		wantLayer(t, r, "a", "l", Needed)
		r = reopen(t, r)
	}
}

// A link that was removed stays removed, whatever else comes late.
func TestLateFactsLeaveHiddenAlone(t *testing.T) {
	r := newRelease(t)
	facts := Facts{dg("top"): list("m1", "m2"), dg("m1"): image("c", "l")}
	ok(t, r.HideLayer("a", dg("before")))
	ok(t, r.LinkManifest("a", dg("top"), facts, dg("m2")))
	ok(t, r.HideLayer("a", dg("l")))
	ok(t, r.AddFacts(dg("m2"), Facts{dg("m2"): image("c", "l2", "before")}))
	ok(t, r.AddBlob(dg("m2")))
	for range 2 {
		wantLayer(t, r, "a", "l2", Needed)
		wantLayer(t, r, "a", "l", Hidden)
		wantLayer(t, r, "a", "before", Needed) // as if the facts had been known when the index was linked
		r = reopen(t, r)
	}
}

// Nobody waits any more when the manifest that needs it is gone. (The memory
// may say otherwise until the next Open; asking once too often is harmless.)
func TestAwaitsNothing(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkManifest("a", dg("m"), nil))
	ok(t, r.UnlinkManifest("a", dg("m")))
	ok(t, r.AddFacts(dg("m"), Facts{dg("m"): image("c", "l")}))
	wantLayer(t, r, "a", "l", Absent)
	wantBlob(t, r, "m", Absent)
	equal(t, "awaited", reopen(t, r).Awaits(dg("m")), false)
}

// Indexes nest MaxDepth manifests deep; the layers of the lowest count.
func TestMaxDepth(t *testing.T) {
	chain := func(n int) Facts {
		facts := make(Facts)
		for i := range n - 1 {
			facts[dg(depthName(i))] = list(depthName(i + 1))
		}
		facts[dg(depthName(n-1))] = image("c", "l")
		return facts
	}
	r := newRelease(t)
	ok(t, r.LinkManifest("a", dg(depthName(0)), chain(MaxDepth)))
	wantLayer(t, r, "a", "l", Needed)
	equal(t, "unknown", r.Unknown("a", dg(depthName(0))), nil)

	r = newRelease(t)
	ok(t, r.LinkManifest("a", dg(depthName(0)), chain(MaxDepth+1)))
	wantLayer(t, r, "a", "l", Absent)
	equal(t, "unknown, not passed over", r.Unknown("a", dg(depthName(0))), []digest.Digest{dg(depthName(MaxDepth))})
}

func depthName(i int) string { return "deep" + string(rune('a'+i)) }

func TestTags(t *testing.T) {
	r := newRelease(t)
	ok(t, r.Tag("a", "v1", dg("m1")))
	ok(t, r.AddHistory("a", "v1", dg("m1")))
	ok(t, r.Tag("a", "v1", dg("m2")))
	ok(t, r.AddHistory("a", "v1", dg("m2")))
	ok(t, r.Tag("a", "v1.1", dg("m1")))
	history := func(tag string) (all []digest.Digest) {
		for _, l := range r.History("a", tag) {
			if one, there := r.HistoryLink("a", tag, l.Digest); !there || one != l {
				t.Errorf("history of %s lists %v, and finds %v", tag, l, one)
			}
			all = append(all, l.Digest)
		}
		return all
	}
	sorted := func(names ...string) (all []digest.Digest) {
		for _, n := range names {
			all = append(all, dg(n))
		}
		slices.Sort(all)
		return all
	}
	for range 2 {
		equal(t, "tags", r.Tags("a"), []string{"v1", "v1.1"})
		l, there := r.TagLink("a", "v1")
		if !there || l.Digest != dg("m2") || l.State != Linked || time.Since(l.Time) > time.Minute {
			t.Errorf("tag v1: %v, %v", l, there)
		}
		equal(t, "history", history("v1"), sorted("m1", "m2"))
		equal(t, "history of v1.1", history("v1.1"), nil)
		equal(t, "repositories", r.Repositories(), []string{"a"})
		r = reopen(t, r)
	}

	ok(t, r.Untag("a", "v1"))
	ok(t, r.RemoveHistory("a", "v1", dg("m1")))
	ok(t, r.Untag("a", "v1.1"))
	for range 2 {
		equal(t, "tags, one with history only", r.Tags("a"), []string{"v1"})
		if l, there := r.TagLink("a", "v1"); there {
			t.Errorf("v1 points at %v", l)
		}
		equal(t, "history", history("v1"), sorted("m2"))
		r = reopen(t, r)
	}

	ok(t, r.RemoveHistory("a", "v1", dg("m2")))
	ok(t, r.RemoveHistory("a", "v1", dg("never")))
	ok(t, r.Untag("a", "never"))
	ok(t, r.Untag("nowhere", "never"))
	for range 2 {
		equal(t, "tags", r.Tags("a"), nil)
		equal(t, "repositories", r.Repositories(), nil)
		r = reopen(t, r)
	}
}

func TestSteps(t *testing.T) {
	r := newRelease(t)
	check := func(name string, there bool, steps ...string) {
		t.Helper()
		equal(t, "repository "+name, r.Repository(name), there)
		equal(t, "steps of "+name, r.Steps(name), steps)
	}
	ok(t, r.LinkLayer("a/b/c", dg("l")))
	check("", true, "a")
	check("a", true, "b")
	check("a/b", true, "c")
	check("a/b/c", true)
	check("a/b/d", false)
	check("ab", false)
	check("b", false)
	equal(t, "repositories", r.Repositories(), []string{"a/b/c"})

	ok(t, r.Tag("a", "v1", dg("m")))
	ok(t, r.LinkLayer("ab", dg("l")))
	ok(t, r.LinkLayer("a/b", dg("l")))
	r = reopen(t, r)
	check("", true, "a", "ab")
	check("a", true, "b")
	check("a/b", true, "c")
	equal(t, "repositories", r.Repositories(), []string{"a", "a/b", "a/b/c", "ab"})

	ok(t, r.HideLayer("a/b/c", dg("l")))
	for range 2 {
		check("a", true, "b")
		check("a/b", true)
		check("a/b/c", false)
		r = reopen(t, r)
	}
	ok(t, r.HideLayer("a/b", dg("l")))
	check("a", true)
	ok(t, r.Untag("a", "v1"))
	check("a", false)
	check("", true, "ab")
	ok(t, r.HideLayer("ab", dg("l")))
	check("", false)
}

// Hiding in a repository that there is not makes none.
func TestHidingMakesNoRepository(t *testing.T) {
	r := newRelease(t)
	ok(t, r.HideLayer("a/b", dg("l")))
	ok(t, r.UnlinkManifest("c", dg("m")))
	equal(t, "repositories", r.Repositories(), nil)
	equal(t, "steps", r.Steps(""), nil)
	equal(t, "ever", r.db.EverRepository("a"), false)
}

func TestDirs(t *testing.T) {
	r := newRelease(t)
	ok(t, r.AddDir("docker/registry"))
	ok(t, r.AddDir("docker"))
	ok(t, r.AddDir("docker/registry/v2"))
	ok(t, r.RemoveDir("docker/registry"))
	ok(t, r.RemoveDir("never"))
	for range 2 {
		equal(t, "directories", strings.Join(r.Dirs(), " "), "docker docker/registry/v2")
		r = reopen(t, r)
	}
}

// Repository reuse asks whether any release ever had a blob in a repository.
// Names that only begin alike must not answer for each other.
func TestEver(t *testing.T) {
	r := newRelease(t)
	ok(t, r.db.Create("v2"))
	other := openRelease(t, r.db, "v2")
	ok(t, r.LinkLayer("a/b", dg("l")))
	ok(t, other.LinkLayer("abc", dg("l2")))
	link(t, other, "m", "m1", map[string]*manifest.Manifest{"m1": image("c", "l3")})
	ok(t, r.HideLayer("a/b", dg("l")))
	r = reopen(t, r)
	for _, c := range []struct {
		repo string
		want bool
	}{
		{"a", true}, {"a/b", true}, {"abc", true}, {"m", true},
		{"ab", false}, {"a/bc", false}, {"a/", false}, {"", false}, {"b", false}, {"a/b/c", false}, {"abcd", false},
	} {
		equal(t, "ever a repository "+c.repo, r.db.EverRepository(c.repo), c.want)
	}
	for _, c := range []struct {
		repo, name string
		want       bool
	}{
		{"a/b", "l", true}, {"abc", "l2", true}, {"m", "l3", true}, {"m", "c", true},
		{"a", "l", false}, {"a/b", "l2", false}, {"ab", "l", false}, {"m", "m1", false},
	} {
		equal(t, "ever "+c.name+" in "+c.repo, r.db.EverLinked(c.repo, dg(c.name)), c.want)
	}
}

// Two releases whose names begin alike: neither shows the other's names.
func TestReleasesAreApart(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	names := []string{"v1", "v1.0", "v1-", "v", "v10", "v1.0.1"}
	fill := func(r *Release) {
		own := r.Name
		ok(t, r.LinkLayer("repo-"+own, dg("layer "+own)))
		link(t, r, "repo-"+own, "m "+own, map[string]*manifest.Manifest{"m " + own: image("c "+own, "l "+own)})
		ok(t, r.Tag("repo-"+own, "tag", dg("m "+own)))
		ok(t, r.AddDir(own))
		ok(t, r.AddBlob(dg("layer "+own)))
	}
	for _, name := range names {
		ok(t, db.Create(name))
		fill(openRelease(t, db, name))
	}
	for range 2 {
		for _, name := range names {
			r := openRelease(t, db, name)
			equal(t, name+": repositories", r.Repositories(), []string{"repo-" + name})
			equal(t, name+": directories", len(r.Dirs()), 1)
			equal(t, name+": layers", len(r.Layers("repo-"+name)), 3)
			equal(t, name+": blobs", len(r.blobs.all), 4)
		}
		ok(t, db.Close())
		db = openDB(t, dir)
	}
}

// The time of a link that follows from manifests is that of the last of them
// that was linked.
func TestNeededTime(t *testing.T) {
	r := newRelease(t)
	link(t, r, "a", "m1", map[string]*manifest.Manifest{"m1": image("c", "l")})
	link(t, r, "a", "m2", map[string]*manifest.Manifest{"m2": image("c", "l")})
	last, _ := r.Revision("a", dg("m2"))
	for range 2 {
		if l := r.Layer("a", dg("l")); !l.Time.Equal(last.Time) {
			t.Errorf("link of %v, manifest of %v", l.Time, last.Time)
		}
		r = reopen(t, r)
		last.Time = last.Time.Round(0)
	}
}
