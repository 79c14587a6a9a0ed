package index

import (
	"os"
	"path/filepath"
	"testing"
)

// A process that is killed just as Badger begins a file leaves it empty.
func TestOpenAfterKillAtTheBeginningOfAFile(t *testing.T) {
	for _, name := range []string{"000050.vlog", "00050.mem"} {
		dir := t.TempDir()
		db := openDB(t, dir)
		ok(t, db.Create("v1"))
		ok(t, db.Close())
		ok(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		db = openDB(t, dir)
		all, err := db.Releases()
		ok(t, err)
		equal(t, "releases", len(all), 1)
		ok(t, db.Verify(t.Context()))
	}
}
