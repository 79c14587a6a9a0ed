package index

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func markOf(t *testing.T, db *DB, leaveOut ...string) *Mark {
	t.Helper()
	m, err := db.Mark(t.Context(), func(name string) bool { return slices.Contains(leaveOut, name) })
	ok(t, err)
	return m
}

// needed says which of some blobs a mark finds needed.
func (m *Mark) needed(all ...string) (found []string) {
	for _, name := range all {
		if _, needed := m.Needed(dg(name)); needed {
			found = append(found, name)
		}
	}
	return found
}

func noClean() error { return nil }

func TestMark(t *testing.T) {
	db := openDB(t, t.TempDir())
	for _, name := range []string{"v1", "v2"} {
		ok(t, db.Create(name))
	}
	v1, v2 := openRelease(t, db, "v1"), openRelease(t, db, "v2")
	m1, m2 := image("l1", "l2"), image("l2", "l3")
	index := list("m1", "m2", "m3")
	foreign := image("l4")
	foreign.Refs = append(foreign.Refs, optional(layerRef("f")))
	ok(t, v1.LinkManifest("a", dg("i"), Facts{dg("i"): index, dg("m1"): m1, dg("m2"): m2}, dg("m3")))
	ok(t, v2.LinkManifest("b", dg("m2"), Facts{dg("m2"): m2}))
	ok(t, v2.LinkManifest("b", dg("m4"), Facts{dg("m4"): foreign}, dg("f")))
	ok(t, v2.LinkManifest("b", dg("m5"), nil))
	ok(t, v2.AddBlob(dg("u")))
	ok(t, v2.LinkLayer("b", dg("u")))
	ok(t, v2.AddBlob(dg("r")))
	ok(t, v2.LinkLayer("b", dg("r")))
	ok(t, v2.HideBlob(dg("r")))

	all := []string{"i", "m1", "m2", "m3", "m4", "m5", "l1", "l2", "l3", "l4", "f", "u", "r"}
	m := markOf(t, db)
	equal(t, "needed", m.needed(all...), []string{"i", "m1", "m2", "m4", "m5", "l1", "l2", "l3", "l4"})
	only, _ := m.Needed(dg("l1"))
	equal(t, "l1 is needed by", only, "v1")
	only, _ = m.Needed(dg("l2"))
	equal(t, "l2 is needed by", only, "")
	equal(t, "nothing is known of", m.Unknown(), []digest.Digest{dg("m5")})
	_, release, uploaded := m.Uploaded(dg("u"))
	equal(t, "u was uploaded to", release, "v2")
	equal(t, "u was uploaded", uploaded, true)
	_, _, uploaded = m.Uploaded(dg("r"))
	equal(t, "r was uploaded, and not removed since", uploaded, false)
	equal(t, "repositories of u", m.Pairs(dg("u")), []Pair{{"b", dg("u")}})
	equal(t, "v2 needs", len(m.Releases()[1].Blobs), 6)

	equal(t, "needed without v1", markOf(t, db, "v1").needed(all...), []string{"m2", "m4", "m5", "l2", "l3", "l4"})
	equal(t, "needed without both", markOf(t, db, "v1", "v2").needed(all...), nil)
}

// A record of a release that there is not says that the index has lost one.
func TestMarkRefusesStrayRecords(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkManifest("a", dg("m"), Facts{dg("m"): image("l")}))
	ok(t, r.db.writer.wait(r.db.writer.enqueue(records{del(releaseKey("v1"))})))
	if _, err := r.db.Mark(t.Context(), func(string) bool { return false }); err == nil {
		t.Error("marked though a release's own record is missing")
	}
}

func TestMarkEndsWithItsContext(t *testing.T) {
	r := newRelease(t)
	for range 2000 {
		ok(t, r.AddBlob(dg(time.Now().String())))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.db.Mark(ctx, func(string) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// keys lists all records of the index but the counts.
func (db *DB) keys(t *testing.T) (all []string) {
	t.Helper()
	ok(t, db.writer.settle())
	ok(t, db.scan(nil, func(key, _ []byte) error {
		if key[0] != keyTally {
			all = append(all, string(key))
		}
		return nil
	}))
	return all
}

// TestRemoveBlobs: nothing names the blobs any more, in open releases and in
// others, on the disk and in memory; what others have stays.
func TestRemoveBlobs(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	ok(t, db.Follow())
	for _, name := range []string{"v1", "v2"} {
		ok(t, db.Create(name))
	}
	v1, v2 := openRelease(t, db, "v1"), openRelease(t, db, "v2")
	ok(t, v1.LinkManifest("a", dg("m"), Facts{dg("m"): image("l")}))
	before := db.keys(t)
	for _, r := range []*Release{v1, v2} {
		ok(t, r.AddBlob(dg("gone")))
		ok(t, r.LinkLayer("a", dg("gone")))
		ok(t, r.LinkLayer("b", dg("gone")))
		ok(t, r.LinkManifest("a", dg("goes"), Facts{dg("goes"): image("gone")}))
		ok(t, r.UnlinkManifest("a", dg("goes")))
		ok(t, r.AddBlob(dg("goes")))
	}
	ok(t, v2.Sync())
	v2.Close() // the one is open, the other is not
	equal(t, "it is a manifest", db.KnowsManifest(dg("goes")), true)

	ok(t, db.RemoveBlobs(markOf(t, db), []digest.Digest{dg("gone"), dg("goes")}))
	equal(t, "records", db.keys(t), before)
	equal(t, "it is a manifest", db.KnowsManifest(dg("goes")), false)
	equal(t, "the blob in memory", v1.Blob(dg("gone")).State, Absent)
	equal(t, "the link in memory", v1.Layer("a", dg("gone")).State, Absent)
	equal(t, "the other link in memory", v1.Layer("b", dg("gone")).State, Absent)
	equal(t, "the layer that stays", v1.Layer("a", dg("l")).State, Needed)
	ok(t, db.Verify(t.Context()))
	ok(t, db.Close())
	db = openDB(t, dir)
	equal(t, "the blob, opened again", openRelease(t, db, "v2").Blob(dg("gone")).State, Absent)
}

// What a release has hidden it goes on to hide, when the blob comes again.
func TestRemoveBlobsKeepsHidden(t *testing.T) {
	r := newRelease(t)
	ok(t, r.AddBlob(dg("b")))
	ok(t, r.HideBlob(dg("b")))
	ok(t, r.HideLayer("a", dg("b")))
	ok(t, r.db.RemoveBlobs(markOf(t, r.db), []digest.Digest{dg("b")}))
	equal(t, "the blob", r.Blob(dg("b")).State, Hidden)
	equal(t, "the link", r.Layer("a", dg("b")).State, Hidden)
}

// The memory of an open release is asked once more.
func TestRemoveBlobsRefusesWhatIsNeeded(t *testing.T) {
	r := newRelease(t)
	m := markOf(t, r.db)
	ok(t, r.LinkManifest("a", dg("m"), Facts{dg("m"): image("l")}))
	var inUse *InUseError
	if err := r.db.RemoveBlobs(m, []digest.Digest{dg("l")}); !errors.As(err, &inUse) || inUse.Blob != dg("l") {
		t.Errorf("got %v", err)
	}
}

func TestRemoveRelease(t *testing.T) {
	db := openDB(t, t.TempDir())
	ok(t, db.Create("v1"))
	before := db.keys(t)
	ok(t, db.Create("v1.0"))
	r := openRelease(t, db, "v1.0")
	for i := range 3 * removedAtOnce / 2 {
		ok(t, r.AddDir(time.Unix(int64(i), 0).String()))
	}
	ok(t, r.Sync())
	if err := db.RemoveRelease(t.Context(), "v1.0", noClean); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("an open release: %v", err)
	}
	r.Close()

	// Interrupted after a part, it is half removed, and there no more.
	ctx, cancel := context.WithCancel(t.Context())
	if err := db.RemoveRelease(ctx, "v1.0", func() error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := db.Open("v1.0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened when half removed: %v", err)
	}
	if err := db.Create("v1.0"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made when half removed: %v", err)
	}
	all, err := db.Releases()
	ok(t, err)
	equal(t, "releases", len(all), 1)
	half, err := db.Removing()
	ok(t, err)
	equal(t, "half removed", len(half), 1)
	equal(t, "a mark goes by", len(markOf(t, db).Releases()), 1)

	ok(t, db.RemoveRelease(t.Context(), "v1.0", noClean))
	equal(t, "records", db.keys(t), before)
	ok(t, db.Verify(t.Context()))
	if err := db.RemoveRelease(t.Context(), "v1.0", noClean); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed again: %v", err)
	}
	ok(t, db.Create("v1.0"))
	equal(t, "made anew", len(openRelease(t, db, "v1.0").Dirs()), 0)
}

// A sealed release needs its document, and says so of one that is about to go.
func TestMarkKeepsDocuments(t *testing.T) {
	db := openDB(t, t.TempDir())
	ok(t, db.Create("v1"))
	r := openRelease(t, db, "v1")
	ok(t, r.LinkManifest("a", dg("m"), Facts{dg("m"): image("l")}))
	before := markOf(t, db)
	_, err := r.Seal(func() (digest.Digest, error) { return dg("document"), nil })
	ok(t, err)
	m := markOf(t, db)
	equal(t, "needed", m.needed("m", "l", "document", "other"), []string{"m", "l", "document"})
	equal(t, "without the release", len(markOf(t, db, "v1").needed("m", "document")), 0)
	equal(t, "manifests of which nothing is known", len(m.Unknown()), 0)
	var inUse *InUseError
	if err := db.RemoveBlobs(before, []digest.Digest{dg("document")}); !errors.As(err, &inUse) {
		t.Errorf("remove the document: %v", err)
	}
}
