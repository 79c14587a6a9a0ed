package index

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// dump is all records of a release, but its own.
func dump(t *testing.T, db *DB, name string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	prefix := releasePrefix(name)
	ok(t, db.scan(prefix, func(key, value []byte) error {
		all[string(key[len(prefix):])] = string(value)
		return nil
	}))
	return all
}

// everything returns a release with all that a release can say.
func everything(t *testing.T) *Release {
	t.Helper()
	r := newRelease(t)
	for i := range 30 {
		ok(t, r.Enter([]*Entry{entry(t, fmt.Sprint("image", i), dg("foreign"))}))
	}
	ok(t, r.HideLayer("team/image1", dg("layer of image1")))
	ok(t, r.HideBlob(dg("gone")))
	ok(t, r.AddDir("docker"))
	ok(t, r.AddHistory("team/image2", "1.0", dg("before")))
	ok(t, r.Sync())
	return r
}

func TestForkIsTheSame(t *testing.T) {
	r := everything(t)
	db := r.db
	ok(t, r.AddBlob(dg("uploaded, and needed by nothing")))
	_, err := r.Seal(func() (digest.Digest, error) { return dg("document"), nil })
	ok(t, err)
	ok(t, r.Fork("v2"))
	was, is := dump(t, db, "v1"), dump(t, db, "v2")
	delete(was, string(keyBlob)+dg("uploaded, and needed by nothing").String())
	equal(t, "records", is, was)
	fork := openRelease(t, db, "v2")
	equal(t, "sealed", fork.Sealed(), "")
	equal(t, "names", fork.Names(), r.Names())
	ok(t, fork.Tag("team/image1", "2.0", dg("image1")))
	equal(t, "the old one", dump(t, db, "v1")[string(keyTag)+"team/image1\x002.0"], "")
	for _, name := range []string{"v1", "v2"} {
		if err := r.Fork(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("fork to %s: %v", name, err)
		}
	}
	for _, name := range []string{"", "../v3", "a b", "a\x00b"} {
		if err := r.Fork(name); !errors.Is(err, ErrName) {
			t.Errorf("fork to %q: %v", name, err)
		}
	}
	ok(t, db.Verify(t.Context()))
}

// cut makes the writer fail for good after so many records, as a process that
// is killed there.
func cut(db *DB, left int) {
	write := db.writer.commit
	db.writer.commit = func(rs records) error {
		n := min(left, len(rs))
		for n > 0 && n < len(rs) && rs[n].joined {
			n--
		}
		left -= n
		if err := write(rs[:n]); err != nil || n == len(rs) {
			return err
		}
		left = 0
		return errors.New("killed by a test")
	}
}

// A fork that was killed at any point is there whole, or not at all.
func TestForkKilled(t *testing.T) {
	for _, left := range []int{0, 1, 2, 60, 125} {
		r := everything(t)
		db, dir := r.db, r.db.badger.Opts().Dir
		whole := len(dump(t, db, "v1"))
		cut(db, left)
		err := r.Fork("v2")
		r.Close()
		ok(t, db.Close())
		db = openDB(t, dir)
		_, openErr := db.Open("v2")
		if killed := err != nil; killed != errors.Is(openErr, fs.ErrNotExist) {
			t.Errorf("%d records: %v, and then %v", left, err, openErr)
		}
		ok(t, db.Verify(t.Context()))
		if err == nil {
			t.Fatalf("%d records of %d are enough", left, whole)
		}
		r = openRelease(t, db, "v1")
		ok(t, r.Fork("v2")) // over what is left
		equal(t, "records", len(dump(t, db, "v2")), whole)
		ok(t, db.Verify(t.Context()))
		r.Close()
		ok(t, db.Tidy(func(string, string) error { t.Error("moved"); return nil }))
		equal(t, "records, tidied", len(dump(t, db, "v2")), whole)
	}
}

func TestRename(t *testing.T) {
	r := everything(t)
	db := r.db
	_, err := r.Seal(func() (digest.Digest, error) { return dg("document"), nil })
	ok(t, err)
	ok(t, db.Create("other"))
	was := dump(t, db, "v1")
	stay := func(string, string) error { return nil }
	if err := db.Rename("v1", "v2", stay); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("of an open one: %v", err)
	}
	r.Close()
	if err := db.Rename("v1", "other", stay); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to one that is there: %v", err)
	}
	if err := db.Rename("v1", "v1", stay); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to itself: %v", err)
	}
	if err := db.Rename("none", "v2", stay); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
	if err := db.Rename("v1", "../v2", stay); !errors.Is(err, ErrName) {
		t.Errorf("to no name: %v", err)
	}
	moved := ""
	ok(t, db.Rename("v1", "v2", func(old, name string) error { moved = old + " " + name; return nil }))
	equal(t, "moved", moved, "v1 v2")
	equal(t, "records", dump(t, db, "v2"), was)
	equal(t, "old records", len(dump(t, db, "v1")), 0)
	all, err := db.Releases()
	ok(t, err)
	names := []string{all[0].Name, all[1].Name}
	equal(t, "releases", names, []string{"v2", "other"})
	equal(t, "sealed", all[0].Document, dg("document"))
	equal(t, "created", all[0].Created.Equal(r.Created), true)
	if _, err := db.Open("v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open the old one: %v", err)
	}
	ok(t, db.Create("v1"))
	ok(t, db.Verify(t.Context()))
}

// A rename that was killed at any point leaves one release, under one of the
// names; and after the next start nothing of the other.
func TestRenameKilled(t *testing.T) {
	outcomes := make(map[string]int)
	for left := 0; ; left += 40 {
		r := everything(t)
		db, dir := r.db, r.db.badger.Opts().Dir
		was := dump(t, db, "v1")
		r.Close()
		cut(db, left)
		moved := false
		move := func(string, string) error { moved = true; return nil }
		err := db.Rename("v1", "v2", move)
		ok(t, db.Close())
		db = openDB(t, dir)
		ok(t, db.Tidy(move))
		all, listErr := db.Releases()
		ok(t, listErr)
		if len(all) != 1 {
			t.Fatalf("%d records: %v", left, all)
		}
		name := all[0].Name
		if moved != (name == "v2") {
			t.Errorf("%d records: it is %s, and moved is %v", left, name, moved)
		}
		if is := dump(t, db, name); !maps.Equal(is, was) {
			t.Errorf("%d records: %d records and not %d", left, len(is), len(was))
		}
		for _, other := range []string{"v1", "v2"} {
			if left := len(dump(t, db, other)); other != name && left > 0 {
				t.Errorf("%d records: %d are left of %s", left, left, other)
			}
		}
		outcomes[name]++
		ok(t, db.Verify(t.Context()))
		if err == nil {
			break
		}
	}
	if len(outcomes) != 2 || outcomes["v2"] < 2 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// Where the files of a release cannot be moved, it says so, and they are moved
// at the next start.
func TestRenameCannotMove(t *testing.T) {
	r := everything(t)
	db := r.db
	r.Close()
	fault := errors.New("fault put there by a test")
	if err := db.Rename("v1", "v2", func(string, string) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("rename: %v", err)
	}
	for what, err := range map[string]error{"create": db.Create("v1"), "fork": openRelease(t, db, "v2").Fork("v1")} {
		if !errors.Is(err, syscall.EBUSY) {
			t.Errorf("%s under the old name: %v", what, err)
		}
	}
	ok(t, db.Tidy(func(string, string) error { return nil }))
	ok(t, db.Create("v1"))
	ok(t, db.Verify(t.Context()))
}

func TestDropTag(t *testing.T) {
	r := newRelease(t)
	e := NewEntry("team")
	ok(t, e.Manifest(dg("amd"), Facts{dg("amd"): image("amd")}))
	ok(t, e.Manifest(dg("arm"), Facts{dg("arm"): image("arm")}))
	ok(t, e.Manifest(dg("list"), Facts{dg("list"): list("amd", "arm")}))
	e.Tag(TagLink{"1", dg("list")})
	e.Tag(TagLink{"2", dg("list")})
	e.Tag(TagLink{"amd", dg("amd")})
	e.History(TagLink{"1", dg("arm")})
	ok(t, r.Enter([]*Entry{e}))
	d, there, err := r.DropTag("team", "1", true)
	ok(t, err)
	equal(t, "it pointed at", d, dg("list"))
	equal(t, "tags", r.Tags("team"), []string{"2", "amd"})
	equal(t, "manifests, one of them tagged twice", len(r.Revisions("team")), 3)
	_, _, err = r.DropTag("team", "2", true)
	ok(t, err)
	r = reopen(t, r)
	equal(t, "tags", r.Tags("team"), []string{"amd"})
	left := r.Revisions("team")
	if len(left) != 1 || left[0].Digest != dg("amd") {
		t.Errorf("manifests: %v", left)
	}
	equal(t, "a layer of what went", r.Blob(dg("layer of arm")).State.Listed() && !slices.Contains(r.Repositories(), "team"), false)
	_, there, err = r.DropTag("team", "2", false)
	ok(t, err)
	equal(t, "again", there, false)
	ok(t, r.db.Verify(t.Context()))
}
