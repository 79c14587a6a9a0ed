package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
)

// What a release has beside the index goes with it, also when the one who
// renames it was killed before that.
func TestRenameMovesFiles(t *testing.T) {
	for _, killed := range []bool{false, true} {
		dir := newStore(t)
		c := dial(t, dir)
		ok(t, c.CreateRelease(t.Context(), "v1"))
		ok(t, os.MkdirAll(filepath.Join(dir, store.PlainDir("v1")), 0o700))
		ok(t, os.WriteFile(filepath.Join(dir, store.PlainDir("v1"), "scheduler-state.json"), []byte("{}"), 0o600))
		if killed {
			ok(t, c.Close())
			st, err := store.Open(dir, quiet)
			ok(t, err)
			fault := errors.New("killed by a test")
			if err := st.Index.Rename("v1", "v2", func(string, string) error { return fault }); !errors.Is(err, fault) {
				t.Error(err)
			}
			ok(t, st.Close())
			c = dial(t, dir)
		} else {
			ok(t, c.Rename(t.Context(), "v1", "v2"))
		}
		all, err := c.Releases(t.Context())
		ok(t, err)
		if len(all) != 1 || all[0].Name != "v2" {
			t.Errorf("releases: %v", all)
		}
		if _, err := os.Stat(filepath.Join(dir, store.PlainDir("v2"), "scheduler-state.json")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, store.ReleaseDir("v1"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old directory: %v", err)
		}
		ok(t, c.CreateRelease(t.Context(), "v1"))
		ok(t, c.Close())
	}
}

// A directory that is no release's is nobody's to take.
func TestRenameToStrangersDirectory(t *testing.T) {
	dir := newStore(t)
	c := dial(t, dir)
	ok(t, c.CreateRelease(t.Context(), "v1"))
	ok(t, os.Mkdir(filepath.Join(dir, store.ReleaseDir("v2")), 0o700))
	wantError(t, c.Rename(t.Context(), "v1", "v2"), fs.ErrExist, "belongs to no release")
	ok(t, os.Remove(filepath.Join(dir, store.ReleaseDir("v2"))))
	ok(t, c.Rename(t.Context(), "v1", "v2"))
}

// Names that lead elsewhere are none, whoever sends them.
func TestHostileNames(t *testing.T) {
	dir := newStore(t)
	c := dial(t, dir)
	ok(t, c.CreateRelease(t.Context(), "v1"))
	for _, name := range []string{"", "..", "../v2", "a/b", "a\x00b", "-x", ".x"} {
		wantError(t, c.Fork(t.Context(), "v1", name), index.ErrName)
		wantError(t, c.Rename(t.Context(), "v1", name), index.ErrName)
		wantError(t, c.Rename(t.Context(), name, "v2"), index.ErrName)
		_, err := c.Seal(t.Context(), name)
		wantError(t, err, index.ErrName)
		for _, what := range []string{"fork", "rename"} { // without the client's own check
			err := c.call(t.Context(), "POST", "/v1/releases/v1/"+what, forkRequest{name}, nil)
			wantError(t, err, index.ErrName)
		}
	}
	for _, n := range []ImageName{{}, {Repository: "../up", Tag: "1"}, {Repository: "a", Tag: "../b"}, {Repository: "a", Digest: "sha256:1"}, {Repository: "a"}} {
		wantError(t, c.Tag(t.Context(), "v1", n, ImageName{Repository: "a", Tag: "1"}), ErrUsage)
		wantError(t, c.Tag(t.Context(), "v1", ImageName{Repository: "a", Tag: "1"}, n), ErrUsage)
		_, err := c.Untag(t.Context(), "v1", n, true)
		wantError(t, err, ErrUsage)
	}
}

// While a command is at work on a release, no other one is, and nobody mounts it.
func TestClaim(t *testing.T) {
	dir := newStore(t)
	st, err := store.Open(dir, quiet)
	ok(t, err)
	defer st.Close()
	ok(t, st.Index.Create("v1"))
	s := NewServer(st, quiet)
	unclaim, err := s.claim("v1", "seal")
	ok(t, err)
	_, err = s.claim("v1", "rename")
	wantError(t, err, syscall.EBUSY, "at work on it (seal)")
	wantError(t, s.reserve(newMounted(Mount{Release: "v1", Mountpoint: "/nowhere"})), syscall.EBUSY, "at work on it (seal)")
	unclaim()
	ok(t, s.reserve(newMounted(Mount{Release: "v1", Mountpoint: "/nowhere"})))
	_, err = s.claim("v1", "seal")
	wantError(t, err, syscall.EBUSY, "mounted at /nowhere", "umount it first")

	// What a dead server has left and somebody has unmounted since is in nobody's
	// way.
	s.lose(note{Release: "v2", Mountpoint: "/gone"}, errors.New("not restored"))
	unclaim, err = s.claim("v2", "seal")
	ok(t, err)
	unclaim()
}

// Nothing else is done to a release while an import goes into it, and nobody
// imports into what is sealed.
func TestImportAndSeal(t *testing.T) {
	dir := newStore(t)
	c, i := importInto(t, dir)
	_, err := c.Seal(t.Context(), "v1")
	wantError(t, err, syscall.EBUSY, "import into it is under way")
	wantError(t, c.Rename(t.Context(), "v1", "v2"), syscall.EBUSY, "import into it is under way")
	ok(t, i.Close())
	_, err = c.Seal(t.Context(), "v1")
	wantError(t, err, ErrIncomplete, "it has no image")
}

// A collection goes by the names of releases, and so none is renamed meanwhile.
func TestRenameAndCollect(t *testing.T) {
	dir := newStore(t)
	st, err := store.Open(dir, quiet)
	ok(t, err)
	defer st.Close()
	s := NewServer(st, quiet)
	ok(t, s.beginCollecting())
	wantError(t, s.beginRenaming(), syscall.EBUSY, "garbage is being collected")
	s.endCollecting()
	ok(t, s.beginRenaming())
	wantError(t, s.beginCollecting(), syscall.EBUSY, "being renamed")
	s.endRenaming()
	ok(t, s.beginCollecting())
	wantError(t, s.beginCollecting(), syscall.EBUSY, "another one is running")
}
