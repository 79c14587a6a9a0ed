package index

import (
	"errors"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
)

func TestAPartOfAReleaseSaysWhatTheWholeSays(t *testing.T) {
	r := newRelease(t)
	ok(t, r.Enter([]*Entry{entry(t, "a", dg("foreign")), entry(t, "ab"), entry(t, "b")}))
	ok(t, r.HideLayer("team/a", dg("layer of a"))) // it does not wait for the disk
	part, err := r.db.OpenPart("v1", []string{"team/a", "none"})
	ok(t, err)
	defer part.Close()
	equal(t, "repositories", part.Repositories(), []string{"team/a"})
	equal(t, "tags", part.Tags("team/a"), r.Tags("team/a"))
	equal(t, "needs", part.Needs("team/a", dg("a")), r.Needs("team/a", dg("a")))
	equal(t, "layer links", len(part.Layers("team/a")), len(r.Layers("team/a")))
	if err := part.LinkLayer("team/a", dg("x")); !errors.Is(err, errPart) {
		t.Errorf("a change: %v", err)
	}
	if again := openRelease(t, r.db, "v1"); again != r {
		t.Error("the release is another one now")
	}
	if _, err := r.db.OpenPart("v2", nil); err == nil {
		t.Error("a part of a release that there is not")
	}
}

// A record that is lost is noticed, though it is in no repository that is read.
func TestAPartOfAReleaseIsCounted(t *testing.T) {
	r := newRelease(t)
	ok(t, r.Enter([]*Entry{entry(t, "a"), entry(t, "b")}))
	ok(t, r.db.badger.Update(func(txn *badger.Txn) error { return txn.Delete(key("v1", keyTag, "team/b", "1.0")) }))
	if _, err := r.db.OpenPart("v1", []string{"team/a"}); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}
