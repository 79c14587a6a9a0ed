package index

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

func TestShelfIsBounded(t *testing.T) {
	var s shelf
	m := &manifest.Manifest{Refs: make([]manifest.Ref, 99)}
	for i := range 1000 {
		s.put(dg(fmt.Sprint(i)), m)
		if len(s.all)*100 > maxShelf || s.refs != 100*len(s.all) {
			t.Fatalf("%d references, and %d manifests", s.refs, len(s.all))
		}
	}
	s.put(dg("huge"), &manifest.Manifest{Refs: make([]manifest.Ref, maxShelf)})
	if _, ok := s.take(dg("huge")); ok {
		t.Error("it has what does not fit")
	}
	s.put(dg("small"), m)
	if _, ok := s.take(dg("small")); !ok {
		t.Error("it takes nothing any more")
	}
}

// What is removed from the index is not on the shelf.
func TestShelfForgetsWhatIsRemoved(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	ok(t, db.Create("v1"))
	r := openRelease(t, db, "v1")
	ok(t, r.LinkManifest("a", dg("m"), Facts{dg("m"): image("l")}))
	ok(t, r.UnlinkManifest("a", dg("m")))
	ok(t, r.Sync())
	ok(t, db.Close())
	db = openDB(t, dir)
	if _, err := db.Manifest(dg("m")); err != nil || len(db.shelf.all) != 1 {
		t.Fatalf("%v, and %d on the shelf", err, len(db.shelf.all))
	}
	ok(t, db.RemoveBlobs(markOf(t, db), []digest.Digest{dg("m")}))
	if _, err := db.Manifest(dg("m")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
