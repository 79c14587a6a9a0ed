package control

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

// unserved is a server of a new store that answers nobody.
func unserved(t *testing.T, releases ...string) (dir string, s *Server) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	ok(t, store.Init(dir))
	st, err := store.Open(dir, quiet)
	ok(t, err)
	t.Cleanup(func() { st.Close() })
	for _, name := range releases {
		ok(t, st.Index.Create(name))
	}
	return dir, NewServer(st, quiet)
}

// The names of a release are written down when they have changed, and not when
// they have not.
func TestSnapshotOfChanges(t *testing.T) {
	dir, s := unserved(t, "v1", "v2")
	file := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, store.SnapshotFile("v1")))
		ok(t, err)
		return info
	}
	s.snapshot("v1")
	first := file()
	s.snapshot("v1")
	if !os.SameFile(first, file()) {
		t.Error("written again, and nothing has changed")
	}
	r, err := s.store.Index.Open("v1")
	ok(t, err)
	defer r.Close()
	ok(t, r.HideLayer("app", digest.FromString("x")))
	s.snapshot("v1")
	if os.SameFile(first, file()) {
		t.Error("not written after a change")
	}
	got, err := snapshot.Read(dir, "v1")
	ok(t, err)
	if len(got.Hidden) != 1 {
		t.Errorf("the change is not in it: %+v", got)
	}
	s.snapshot("v3") // there is none, and that is no matter
}

// A server writes down the names of releases that have none, and of what is
// mounted now and then.
func TestKeepSnapshots(t *testing.T) {
	dir, s := unserved(t, "v1", "mounted")
	m := newMounted(Mount{Release: "mounted", Mountpoint: "/mnt"})
	close(m.started)
	s.mounts["/mnt"] = m
	s.watching.Go(func() { s.keepSnapshots(time.Millisecond) })
	read := func(release string) *snapshot.Snapshot {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			got, err := snapshot.Read(dir, release)
			if err == nil || time.Now().After(deadline) {
				ok(t, err)
				return got
			}
		}
	}
	read("v1")
	read("mounted")
	r, err := s.store.Index.Open("mounted")
	ok(t, err)
	defer r.Close()
	ok(t, r.HideLayer("app", digest.FromString("x")))
	for deadline := time.Now().Add(10 * time.Second); len(read("mounted").Hidden) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change is not written down")
		}
	}
	s.stop()
}
