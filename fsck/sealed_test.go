package fsck

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/sealed"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/verify"
)

// sealedFixture is shipped with its first release sealed.
func sealedFixture(t *testing.T) (*fixture, digest.Digest) {
	t.Helper()
	f := shipped(t)
	d, err := sealed.Seal(f.Store, f.in("v1").Release)
	f.must(err)
	f.must(f.Blobs.Settle())
	f.must(snapshot.Save(f.Store, "v1"))
	f.clean()
	return f, d
}

// isSealed expects that the release is what was sealed.
func (f *fixture) isSealed(d digest.Digest) {
	f.Helper()
	r, err := f.Index.Open("v1")
	f.must(err)
	defer r.Close()
	reading, err := sealed.Read(f.Store, r)
	f.must(err)
	f.must(reading.Err("v1"))
	if reading.Sealed != d {
		f.Errorf("sealed as %q, and not %s", reading.Sealed, d)
	}
	f.clean()
}

// What an index is rebuilt from says also which releases are sealed, and their
// documents are nobody's lost images.
func TestRebuildKeepsReleasesSealed(t *testing.T) {
	f, d := sealedFixture(t)
	before := f.sums()
	for _, r := range []string{"v1", "v2"} {
		f.in(r) // opened, and closed with the test
	}
	dir := filepath.Join(t.TempDir(), "store")
	f.must(copyStore(f.Dir, dir))
	f.must(os.RemoveAll(filepath.Join(dir, "index")))
	rebuilt, err := Rebuild(t.Context(), dir, quiet)
	f.must(err)
	f.must(rebuilt.Err())
	if rebuilt.Unnamed != 0 || len(rebuilt.Releases) != 2 {
		t.Errorf("%+v", rebuilt)
	}
	again := &fixture{T: t}
	again.open(dir)
	defer again.shut()
	again.isSealed(d)
	if after := again.sums(); after["v1"] != before["v1"] || after["v2"] != before["v2"] {
		t.Errorf("exports differ: %v, before %v", after, before)
	}
}

// A document that is not what it was is found, and comes back.
func TestRepairOfADocument(t *testing.T) {
	f, d := sealedFixture(t)
	f.flip(f.blob(d))
	f.finds(f.check(), Sealed, "release v1", "damaged")
	if found := f.finds(f.repair(), Sealed, "release v1", "damaged"); !found.Whole {
		t.Errorf("%+v", found)
	}
	f.isSealed(d)
	f.must(f.Blobs.Settle())
	f.must(os.Remove(f.blob(d)))
	f.finds(f.repair(), Sealed, "release v1", "not in the store")
	f.isSealed(d)
}

// What the index has lost of a sealed release comes back though that is sealed:
// records, and what its manifests need.
func TestRepairOfASealedRelease(t *testing.T) {
	f, d := sealedFixture(t)
	s, err := snapshot.Read(f.Dir, "v1")
	f.must(err)
	r, err := f.Index.Open("v1")
	f.must(err)
	f.must(r.Mend(func() error { // as rot would
		if err := r.Untag("app", "also"); err != nil {
			return err
		}
		return r.UnlinkManifest("multi", s.Names[len(s.Names)-2].Digest)
	}))
	f.must(r.Sync())
	r.Close()
	f.finds(f.check(), Sealed, "release v1", "app:also points at nothing")
	rep := repair{ctx: t.Context(), store: f.Store, log: quiet, report: new(Report)}
	if done := rep.restore("v1"); !strings.HasPrefix(done, broughtBack) {
		t.Error(done)
	}
	f.isSealed(d)
}

// The names in an export make the document of the release that was sealed: of
// sparse indexes, foreign layers and tags that have moved, too.
func TestExportMakesTheDocument(t *testing.T) {
	f, d := sealedFixture(t)
	inv := export.Take(f.in("v1").Release, f.Blobs)
	var tar bytes.Buffer
	f.must(inv.WriteTar(t.Context(), &tar, f.Blobs, archive.Options{}))
	r, err := verify.Tar(t.Context(), &tar, verify.Options{Digest: d, Exact: true})
	f.must(err)
	if len(r.Problems) > 0 || r.Release != d {
		t.Errorf("%+v", r)
	}
}
