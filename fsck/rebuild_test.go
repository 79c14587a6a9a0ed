package fsck

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

var quiet = slog.New(slog.DiscardHandler)

// shipped fills a store with two releases in which there is everything that an
// export shows: foreign layers and platforms that one release does without and
// the other has, tags that have moved, links that were removed.
func shipped(t *testing.T) *fixture {
	t.Helper()
	f := setup(t)
	f.must(f.Index.Create("v2"))
	foreign := describe("a foreign layer")
	foreign.MediaType = v1.MediaTypeImageLayerNonDistributable //nolint:staticcheck // it is what old images have
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: f.put("config"),
		Layers: []v1.Descriptor{foreign, f.put("layer")}}
	f.pushManifest("v1", "windows", "1", m)
	f.put("a foreign layer") // comes after v1 has done without it
	f.pushManifest("v2", "windows", "1", m)

	there := f.push("v1", "multi", "", "amd64")
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: there, Size: f.size(there)},
		{MediaType: v1.MediaTypeImageManifest, Digest: describe("left out").Digest, Size: 8},
	}}
	f.pushManifest("v1", "multi", "1", list)
	f.push("v1", "app", "latest", "base", "one")
	f.push("v1", "app", "latest", "base", "two") // the tag moves
	f.push("v1", "app", "also", "base", "two")
	f.push("v2", "app", "removed", "base", "three")
	f.must(f.in("v2").Release.HideLayer("app", describe("three").Digest))
	for _, release := range []string{"v1", "v2"} {
		f.must(snapshot.Save(f.Store, release))
	}
	return f
}

// copyStore copies a directory as a person does.
func copyStore(from, to string) error {
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}

// sums are what the exports of all releases are.
func (f *fixture) sums() map[string]string {
	f.Helper()
	all := make(map[string]string)
	releases, err := f.Index.Releases()
	f.must(err)
	for _, info := range releases {
		r, err := f.Index.Open(info.Name)
		f.must(err)
		sum := sha256.New()
		f.must(export.Take(r, f.Blobs).WriteTar(f.Context(), sum, f.Blobs, archive.Options{Verify: true}))
		r.Close()
		all[info.Name] = fmt.Sprintf("%x", sum.Sum(nil))
	}
	return all
}

// Whatever happens to the index, it is said, and an export afterwards has the
// same bytes as before.
func TestRebuildIndex(t *testing.T) {
	f := shipped(t)
	f.clean()
	before := f.sums()
	whole := f.shut()
	for _, c := range []struct {
		name   string
		damage func(f *fixture, index string)
		silent bool // Badger finds nothing wrong with it, nor is there
	}{
		{name: "it is removed", damage: func(f *fixture, index string) { f.must(os.RemoveAll(index)) }},
		{name: "it is empty", damage: func(f *fixture, index string) { f.must(os.RemoveAll(index)); f.must(os.Mkdir(index, 0o700)) }},
		{name: "bytes are flipped", damage: func(f *fixture, index string) { f.flip(f.table(index)) }},
		{name: "a table is cut short", damage: func(f *fixture, index string) { f.must(os.Truncate(f.table(index), 100)) }},
		{name: "a table is gone", damage: func(f *fixture, index string) { f.must(os.Remove(f.table(index))) }},
		{name: "the value log is cut short", silent: true, damage: func(f *fixture, index string) {
			logs, _ := filepath.Glob(filepath.Join(index, "*.vlog"))
			f.must(os.Truncate(logs[0], 1))
		}},
		{name: "MANIFEST is cut short", damage: func(f *fixture, index string) { f.must(os.Truncate(filepath.Join(index, "MANIFEST"), 20)) }},
		{name: "MANIFEST is gone", damage: func(f *fixture, index string) { f.must(os.Remove(filepath.Join(index, "MANIFEST"))) }},
		{name: "MANIFEST is garbled", damage: func(f *fixture, index string) { f.flip(filepath.Join(index, "MANIFEST")) }},
		{name: "somebody else's database", damage: func(f *fixture, index string) {
			f.must(os.RemoveAll(index))
			b, err := badger.Open(badger.DefaultOptions(index).WithLogger(nil))
			f.must(err)
			f.must(b.Update(func(txn *badger.Txn) error { return txn.Set([]byte("some"), []byte("thing")) }))
			f.must(b.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fixture{T: t}
			dir := filepath.Join(t.TempDir(), "store")
			f.must(copyStore(whole, dir))
			c.damage(f, filepath.Join(dir, "index"))
			f.damagedIndex(dir, c.silent)
			rebuilt, err := Rebuild(t.Context(), dir, quiet)
			f.must(err)
			f.must(rebuilt.Err())
			if len(rebuilt.Releases) != 2 || rebuilt.Unnamed != 0 || len(rebuilt.Report.Findings) > 0 {
				t.Errorf("rebuilt: %+v %+v", rebuilt, rebuilt.Report)
			}
			if _, err := os.Stat(filepath.Join(dir, rebuilt.Aside)); err != nil || rebuilt.Aside == "" && c.name != "it is removed" {
				t.Errorf("the old index: %q, %v", rebuilt.Aside, err)
			}
			f.open(dir)
			defer f.shut()
			if after := f.sums(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("exports differ: %v, before %v", after, before)
			}
			f.clean()
		})
	}
}

func (f *fixture) table(index string) string {
	f.Helper()
	tables, _ := filepath.Glob(filepath.Join(index, "*.sst"))
	if len(tables) == 0 {
		f.Fatal("the index has no table")
	}
	return tables[0]
}

// damagedIndex expects the damage to be seen: by who opens the store, or by a
// check.
func (f *fixture) damagedIndex(dir string, silent bool) {
	f.Helper()
	st, err := store.Open(dir, quiet)
	if err == nil {
		defer st.Close()
		r, err := Check(f.Context(), st)
		f.must(err)
		if r.Err() == nil && !silent {
			f.Errorf("nobody sees it: %+v", r)
		}
		return
	}
	if !errors.Is(err, index.ErrDamaged) || !strings.Contains(err.Error(), "--rebuild-index") {
		f.Errorf("the store says: %v", err)
	}
}

// A copy of a store's files while it is pushed to opens, or says that it does
// not, and what it lacks is seen.
func TestLiveCopy(t *testing.T) {
	f := setup(t)
	f.must(snapshot.Save(f.Store, "v1"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 60 {
			f.push("v1", "app", fmt.Sprint(i%25), fmt.Sprint("layer ", i))
			if i%20 == 0 {
				f.must(snapshot.Save(f.Store, "v1"))
			}
		}
	}()
	for n, running := 0, true; running; n++ {
		dir := filepath.Join(t.TempDir(), fmt.Sprint("copy", n))
		err := copyStore(f.Dir, dir)
		select {
		case <-done:
			running = false
		default:
		}
		if err != nil {
			continue // a file has gone meanwhile, and cp says so
		}
		seen := "clean"
		st, err := store.Open(dir, quiet)
		if err == nil {
			r, err := Check(t.Context(), st)
			f.must(err)
			seen = fmt.Sprint(r.Verdict(), r.Findings)
			f.must(st.Close())
		} else if seen = err.Error(); !errors.Is(err, index.ErrDamaged) {
			t.Errorf("the copy says: %v", err)
		}
		rebuilt, err := Rebuild(t.Context(), dir, quiet)
		f.must(err)
		t.Logf("copy %d: %.300s; rebuilt: %d names, %d unnamed", n, seen, rebuilt.Releases[0].Images, rebuilt.Unnamed)
	}
}

// What nobody has written down comes into a release of its own; what was lost
// of the store is named; and a release that was never written down is there.
func TestRebuildWithoutSnapshot(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "one")
	f.must(snapshot.Save(f.Store, "v1"))
	gone := f.push("v1", "app", "2", "two")
	f.must(snapshot.Save(f.Store, "v1"))
	f.must(os.Remove(f.blob(gone)))
	since := f.push("v1", "app", "since", "three")
	f.must(os.MkdirAll(filepath.Join(f.Dir, "releases/never/files"), 0o700))
	dir := f.shut()
	f.must(os.RemoveAll(filepath.Join(dir, "index")))
	rebuilt, err := Rebuild(t.Context(), dir, quiet)
	f.must(err)
	if !errors.Is(rebuilt.Err(), ErrDamage) {
		t.Errorf("all is well: %+v", rebuilt)
	}
	byName := map[string]RebuiltRelease{}
	for _, r := range rebuilt.Releases {
		byName[r.Name] = r
	}
	if r := byName["v1"]; len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "app:2: manifest "+gone.String()) {
		t.Errorf("v1: %+v", r)
	}
	if r := byName["never"]; !strings.Contains(r.Problem, "never written down") {
		t.Errorf("never: %+v", r)
	}
	if rebuilt.Unnamed != 1 {
		t.Errorf("%d unnamed", rebuilt.Unnamed)
	}
	f.open(dir)
	found, err := f.Index.Open(Found)
	f.must(err)
	defer found.Close()
	if _, ok := found.Revision(Unnamed, since); !ok {
		t.Errorf("%s is not in %s", since, Found)
	}
	f.push("v1", "app", "2", "two") // and the push brings it back
	if r := f.check(); len(r.Findings) > 0 {
		t.Errorf("after the push: %v", r.Findings)
	}
}

// Names that cannot be read are kept: the new ones are fewer.
func TestRebuildKeepsDamagedSnapshot(t *testing.T) {
	f := shipped(t)
	before := f.sums()
	dir := f.shut()
	file := filepath.Join(dir, store.SnapshotFile("v1"))
	whole, err := os.ReadFile(file)
	f.must(err)
	f.must(os.Truncate(file, int64(len(whole)-10)))
	var kept string
	for range 2 { // the second time, the names are those of an empty release
		f.must(os.RemoveAll(filepath.Join(dir, "index")))
		rebuilt, err := Rebuild(t.Context(), dir, quiet)
		f.must(err)
		for _, r := range rebuilt.Releases {
			if _, name, ok := strings.Cut(r.Problem, "it is kept in "); ok {
				kept = filepath.Join(dir, name)
			}
		}
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != string(whole[:len(whole)-10]) {
		t.Fatalf("%q: %d of %d bytes, %v", kept, len(data), len(whole), err)
	}
	// A person has mended it.
	f.must(os.WriteFile(file, whole, 0o600))
	f.must(os.RemoveAll(filepath.Join(dir, "index")))
	rebuilt, err := Rebuild(t.Context(), dir, quiet)
	f.must(err)
	f.must(rebuilt.Err())
	f.open(dir)
	if after := f.sums(); after["v1"] != before["v1"] || after["v2"] != before["v2"] {
		t.Errorf("exports differ: %v, before %v", after, before)
	}
}

// No server may run.
func TestRebuildUnderServer(t *testing.T) {
	f := setup(t)
	if _, err := Rebuild(t.Context(), f.Dir, quiet); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v", err)
	}
	f.clean()
}

// A rebuild that is interrupted leaves the old index in its place.
func TestRebuildInterrupted(t *testing.T) {
	f := shipped(t)
	before := f.sums()
	dir := f.shut()
	st, err := store.Renew(dir, func() (uint64, error) { return 0, nil }, quiet)
	f.must(err)
	f.must(st.Index.Create("half"))
	f.must(st.Close()) // killed here
	f.open(dir)
	f.clean()
	f.shut()
	rebuilt, err := Rebuild(t.Context(), dir, quiet)
	f.must(err)
	f.must(rebuilt.Err())
	f.open(dir)
	if after := f.sums(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("exports differ: %v, before %v", after, before)
	}
}

// A release of which the index has lost something, or all, is brought back from
// what was written down.
func TestRepairFromSnapshot(t *testing.T) {
	f := shipped(t)
	before := f.sums()
	dir := f.shut()
	b, err := badger.Open(badger.DefaultOptions(filepath.Join(dir, "index")).WithLogger(nil).WithValueThreshold(1 << 20).WithMemTableSize(16 << 20))
	f.must(err)
	var lost [][]byte
	f.must(b.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := string(it.Item().Key())
			if strings.HasPrefix(key, "xv1\x00t") || strings.HasPrefix(key, "xv2\x00") || strings.HasPrefix(key, "rv2") || strings.HasPrefix(key, "cv2") {
				lost = append(lost, it.Item().KeyCopy(nil))
			}
		}
		return nil
	}))
	f.must(b.Update(func(txn *badger.Txn) error {
		for _, key := range lost {
			if err := txn.Delete(key); err != nil {
				return err
			}
		}
		return nil
	}))
	f.must(b.Close())
	f.open(dir)
	r := f.check()
	f.finds(r, Index, "release v1", "0 tags where there must be 4")
	f.finds(r, Release, "release v2", "not in the index; 2 names were written down")
	r = f.repair()
	if found := f.finds(r, Release, "release v2", "not in the index"); !found.Whole || found.Repaired != broughtBack {
		t.Errorf("v2: %+v", found)
	}
	f.clean()
	after := f.sums()
	if after["v1"] != before["v1"] {
		t.Errorf("v1 differs: %v, before %v", after, before)
	}
}

// An index that is older than what was written down has lost something.
func TestOldIndexIsNoticed(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "one")
	dir := f.shut()
	f.must(copyStore(filepath.Join(dir, "index"), filepath.Join(dir, "old")))
	f.open(dir)
	f.push("v1", "app", "2", "two")
	f.must(snapshot.Save(f.Store, "v1"))
	before := f.sums()
	f.shut()
	f.must(os.RemoveAll(filepath.Join(dir, "index")))
	f.must(os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "index")))
	f.open(dir)
	f.finds(f.check(), Index, "release v1", "it has lost something, or is an old copy")
	f.repair()
	f.clean()
	if after := f.sums(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("exports differ: %v, before %v", after, before)
	}
}
