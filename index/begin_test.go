package index

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// many are more images than fit into one transaction.
func many(t *testing.T, from int) (all []*Entry) {
	t.Helper()
	for i := range 1000 {
		all = append(all, entry(t, fmt.Sprint("image", from+i)))
	}
	return all
}

// A release of which only a part was written, and one that could not be written
// at all, is not there. Nothing of it is in the one that is made in its place.
func TestAReleaseThatWasNotMadeToTheEndIsNotThere(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	ok(t, db.Create("v1"))
	write := db.writer.commit
	for _, written := range []int{0, 1, 2000} {
		db.writer.commit = func(rs records) error {
			if len(rs) < 4000 {
				t.Errorf("%d records are too few for a test of parts", len(rs))
			}
			return errors.Join(write(rs[:written]), syscall.ENOSPC)
		}
		r, err := db.Begin("v2")
		ok(t, err)
		if err := r.Enter(many(t, written)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Enter: %v", err)
		}
		r.Close()
		db.writer.commit = write
		if _, err := db.Open("v2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opened: %v", err)
		}
		all, err := db.Releases()
		ok(t, err)
		equal(t, "releases", len(all), 1)
		ok(t, db.Verify(t.Context()))
		equal(t, "releases that are marked", len(markOf(t, db).Releases()), 1)
		half, err := db.Removing()
		ok(t, err)
		equal(t, "releases that are being removed", len(half), 0)
	}
	ok(t, db.Close()) // killed and opened again, as it were
	db = openDB(t, dir)
	r, err := db.Begin("v2")
	ok(t, err)
	ok(t, r.Enter([]*Entry{entry(t, "other")}))
	r.Close()
	equal(t, "repositories", openRelease(t, db, "v2").Repositories(), []string{"team/other"})
	ok(t, db.Verify(t.Context()))
}

// Whoever has a release open that was begun elsewhere has one of its own.
func TestABegunReleaseIsOpenedByItsName(t *testing.T) {
	db := openDB(t, t.TempDir())
	begun, err := db.Begin("v1")
	ok(t, err)
	ok(t, begun.Enter(many(t, 0)))
	first := openRelease(t, db, "v1")
	begun.Close()
	if second := openRelease(t, db, "v1"); first != second {
		t.Error("two releases in memory for one on the disk")
	}
	equal(t, "repositories", len(first.Repositories()), 1000)
	if err := begun.Enter(nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	ok(t, first.LinkLayer("team/image1", dg("x")))
}

func TestGlance(t *testing.T) {
	r := newRelease(t)
	ok(t, r.Enter([]*Entry{entry(t, "a")}))
	ok(t, r.AddHistory("team/a", "2.0", dg("a")))
	ok(t, r.db.Glance(func(g Glance) error {
		for tag, want := range map[string]string{"1.0": dg("a").String(), "2.0": "", "1": ""} {
			d, err := g.Tag("v1", "team/a", tag)
			ok(t, err)
			equal(t, tag, d.String(), want)
		}
		for repo, want := range map[string]bool{"team/a": true, "team": false, "team/a\x00" + dg("a").String(): false} {
			linked, err := g.Linked("v1", repo, dg("a"))
			ok(t, err)
			equal(t, repo, linked, want)
		}
		return nil
	}))
}

// What is left of one that was not made to the end can be removed, too.
func TestRemoveReleaseThatWasNotMade(t *testing.T) {
	db := openDB(t, t.TempDir())
	write := db.writer.commit
	db.writer.commit = func(rs records) error { return errors.Join(write(rs[:100]), syscall.ENOSPC) }
	r, err := db.Begin("v1")
	ok(t, err)
	if err := r.Enter(many(t, 0)); err == nil {
		t.Error("made")
	}
	db.writer.commit = write
	ok(t, db.RemoveRelease(t.Context(), "v1", noClean))
	for _, key := range db.keys(t) {
		if key[0] == keyRelease || key[0] == keyIn {
			t.Errorf("left is %q", key)
		}
	}
	ok(t, db.Verify(t.Context()))
}
