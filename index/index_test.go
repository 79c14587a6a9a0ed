package index

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// ok fails the test on an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// openDB opens an index until the test ends, or is closed by the test.
func openDB(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(dir, slog.New(slog.DiscardHandler))
	ok(t, err)
	t.Cleanup(func() {
		if !db.badger.IsClosed() {
			ok(t, db.Close())
		}
	})
	return db
}

func openRelease(t testing.TB, db *DB, name string) *Release {
	t.Helper()
	r, err := db.Open(name)
	ok(t, err)
	return r
}

// newRelease makes an index with one release, v1.
func newRelease(t testing.TB) *Release {
	t.Helper()
	db := openDB(t, t.TempDir())
	ok(t, db.Create("v1"))
	return openRelease(t, db, "v1")
}

// reopen closes the index and returns the release as it comes back.
func reopen(t testing.TB, r *Release) *Release {
	t.Helper()
	dir := r.db.badger.Opts().Dir
	ok(t, r.db.Close())
	return openRelease(t, openDB(t, dir), r.Name)
}

// dg is the digest of a name, so that tests can speak of "layer 1".
func dg(name string) digest.Digest { return digest.FromString(name) }

func layerRef(name string) manifest.Ref {
	return manifest.Ref{Digest: dg(name), Role: manifest.Layer, MediaType: "l", Size: 1}
}

func configRef(name string) manifest.Ref {
	return manifest.Ref{Digest: dg(name), Role: manifest.Config, MediaType: "c", Size: 1}
}

// childRef is an index's child, which is always optional.
func childRef(name string) manifest.Ref {
	return manifest.Ref{Digest: dg(name), Role: manifest.Child, MediaType: "m", Optional: true}
}

func optional(ref manifest.Ref) manifest.Ref { ref.Optional = true; return ref }

// image is the facts of an image with a config and layers, all named.
func image(config string, layers ...string) *manifest.Manifest {
	m := &manifest.Manifest{MediaType: "image", Refs: []manifest.Ref{configRef(config)}}
	for _, l := range layers {
		m.Refs = append(m.Refs, layerRef(l))
	}
	return m
}

func list(children ...string) *manifest.Manifest {
	m := &manifest.Manifest{MediaType: "index"}
	for _, c := range children {
		m.Refs = append(m.Refs, childRef(c))
	}
	return m
}

// link links a manifest by name, all facts given.
func link(t testing.TB, r *Release, repo, name string, facts map[string]*manifest.Manifest) {
	t.Helper()
	all := make(Facts)
	for n, m := range facts {
		all[dg(n)] = m
	}
	ok(t, r.LinkManifest(repo, dg(name), all))
}

var stateNames = map[State]string{Absent: "absent", Linked: "linked", Needed: "needed", Hidden: "hidden"}

func wantLayer(t testing.TB, r *Release, repo, name string, want State) {
	t.Helper()
	l := r.Layer(repo, dg(name))
	if l.State != want || l.Digest != dg(name) {
		t.Errorf("layer %s in %s: %s, want %s", name, repo, stateNames[l.State], stateNames[want])
	}
	listed := slices.ContainsFunc(r.Layers(repo), func(l Link) bool { return l.Digest == dg(name) })
	if listed != want.Listed() {
		t.Errorf("layer %s in %s: %s, and listed: %v", name, repo, stateNames[l.State], listed)
	}
}

func wantBlob(t testing.TB, r *Release, name string, want State) {
	t.Helper()
	b := r.Blob(dg(name))
	if b.State != want {
		t.Errorf("blob %s: %s, want %s", name, stateNames[b.State], stateNames[want])
	}
	hex := dg(name).Encoded()
	listed := slices.ContainsFunc(r.Blobs(digest.SHA256, hex[:2]), func(l Link) bool { return l.Digest == dg(name) })
	if listed != want.Listed() || listed && !slices.Contains(r.BlobPrefixes(digest.SHA256), hex[:2]) {
		t.Errorf("blob %s: %s, and listed: %v among %v", name, stateNames[b.State], listed, r.BlobPrefixes(digest.SHA256))
	}
}

// A view is all that a release answers about some names, one line each.
func view(r *Release, repos, tags []string, digests []digest.Digest) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	linkText := func(l Link) string {
		if l.State == Needed {
			l.Time = r.Created // follows from several links: see TestNeededTime
		}
		return fmt.Sprintf("%.14s %s %d", l.Digest, stateNames[l.State], l.Time.UnixNano())
	}
	links := func(all []Link) string {
		var s []string
		for _, l := range all {
			s = append(s, linkText(l))
		}
		return strings.Join(s, ", ")
	}
	say("repositories %v", r.Repositories())
	say("dirs %q", r.Dirs())
	for _, repo := range append([]string{""}, repos...) {
		say("%s: %v, steps %v, ever %v", repo, r.Repository(repo), r.Steps(repo), r.db.EverRepository(repo))
		say("  layers %s", links(r.Layers(repo)))
		say("  revisions %s", links(r.Revisions(repo)))
		say("  tags %v", r.Tags(repo))
		for _, tag := range tags {
			l, there := r.TagLink(repo, tag)
			say("  tag %s: %v %s, history %s", tag, there, linkText(l), links(r.History(repo, tag)))
		}
		for _, d := range digests {
			rev, linked := r.Revision(repo, d)
			say("  %.14s: layer %s, ever %v, revision %v %s, needs %v, unknown %v", d,
				linkText(r.Layer(repo, d)), r.db.EverLinked(repo, d), linked, linkText(rev), r.Needs(repo, d), r.Unknown(repo, d))
			for _, tag := range tags {
				if h, there := r.HistoryLink(repo, tag, d); there {
					say("    once %s: %s", tag, linkText(h))
				}
			}
		}
	}
	for _, d := range digests {
		say("blob %s, removed %v", linkText(r.Blob(d)), r.BlobRemoved(d))
	}
	for _, prefix := range r.BlobPrefixes(digest.SHA256) {
		say("prefix %s: %s", prefix, links(r.Blobs(digest.SHA256, prefix)))
	}
	return b.String()
}

// diffText names the first line in which two texts differ.
func diffText(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d\n  %s\n  %s", i+1, x[i], y[i])
		}
	}
	if len(x) != len(y) {
		return fmt.Sprintf("%d lines and %d", len(x), len(y))
	}
	return ""
}

func TestReleases(t *testing.T) {
	db := openDB(t, t.TempDir())
	for _, name := range []string{"v2", "v1", "v1.0"} {
		ok(t, db.Create(name))
	}
	if err := db.Create("v1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	if err := db.Create("../x"); !errors.Is(err, ErrName) {
		t.Errorf("created with a bad name: %v", err)
	}
	if _, err := db.Open("v3"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "v3") {
		t.Errorf("opened one that is not there: %v", err)
	}
	all, err := db.Releases()
	ok(t, err)
	var names []string
	for _, r := range all {
		names = append(names, r.Name)
	}
	equal(t, "releases in order of creation", names, []string{"v2", "v1", "v1.0"})
	equal(t, "what an open one says of itself", openRelease(t, db, "v2").Created, all[0].Created)
}

// All who open a release share one, until the last has closed it.
func TestOpenIsShared(t *testing.T) {
	r := newRelease(t)
	again := openRelease(t, r.db, "v1")
	if r != again {
		t.Error("two of one release")
	}
	r.Close()
	ok(t, again.LinkLayer("a", dg("l")))
	if openRelease(t, r.db, "v1") != again {
		t.Error("closed once of twice, it was opened anew")
	}
	again.Close()
	again.Close()
	last := openRelease(t, r.db, "v1")
	if last == again {
		t.Error("closed by all, it was not let go")
	}
	wantLayer(t, last, "a", "l", Linked)
}

// A release that is opened again shows the changes that did not wait for the
// disk and are still on their way.
func TestOpenSeesWhatIsOnItsWay(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkLayer("a", dg("l")))
	for range 50 {
		ok(t, r.HideLayer("a", dg("l")))
		r.Close()
		r = openRelease(t, r.db, "v1")
		wantLayer(t, r, "a", "l", Hidden)
		ok(t, r.LinkLayer("a", dg("l")))
	}
}

func TestCreateRace(t *testing.T) {
	db := openDB(t, t.TempDir())
	made := make(chan error)
	for range 8 {
		go func() { made <- db.Create("v1") }()
	}
	won := 0
	for range 8 {
		if err := <-made; err == nil {
			won++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	equal(t, "creations of one release that succeeded", won, 1)
}

func TestLockedIndex(t *testing.T) {
	r := newRelease(t)
	if db, err := Open(r.db.badger.Opts().Dir, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened twice")
		db.Close()
	}
}
