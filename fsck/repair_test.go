package fsck

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

func (f *fixture) repair() *Report {
	f.Helper()
	r, err := Repair(f.Context(), f.Store, slog.New(slog.DiscardHandler))
	f.must(err)
	return r
}

// A damaged blob is put aside, its images are named, and the next push mends
// all.
func TestRepairPutsAside(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "rotten", "cut short", "whole")
	rotten, cut := describe("rotten").Digest, describe("cut short").Digest
	f.flip(f.blob(rotten))
	f.overwrite(f.blob(cut), "cut")
	r := f.repair()
	found := f.finds(r, Damaged, cut.String(), "3 bytes in the store", "v1 app:1")
	if !strings.HasPrefix(found.Repaired, "put aside to quarantine/sha256/"+cut.Encoded()) || found.Whole {
		t.Errorf("repaired: %+v", found)
	}
	bad := f.scan()
	outcomes, err := Quarantine(t.Context(), f.Store, Result{Bad: bad}.Digests())
	f.must(err)
	r.Merge(Result{Bad: bad}, nil)
	r.Mended(outcomes)
	if found := f.finds(r, Damaged, rotten.String(), "its content has"); !strings.Contains(found.Repaired, "quarantine/sha256/"+rotten.Encoded()) {
		t.Errorf("repaired: %+v", found)
	}
	if !errors.Is(r.Err(), ErrDamage) {
		t.Errorf("images are damaged, and all is well: %v", r.Err())
	}
	r = f.check()
	f.finds(r, Missing, cut.String(), "not in the store", "v1 app:1")
	f.finds(r, Missing, rotten.String(), "not in the store", "v1 app:1")
	f.push("v1", "app", "1", "rotten", "cut short", "whole")
	f.clean()
	if data, err := os.ReadFile(filepath.Join(f.Dir, "quarantine/sha256", cut.Encoded())); string(data) != "cut" {
		t.Errorf("what was put aside: %q, %v", data, err)
	}
}

// What is whole is not put aside, whoever says so.
func TestQuarantineOfWhole(t *testing.T) {
	f := setup(t)
	d := f.put("whole").Digest
	outcomes, err := Quarantine(t.Context(), f.Store, []digest.Digest{d, describe("absent").Digest})
	f.must(err)
	if o := outcomes[d]; !o.Whole || o.Done != "whole by now" {
		t.Errorf("%+v", o)
	}
	if o := outcomes[describe("absent").Digest]; o.Whole || o.Done != "gone by now" {
		t.Errorf("%+v", o)
	}
	if _, err := f.Blobs.Stat(d); err != nil {
		t.Error(err)
	}
	if _, err := Quarantine(t.Context(), f.Store, []digest.Digest{"sha256:../x"}); err == nil {
		t.Error("a bad digest is taken")
	}
}

func TestRepairOddFiles(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "symlink", "writable")
	symlink, writable := describe("symlink").Digest, describe("writable").Digest
	f.must(os.Remove(f.blob(symlink)))
	f.must(os.Symlink("/etc/passwd", f.blob(symlink)))
	f.must(os.Chmod(f.blob(writable), 0o644))
	r := f.repair()
	f.finds(r, Unreadable, symlink.String(), "not a regular file", "v1 app:1")
	if found := f.finds(r, Mode, layout.BlobDataPath(writable), "0644"); !found.Whole {
		t.Errorf("mode: %+v", found)
	}
	r = f.check()
	f.finds(r, Missing, symlink.String(), "not in the store", "v1 app:1")
	if len(r.Findings) != 1 {
		t.Errorf("found: %v", r.Findings)
	}
}

// Facts that are lost are read from the manifest again.
func TestRepairFacts(t *testing.T) {
	f := setup(t)
	config := describe("config")
	content := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"` + config.Digest.String() + `","size":6}}`
	d := describe(content).Digest
	f.must(f.in("v1").Link(layout.Path{Kind: layout.RevisionLink, Repository: "app", Digest: d}, d))
	f.put(content)
	f.put("config")
	if found := f.finds(f.repair(), Facts, d.String(), "not in the index", "v1 app@"+d.String()); !found.Whole {
		t.Errorf("facts: %+v", found)
	}
	f.clean()
	r, err := f.Index.Open("v1")
	f.must(err)
	defer r.Close()
	if needs := r.Needs("app", d); len(needs) != 2 {
		t.Errorf("needs: %v", needs)
	}
}
