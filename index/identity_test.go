package index

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
)

// A store's index is told from another one, from none, and from a database of
// somebody else's, and nothing is written to what is not the store's.
func TestOpenKnown(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := filled(t)
	db := openDB(t, dir)
	id := db.ID()
	ok(t, db.Close())
	if len(id) < 20 {
		t.Fatalf("the ID is %q", id)
	}
	db, err := OpenKnown(dir, id, log)
	ok(t, err)
	ok(t, db.Verify(t.Context()))
	ok(t, db.Close())

	foreign := t.TempDir()
	b, err := badger.Open(badger.DefaultOptions(foreign).WithLogger(nil))
	ok(t, err)
	ok(t, b.Update(func(txn *badger.Txn) error { return txn.Set([]byte("somebody"), []byte("else")) }))
	ok(t, b.Close())
	listless := copyDir(t, dir)
	ok(t, os.Remove(filepath.Join(listless, "MANIFEST")))
	for says, dir := range map[string]string{
		"it is missing":           t.TempDir(),
		"it is another store's":   filled(t),
		"it is not this store's":  foreign,
		"it is missing ":          listless,
		"file cut short":          truncated(t, dir, "MANIFEST", 24),
		"no more than its header": truncated(t, dir, "MANIFEST", 16),
	} {
		db, err := OpenKnown(dir, id, log)
		if err == nil {
			db.Close()
		}
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !damaged.Closed || !strings.Contains(err.Error(), "--rebuild-index") {
			t.Errorf("%s: %v", says, err)
		}
		if strings.HasPrefix(says, "it is") && !strings.Contains(err.Error(), strings.TrimSpace(says)) {
			t.Errorf("%s: %v", says, err)
		}
	}
	tables, _ := filepath.Glob(filepath.Join(listless, "*.sst"))
	if len(tables) == 0 {
		t.Error("without its list, the tables were deleted")
	}
}

func truncated(t testing.TB, dir, name string, size int64) string {
	t.Helper()
	dir = copyDir(t, dir)
	ok(t, os.Truncate(filepath.Join(dir, name), size))
	return dir
}

func TestCreateIndex(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "index")
	db, err := Create(dir, "an ID", 1000, log)
	ok(t, err)
	equal(t, "ID", db.ID(), "an ID")
	n, err := db.Changes()
	ok(t, err)
	if n < 1000 {
		t.Errorf("%d changes", n)
	}
	ok(t, db.Verify(t.Context()))
	ok(t, db.Close())
	if _, err := Create(dir, "", 0, log); !errors.Is(err, fs.ErrExist) {
		t.Errorf("where one is: %v", err)
	}
	db, err = OpenKnown(dir, "an ID", log)
	ok(t, err)
	ok(t, db.Close())
}
