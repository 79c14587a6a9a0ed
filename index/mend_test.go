package index

import (
	"errors"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
)

// What nobody can read is dropped and handed back, what follows from the rest
// is derived, and all is counted anew.
func TestMend(t *testing.T) {
	dir := filled(t)
	unreadable := []string{
		"zebra", string(key("v1", 'q', "a")), string(key("v1", keyLayer, "a", dg("x").String())), string(factsKey(dg("m7"))),
	}
	behind(t, dir, func(txn *badger.Txn) error {
		for _, k := range unreadable {
			if err := txn.Set([]byte(k), []byte("junk")); err != nil {
				return err
			}
		}
		return errors.Join(
			txn.Delete(everKey("other", dg("x"))),
			txn.Delete(key("v1", keyTag, "team/app", "m8")),
			txn.Delete(releaseKey("v2")))
	})
	db := openDB(t, dir)
	damage(t, db)
	m, err := db.Mend(t.Context())
	ok(t, err)
	var dropped []string
	for _, r := range m.Dropped {
		dropped = append(dropped, string(r.Key))
		equal(t, "value", string(r.Value), "junk")
	}
	sameSet(t, dropped, unreadable)
	equal(t, "revived", m.Revived, []string{"v2"})
	equal(t, "derived", m.Derived, 1)
	ok(t, db.Verify(t.Context()))
	equal(t, "tags", len(openRelease(t, db, "v1").Tags("team/app")), 100) // of m8 the history is left
	equal(t, "links", len(openRelease(t, db, "v2").Layers("other")), 1)
	equal(t, "ever linked", db.EverLinked("other", dg("x")), true)
	again, err := db.Mend(t.Context())
	ok(t, err)
	equal(t, "the second time", len(again.Dropped)+len(again.Revived)+again.Derived, 0)
}

func sameSet(t *testing.T, got, want []string) {
	t.Helper()
	missing := make(map[string]bool)
	for _, s := range want {
		missing[s] = true
	}
	for _, s := range got {
		if !missing[s] {
			t.Errorf("%q, and should not", s)
		}
		delete(missing, s)
	}
	for s := range missing {
		t.Errorf("no %q", s)
	}
}
