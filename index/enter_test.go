package index

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// entry is an image of one layer with a tag, and what it does without.
func entry(t *testing.T, name string, absent ...digest.Digest) *Entry {
	t.Helper()
	e := NewEntry("team/" + name)
	refs := []manifest.Ref{configRef("config of " + name), layerRef("layer of " + name)}
	for _, d := range absent {
		refs = append(refs, manifest.Ref{Digest: d, Role: manifest.Layer, Optional: true})
	}
	ok(t, e.Manifest(dg(name), Facts{dg(name): {MediaType: "m", Refs: refs}}, absent...))
	e.Tag(TagLink{"1.0", dg(name)})
	return e
}

// Enter does what the pushes of the same images do, with one sync.
func TestEnterIsManyPushes(t *testing.T) {
	r := newRelease(t)
	commits := counted(r.db)
	ok(t, r.Enter([]*Entry{entry(t, "a"), entry(t, "b", dg("foreign"))}))
	equal(t, "commits", commits.Load(), 1)
	r = reopen(t, r)
	equal(t, "repositories", r.Repositories(), []string{"team/a", "team/b"})
	for _, name := range []string{"a", "b"} {
		repo := "team/" + name
		link, _ := r.TagLink(repo, "1.0")
		equal(t, "tag of "+name, link.Digest, dg(name))
		equal(t, "history of "+name, len(r.History(repo, "1.0")), 1)
		equal(t, "layer links of "+name, len(r.Layers(repo)), 2)
		equal(t, "manifest of "+name, r.Blob(dg(name)).State, Needed)
	}
	if !r.Awaits(dg("foreign")) {
		t.Error("what an image did without is not awaited")
	}
	equal(t, "foreign layer", r.Blob(dg("foreign")).State, Absent)
}

// What was removed comes back with the image that needs it, as by a push.
func TestEnterBringsBackWhatWasRemoved(t *testing.T) {
	r := newRelease(t)
	layer := dg("layer of a")
	ok(t, r.HideBlob(layer))
	ok(t, r.HideLayer("team/a", layer))
	ok(t, r.Enter([]*Entry{entry(t, "a")}))
	ok(t, r.UnlinkManifest("team/a", dg("a")))
	equal(t, "blob", r.Blob(layer).State, Linked)
	r = reopen(t, r)
	equal(t, "blob, read again", r.Blob(layer).State, Linked)
	equal(t, "link", r.Layer("team/a", layer).State, Absent)
}

// Images that cannot be written are not there.
func TestEnterFailsWhole(t *testing.T) {
	r := newRelease(t)
	write := r.db.writer.commit
	fault := errors.New("fault put there by a test")
	r.db.writer.commit = func(records) error { return fault }
	if err := r.Enter([]*Entry{entry(t, "a"), entry(t, "b")}); !errors.Is(err, fault) {
		t.Errorf("Enter: %v", err)
	}
	r.db.writer.commit = write
	equal(t, "repositories", len(r.Repositories()), 0)
	ok(t, r.Enter([]*Entry{entry(t, "a")}))
	equal(t, "repositories", r.Repositories(), []string{"team/a"})
}
