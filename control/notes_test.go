package control

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

func aNote(mountpoint string) note {
	return note{
		Release: "v1.0", Mountpoint: mountpoint, Reuse: tree.ReuseRepository, UID: 1000, GID: 1001,
		FileMode: 0o640, DirMode: 0o750, AllowOther: true, NoPassthrough: true, Detach: true,
	}
}

func TestNotes(t *testing.T) {
	dir := newStore(t)
	none, err := readNotes(dir)
	if err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	for _, all := range [][]note{{aNote("/mnt/a")}, {aNote("/mnt/a"), aNote("/mnt/\"\n\xc3\xa4")}, {}, {}, {aNote("/mnt/c")}} {
		ok(t, writeNotes(dir, all))
		got, err := readNotes(dir)
		ok(t, err)
		if !slices.Equal(got, all) {
			t.Errorf("%v, not %v", got, all)
		}
		if _, err := os.Lstat(store.Mounts(dir)); os.IsNotExist(err) != (len(all) == 0) {
			t.Errorf("with %d mounts: %v", len(all), err)
		}
	}
	info, err := os.Stat(store.Mounts(dir))
	ok(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	// What a crash in the middle of writing leaves is in nobody's way.
	ok(t, os.WriteFile(store.Mounts(dir)+".tmp", []byte("half"), 0o400))
	ok(t, writeNotes(dir, []note{aNote("/mnt/d")}))
}

// The request that a note makes is the one that it was made of.
func TestNoteOfRequest(t *testing.T) {
	n := aNote("/mnt/a")
	if got := noteOf(n.request()); got != n {
		t.Errorf("%+v, not %+v", got, n)
	}
	if r := n.request(); r.Backend != BackendFuse {
		t.Errorf("backend %s", r.Backend)
	}
}

func TestBadNotes(t *testing.T) {
	entry := func(f func(*note)) string {
		n := aNote("/mnt/a")
		f(&n)
		return fmt.Sprintf(`{"mounts":[{"release":%q,"mountpoint":%q,"reuse":%q,"file_mode":%d,"dir_mode":%d}]}`,
			n.Release, n.Mountpoint, n.Reuse, n.FileMode, n.DirMode)
	}
	for name, text := range map[string]string{
		"empty": "", "no JSON": "{", "a list": "[]", "mounts is none": `{"mounts":1}`,
		"no release":      entry(func(n *note) { n.Release = "" }),
		"a path":          entry(func(n *note) { n.Release = "../v1" }),
		"relative":        entry(func(n *note) { n.Mountpoint = "mnt" }),
		"not clean":       entry(func(n *note) { n.Mountpoint = "/mnt/../etc" }),
		"the root":        entry(func(n *note) { n.Mountpoint = "/" }),
		"NUL":             `{"mounts":[{"release":"v1","mountpoint":"/mnt/\u0000","reuse":"store"}]}`,
		"no such reuse":   entry(func(n *note) { n.Reuse = "all" }),
		"set-uid":         entry(func(n *note) { n.FileMode = 0o4755 }),
		"too many mounts": `{"mounts":[` + strings.Repeat(`{},`, maxNotes) + `{}]}`,
		"too large":       `{"mounts":[` + strings.Repeat(" ", maxNotesSize) + `]}`,
	} {
		dir := newStore(t)
		ok(t, os.WriteFile(store.Mounts(dir), []byte(text), 0o600))
		if got, err := readNotes(dir); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	good := `{"mounts":[],"unknown":1}`
	for name, make := range map[string]func(path string) error{
		"others can write": func(path string) error { return os.WriteFile(path, []byte(good), 0o600) },
		"a symlink":        func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a FIFO":           func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory":      func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := newStore(t)
		ok(t, make(store.Mounts(dir)))
		if name == "others can write" {
			if _, err := readNotes(dir); err != nil {
				t.Errorf("a good one: %v", err)
			}
			ok(t, os.Chmod(store.Mounts(dir), 0o620))
		}
		if _, err := readNotes(dir); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
