package fsck

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/snapshot"
)

func TestCleanStore(t *testing.T) {
	f := setup(t)
	f.clean()
	f.must(f.Index.Create("v2"))
	f.push("v1", "app", "1", "one", "two")
	f.push("v2", "other", "", "one", "three")
	r := f.check()
	if len(r.Findings) > 0 || r.Err() != nil {
		t.Errorf("found: %v", r.Findings)
	}
	if r.Releases != 2 || r.Images != 2 || r.Blobs != 7 {
		t.Errorf("%d releases, %d images, %d blobs", r.Releases, r.Images, r.Blobs)
	}
}

// A lost blob is named with all images that need it, in all releases.
func TestMissingBlob(t *testing.T) {
	f := setup(t)
	f.must(f.Index.Create("v2"))
	f.push("v1", "app", "1", "base", "one")
	f.push("v2", "app", "2", "base", "two")
	other := f.push("v2", "other", "", "base", "three")
	f.must(os.Remove(f.blob(describe("base").Digest)))
	r := f.check()
	found := f.finds(r, Missing, describe("base").Digest.String(), "not in the store", "v1 app:1", "v2 app:2", "v2 other@"+other.String())
	if !found.Damage || len(r.Findings) != 1 || !errors.Is(r.Err(), ErrDamage) {
		t.Errorf("found: %v", r.Findings)
	}
}

// Where a blob's size is not what the manifest states, its content tells which
// of them is wrong.
func TestWrongSize(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "whole", "cut short")
	f.overwrite(f.blob(describe("cut short").Digest), "cut")
	r := f.check()
	f.finds(r, Damaged, describe("cut short").Digest.String(), "3 bytes in the store, 9 by the manifest", "v1 app:1")

	lie := f.put("a blob of which its manifest lies")
	lie.Size = 5
	f.pushManifest("v1", "liar", "1", v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: lie})
	found := f.finds(f.check(), Size, lie.Digest.String(), "5 by the manifest, which is wrong", "v1 liar:1")
	if found.Damage {
		t.Error("a manifest's lie counts as damage")
	}
}

func TestUnreadableBlobs(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "directory", "symlink")
	directory, symlink := describe("directory").Digest, describe("symlink").Digest
	f.must(os.Remove(f.blob(directory)))
	f.must(os.Mkdir(f.blob(directory), 0o755))
	f.must(os.Remove(f.blob(symlink)))
	f.must(os.Symlink("/etc/passwd", f.blob(symlink)))
	r := f.check()
	f.finds(r, Unreadable, directory.String(), "not a regular file", "v1 app:1")
	f.finds(r, Unreadable, symlink.String(), "not a regular file", "v1 app:1")
	f.finds(r, Unreadable, layout.BlobDataPath(directory), "not a regular file")
}

// A link to a blob that nobody needs and that is not there.
func TestDanglingLink(t *testing.T) {
	f := setup(t)
	d := f.put("linked").Digest
	in := f.in("v1")
	f.must(in.Link(layout.Path{Kind: layout.LayerLink, Repository: "app", Digest: d}, d))
	f.clean()
	f.must(os.Remove(f.blob(d)))
	f.finds(f.check(), Link, d.String(), "linked in app of release v1, and not in the store")
}

// What does not belong is told, and is no damage.
func TestStrayFiles(t *testing.T) {
	f := setup(t)
	f.push("v1", "app", "1", "one")
	one := describe("one").Digest
	f.must(os.Chmod(f.blob(one), 0o644))
	for name, content := range map[string]string{
		layout.BlobDataPath(one) + ".bak":           "beside a blob",
		"docker/registry/v2/blobs/notes.txt":        "at the top",
		"docker/registry/v2/blobs/sha256/zz/a/data": "in no blob's directory",
		"tmp/old":               "left behind",
		"releases/strange/file": "a directory of no release",
	} {
		path := filepath.Join(f.Dir, name)
		f.must(os.MkdirAll(filepath.Dir(path), 0o755))
		f.must(os.WriteFile(path, []byte(content), 0o600))
	}
	r := f.check()
	f.finds(r, Mode, layout.BlobDataPath(one), "has the mode 0644, not 0444")
	f.finds(r, Foreign, layout.BlobDataPath(one)+".bak", "no part of a blob's path")
	f.finds(r, Foreign, "docker/registry/v2/blobs/notes.txt", "no part")
	f.finds(r, Foreign, "docker/registry/v2/blobs/sha256/zz", "no part")
	f.finds(r, Release, "releases/strange", "the index has no release of that name")
	if len(r.Findings) != 5 || r.Err() != nil {
		t.Errorf("found: %v", r.Findings)
	}
	c := newCheck(t.Context(), f.Store)
	c.leftover = -time.Second
	c.files()
	f.finds(c.report, Temporary, "tmp/old", "written by nobody")
}

// What a manifest needs is not known, though it is there: its facts are lost.
func TestLostFacts(t *testing.T) {
	f := setup(t)
	late := describe(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{"digest":"` +
		describe("config").Digest.String() + `","size":6}}`)
	in := f.in("v1")
	f.must(in.Link(layout.Path{Kind: layout.RevisionLink, Repository: "app", Digest: late.Digest}, late.Digest))
	f.finds(f.check(), Missing, late.Digest.String(), "not in the store", "v1 app@"+late.Digest.String())
	f.put("config")
	f.put(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{"digest":"` +
		describe("config").Digest.String() + `","size":6}}`) // behind the release's back
	f.finds(f.check(), Facts, late.Digest.String(), "not in the index", "v1 app@"+late.Digest.String())
}

// A release that is half removed is no damage, and no repair brings it back.
func TestHalfRemovedReleaseStaysRemoved(t *testing.T) {
	f := setup(t)
	f.must(f.Index.Create("v2"))
	f.must(snapshot.Save(f.Store, "v2"))
	killed := errors.New("killed before the directory goes")
	if err := f.Index.RemoveRelease(t.Context(), "v2", func() error { return killed }); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	f.clean()
	f.repair()
	if going, err := f.Index.Removing(); err != nil || len(going) != 1 {
		t.Errorf("half removed: %v, %v", going, err)
	}
}

// Nor is one that is half renamed.
func TestHalfRenamedRelease(t *testing.T) {
	f := setup(t)
	f.must(f.Index.Create("v2"))
	f.must(snapshot.Save(f.Store, "v2"))
	killed := errors.New("killed before the directory is moved")
	if err := f.Index.Rename("v2", "v3", func(string, string) error { return killed }); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	f.clean()
	f.must(Trust(t.Context(), f.Store))
}

// Names that are written down while a check runs are no damage.
func TestCheckBesideSnapshots(t *testing.T) {
	f := setup(t)
	release := f.in("v1").Release
	done := make(chan error)
	go func() {
		var err error
		for i := 0; i < 200 && err == nil; i++ {
			err = errors.Join(release.AddDir("docker"), snapshot.Save(f.Store, "v1"))
		}
		done <- err
	}()
	for {
		c := newCheck(t.Context(), f.Store)
		if c.directories(); len(c.report.Findings) > 0 {
			t.Errorf("found: %v", c.report.Findings)
			f.must(<-done)
			return
		}
		select {
		case err := <-done:
			f.must(err)
			return
		default:
		}
	}
}
