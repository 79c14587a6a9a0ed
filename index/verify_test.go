package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/regfs/regfs/manifest"
)

// filled makes an index with something of every kind in it, in a table on the
// disk, and returns its directory.
func filled(t testing.TB) string {
	t.Helper()
	r := newRelease(t)
	ok(t, r.db.Create("v2"))
	ok(t, r.db.Follow())
	for i := range 100 {
		name := fmt.Sprint("m", i)
		link(t, r, "team/app", name, map[string]*manifest.Manifest{name: image("c"+name, "l"+name)})
		ok(t, r.AddHistory("team/app", name, dg(name)))
		ok(t, r.Tag("team/app", name, dg(name)))
	}
	ok(t, openRelease(t, r.db, "v2").LinkLayer("other", dg("x")))
	ok(t, r.HideBlob(dg("gone")))
	ok(t, r.AddDir("docker/registry"))
	ok(t, r.db.Verify(t.Context()))
	ok(t, r.db.Close())
	return r.db.badger.Opts().Dir
}

// behind opens an index's database and changes it behind the index's back.
func behind(t testing.TB, dir string, change func(*badger.Txn) error) {
	t.Helper()
	b, err := badger.Open(badgerOptions(dir))
	ok(t, err)
	ok(t, b.Update(change))
	ok(t, b.Close())
}

func damage(t testing.TB, db *DB) []Damage {
	t.Helper()
	var damaged *DamagedError
	if err := db.Verify(t.Context()); !errors.As(err, &damaged) {
		t.Fatalf("Verify gives %v, and should find damage", err)
	}
	return damaged.Damage
}

func mentions(all []Damage, release, text string) bool {
	for _, d := range all {
		if d.Release == release && strings.Contains(d.Problem, text) {
			return true
		}
	}
	return false
}

// Each kind of record is missed when it is gone, and the release that lacks it
// is not opened as if nothing were.
func TestVerifyMissesRecords(t *testing.T) {
	dir := filled(t)
	for _, c := range []struct{ key, release, says string }{
		{"r" + "v1", "v1", "releases"},
		{string(key("v1", keyRevision, "team/app", dg("m7").String())), "v1", "99 manifests where there must be 100"},
		{string(key("v1", keyTag, "team/app", "m7")), "v1", "99 tags where there must be 100"},
		{string(key("v1", keyTagIndex, "team/app", "m7", dg("m7").String())), "v1", "history"},
		{string(key("v1", keyBlob, dg("gone").String())), "v1", "blobs"},
		{string(key("v1", keyDir, "docker/registry")), "v1", "directories"},
		{string(key("v2", keyLayer, "other", dg("x").String())), "v2", "0 layer links where there must be 1"},
		{string(factsKey(dg("m7"))), whole, "99 facts of manifests where there must be 100"},
		{string(everKey("other", dg("x"))), whole, "pairs"},
		{string(journalKey(Pair{"other", dg("x")})), whole, "journal"},
		{string(tallyKey("v2")), "v2", "no count"},
	} {
		t.Run(c.says, func(t *testing.T) {
			dir := copyDir(t, dir)
			behind(t, dir, func(txn *badger.Txn) error {
				if _, err := txn.Get([]byte(c.key)); err != nil {
					return fmt.Errorf("%q: %w", c.key, err)
				}
				return txn.Delete([]byte(c.key))
			})
			db := openDB(t, dir)
			if all := damage(t, db); !mentions(all, c.release, c.says) {
				t.Errorf("found: %v", all)
			}
			if c.release == whole || c.says == "releases" {
				return
			}
			var damaged *DamagedError
			if _, err := db.Open(c.release); !errors.As(err, &damaged) {
				t.Errorf("the release opens: %v", err)
			}
		})
	}
}

// What nobody writes, and what nobody can read, is named.
func TestVerifyReadsRecords(t *testing.T) {
	dir := filled(t)
	for _, c := range []struct{ key, value, release, says string }{
		{"zebra", "", whole, "none of regfs's"},
		{string(tallyKey("v1")), "{", "v1", "no count"},
		{string(key("v1", 'q', "a")), "", "v1", "kind 'q'"},
		{string(key("v1", keyLayer, "a", "sha256:12")), "", "v1", "sha256:12"},
		{string(key("v1", keyLayer, "a", dg("x").String())), "\x03", "v1", "neither linked nor hidden"},
		{string(key("v1", keyTag, "a", "t")), "12345678nonsense", "v1", "record"},
		{string(key("v1", keyRevision, "a", dg("x").String())), "12345678sha256:5,", "v1", "record"},
		{string(key("lost", keyDir, "a")), "12345678", "lost", "a release that there is not"},
		{"xnothing", "", whole, "none of regfs's"},
		{string(factsKey(dg("m7"))), "\x01junk", whole, "facts"},
		{"fnodigest", "{}", whole, "digest"},
		{"enothing", "", whole, "no repository"},
		{"r../up", "{}", "../up", "bad release name"},
	} {
		t.Run(c.key, func(t *testing.T) {
			dir := copyDir(t, dir)
			behind(t, dir, func(txn *badger.Txn) error { return txn.Set([]byte(c.key), []byte(c.value)) })
			if all := damage(t, openDB(t, dir)); !mentions(all, c.release, c.says) {
				t.Errorf("found: %v", all)
			}
		})
	}
}

// A byte that the disk has changed is found wherever it lies, by Open or by
// Verify, and neither panics. Nothing was changed where neither finds it.
func TestVerifyFindsRot(t *testing.T) {
	dir := filled(t)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	ok(t, err)
	if len(tables) == 0 {
		t.Fatal("no table in the index")
	}
	data, err := os.ReadFile(tables[0])
	ok(t, err)
	byOpen, byVerify := 0, 0
	for at := 0; at < len(data); at += len(data)/60 + 1 {
		dir := copyDir(t, dir)
		rotten := append([]byte{}, data...)
		rotten[at] ^= 0x40
		ok(t, os.WriteFile(filepath.Join(dir, filepath.Base(tables[0])), rotten, 0o600))
		db, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			byOpen++
			continue
		}
		if err := db.Verify(t.Context()); err == nil {
			t.Errorf("byte %d of %d: nothing found", at, len(data))
		}
		byVerify++
		db.Close()
	}
	t.Logf("found by Open: %d, by Verify: %d", byOpen, byVerify)
}

// A table that was cut short is an error, not a panic and not a fault.
func TestVerifyFindsTruncation(t *testing.T) {
	dir := filled(t)
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	stat, err := os.Stat(tables[0])
	ok(t, err)
	for _, size := range []int64{0, 1, 4096, stat.Size() / 2, stat.Size() - 1} {
		dir := copyDir(t, dir)
		ok(t, os.Truncate(filepath.Join(dir, filepath.Base(tables[0])), size))
		db, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Logf("%d bytes: %v", size, err)
			continue
		}
		if err := db.Verify(t.Context()); err == nil {
			t.Errorf("%d bytes: nothing found", size)
		}
		db.Close()
	}
}

// While releases change, what Verify reads is of one moment.
func TestVerifyWhileWriting(t *testing.T) {
	r := newRelease(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			name := fmt.Sprint("m", i%50)
			link(t, r, "a", name, map[string]*manifest.Manifest{name: image("c"+name, "l"+name)})
			ok(t, r.HideLayer("a", dg("l"+name)))
			ok(t, r.UnlinkManifest("a", dg(name)))
		}
	}()
	for n := 0; ; n++ {
		ok(t, r.db.Verify(t.Context()))
		select {
		case <-done:
			t.Logf("verified %d times", n)
			ok(t, r.Sync())
			ok(t, r.db.Verify(t.Context()))
			return
		default:
		}
	}
}

// A batch that does not fit into one of Badger's transactions is counted part
// by part, so that a crash between two of them leaves what agrees.
func TestTallyOfLargeBatch(t *testing.T) {
	r := newRelease(t)
	var rs records
	for i := range 50_000 {
		rs = append(rs, put(key("v1", keyDir, fmt.Sprint("directory/", i)), encodeTime(r.Created)))
	}
	ok(t, r.db.writer.write(rs))
	ok(t, r.db.Verify(t.Context()))
	n := 0
	ok(t, rs.parts(func(part records) error {
		if n++; n == 3 { // killed after two more
			return nil
		}
		for i := range part {
			part[i] = del(part[i].key)
		}
		return r.db.writer.writePart(part)
	}))
	ok(t, r.db.Verify(t.Context()))
	equal(t, "directories that are left", len(reopen(t, r).Dirs()), 2000)
}

// An index that is older than the tallies gets them when it is opened.
func TestTallyUpgrade(t *testing.T) {
	dir := filled(t)
	behind(t, dir, func(txn *badger.Txn) error {
		return errors.Join(txn.Delete([]byte{keyStore}), txn.Delete(tallyKey(whole)), txn.Delete(tallyKey("v1")), txn.Delete(tallyKey("v2")))
	})
	db := openDB(t, dir)
	ok(t, db.Verify(t.Context()))
	equal(t, "tags", len(openRelease(t, db, "v1").Tags("team/app")), 100)
}

func TestVerifyStops(t *testing.T) {
	db := openDB(t, filled(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "index")
	ok(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}
