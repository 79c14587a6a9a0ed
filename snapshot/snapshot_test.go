package snapshot

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/store"
)

const mediaType = "application/vnd.oci.image.manifest.v1+json"

func dg(s string) digest.Digest { return digest.FromString(s) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setup makes a store with a release.
func setup(t *testing.T) (*store.Store, *index.Release) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	must(t, store.Init(dir))
	st, err := store.Open(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { st.Close() })
	must(t, st.Index.Create("v1"))
	r, err := st.Index.Open("v1")
	must(t, err)
	t.Cleanup(r.Close)
	return st, r
}

// push puts a manifest, which is only its name here, and links it.
func push(t *testing.T, st *store.Store, r *index.Release, repo, content string, absent ...digest.Digest) digest.Digest {
	t.Helper()
	w, err := st.Blobs.NewWriter()
	must(t, err)
	defer w.Close()
	_, err = w.File().WriteString(content)
	must(t, err)
	_, err = w.Commit(dg(content))
	must(t, err)
	m := &manifest.Manifest{MediaType: mediaType}
	for _, d := range absent {
		m.Refs = append(m.Refs, manifest.Ref{Digest: d, Role: manifest.Layer, Optional: true})
	}
	must(t, r.LinkManifest(repo, dg(content), index.Facts{dg(content): m}, absent...))
	return dg(content)
}

func TestSaveAndRead(t *testing.T) {
	st, r := setup(t)
	one := push(t, st, r, "app", "one")
	two := push(t, st, r, "app", "two two", dg("foreign"))
	must(t, r.Tag("app", "1", one))
	must(t, r.Tag("app", "latest", one))
	must(t, r.AddHistory("app", "latest", two))
	must(t, r.AddHistory("app", "latest", one))
	must(t, r.HideLayer("app", dg("removed")))
	must(t, r.LinkManifest("app", dg("never came"), nil))
	must(t, Save(st, "v1"))

	s, err := Read(st.Dir, "v1")
	must(t, err)
	want := []seal.Name{
		{Repository: "app", Digest: two, MediaType: mediaType, Size: 7, Absent: []digest.Digest{dg("foreign")}},
		{Repository: "app", Tag: "1", Digest: one, MediaType: mediaType, Size: 3},
		{Repository: "app", Tag: "latest", Digest: one, MediaType: mediaType, Size: 3},
	}
	if !reflect.DeepEqual(s.Names, want) {
		t.Errorf("names: %v", s.Names)
	}
	if len(s.History) != 2 || len(s.Hidden) != 1 || !s.Created.Equal(r.Created) {
		t.Errorf("%+v", s)
	}
	changes, err := st.Index.Changes()
	must(t, err)
	if s.Changes == 0 || s.Changes > changes {
		t.Errorf("as of change %d of %d", s.Changes, changes)
	}
	entries, err := os.ReadDir(filepath.Join(st.Dir, "releases/v1"))
	if err != nil || len(entries) != 1 {
		t.Errorf("in the release's directory: %v, %v", entries, err)
	}
	if _, err := Read(st.Dir, "v2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no release: %v", err)
	}
}

// A file that somebody has garbled is an error, and gives no name that leads
// elsewhere.
func TestReadGarbled(t *testing.T) {
	st, r := setup(t)
	one := push(t, st, r, "app", "one")
	must(t, r.Tag("app", "1", one))
	must(t, r.AddHistory("app", "1", one))
	must(t, r.HideLayer("app", dg("removed")))
	must(t, Save(st, "v1"))
	name := filepath.Join(st.Dir, store.SnapshotFile("v1"))
	data, err := os.ReadFile(name)
	must(t, err)
	for _, garbled := range []string{
		"", string(data[:len(data)/2]),
		strings.Replace(string(data), `"vnd.regfs.repository":"app"`, `"vnd.regfs.repository":"../app"`, 1),
		strings.Replace(string(data), `"history":[{"repository":"app"`, `"history":[{"repository":"../app"`, 1),
		strings.Replace(string(data), `"hidden":[{"repository":"app"`, `"hidden":[{"repository":"../app"`, 1),
		strings.Replace(string(data), `"history":[{"repository":"app","tag":"1"`, `"history":[{"repository":"app","tag":""`, 1),
		strings.Replace(string(data), `"hidden":[{"repository":"app"`, `"hidden":[{"repository":"app","tag":"x"`, 1),
		strings.Replace(string(data), `"schemaVersion":2`, `"schemaVersion": 2`, 1),
	} {
		if garbled == string(data) {
			t.Fatal("not changed")
		}
		must(t, os.WriteFile(name, []byte(garbled), 0o600))
		if s, err := Read(st.Dir, "v1"); err == nil {
			t.Errorf("taken: %+v from %s", s, garbled)
		}
	}
	must(t, os.Remove(name))
	must(t, os.Symlink("/etc/passwd", name))
	if _, err := Read(st.Dir, "v1"); err == nil {
		t.Error("a symlink was followed")
	}
	must(t, Save(st, "v1")) // in its place
	_, err = Read(st.Dir, "v1")
	must(t, err)
}
