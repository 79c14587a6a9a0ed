package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fixture is a directory with a file, and with links that lead to it and out.
func fixture(t *testing.T) (*Dir, string) {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	ok(t, os.MkdirAll(filepath.Join(dir, "real/sub"), 0o755))
	ok(t, os.WriteFile(filepath.Join(dir, "real/file"), []byte("content"), 0o644))
	ok(t, os.WriteFile(filepath.Join(top, "outside"), []byte("secret"), 0o644))
	for name, target := range map[string]string{
		"link": "real", "absolute": top, "real/up": "..", "real/filelink": "file", "real/out": "../../outside",
	} {
		ok(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	d, err := Open(dir)
	ok(t, err)
	t.Cleanup(func() { d.Close() })
	return d, dir
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoWayOut: nothing is reached through a link or by dots.
func TestNoWayOut(t *testing.T) {
	d, dir := fixture(t)
	for _, name := range []string{"link/file", "absolute/outside", "real/up/real/file", "../outside", "real/../../outside"} {
		calls := map[string]func() error{
			"Lstat":    func() error { _, err := d.Lstat(name); return err },
			"OpenFile": func() error { _, err := d.OpenFile(name, os.O_RDONLY, 0); return err },
			"Create":   func() error { _, err := d.OpenFile(name+"new", os.O_RDWR|os.O_CREATE, 0o644); return err },
			"Mkdir":    func() error { return d.Mkdir(name+"new", 0o755) },
			"MkdirAll": func() error { return d.MkdirAll(name+"new/deep", 0o755) },
			"Unlink":   func() error { return d.Unlink(name) },
			"Rename":   func() error { return d.Rename("real/file", name+"new", 0) },
			"From":     func() error { return d.Rename(name, "real/new", 0) },
			"Symlink":  func() error { return d.Symlink("x", name+"new") },
			"Link":     func() error { return d.Link("real/file", name+"new") },
			"Chmod":    func() error { return d.Chmod(name, 0o600) },
			"Chown":    func() error { return d.Chown(name, -1, -1) },
			"Utimes":   func() error { return d.Utimes(name, nil, nil) },
			"Remove":   func() error { return d.RemoveAll(name) },
		}
		for call, run := range calls {
			if err := run(); err == nil {
				t.Errorf("%s %s: no error", call, name)
			}
		}
	}
	for _, name := range []string{"..", "real/../..", "real/sub/../.."} {
		if _, err := d.Lstat(name); err == nil {
			t.Errorf("Lstat %s: no error", name)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, "real/file"))
	ok(t, err)
	if string(content) != "content" {
		t.Errorf("the file holds %q now", content)
	}
}

// TestLinkAtTheEnd: a link is itself, never what it points at.
func TestLinkAtTheEnd(t *testing.T) {
	d, _ := fixture(t)
	for _, name := range []string{"real/filelink", "real/out"} {
		stat, err := d.Lstat(name)
		ok(t, err)
		if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("Lstat %s: mode %o", name, stat.Mode)
		}
		if _, err := d.OpenFile(name, os.O_RDONLY, 0); err != unix.ELOOP {
			t.Errorf("OpenFile %s: %v", name, err)
		}
		if _, err := d.OpenRegular(name); !errors.Is(err, ErrNotRegular) {
			t.Errorf("OpenRegular %s: %v", name, err)
		}
		if err := d.Chmod(name, 0o777); err == nil {
			t.Errorf("Chmod %s: no error", name)
		}
	}
	target, err := d.Readlink("real/out")
	ok(t, err)
	if target != "../../outside" {
		t.Errorf("Readlink: %s", target)
	}
}

// TestWalk: without openat2 the same directories are opened, and refused.
func TestWalk(t *testing.T) {
	d, _ := fixture(t)
	for _, name := range []string{
		".", "real", "real/sub", "link", "link/sub", "real/up", "absolute", "absent", "real/file", "../dir",
	} {
		fd, err := d.openDir(name)
		unix.Close(fd)
		walked, walkErr := d.walk(name)
		unix.Close(walked)
		if (err == nil) != (walkErr == nil) || errors.Is(err, fs.ErrNotExist) != errors.Is(walkErr, fs.ErrNotExist) {
			t.Errorf("openDir %s: %v; walk: %v", name, err, walkErr)
		}
		if want := name == "." || name == "real" || name == "real/sub"; (err == nil) != want {
			t.Errorf("openDir %s: %v", name, err)
		}
	}
}

// TestFIFO: nothing waits for the other end.
func TestFIFO(t *testing.T) {
	d, dir := fixture(t)
	ok(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	if _, err := d.OpenRegular("fifo"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("OpenRegular of a FIFO: %v", err)
	}
}

func TestMakeAndRemove(t *testing.T) {
	d, dir := fixture(t)
	ok(t, d.MkdirAll("a/b/c", 0o755))
	ok(t, d.MkdirAll("a/b/c", 0o755))
	if err := d.MkdirAll("real/file", 0o755); err != unix.ENOTDIR {
		t.Errorf("MkdirAll over a file: %v", err)
	}
	ok(t, d.Symlink("../../../real", "a/b/c/link"))
	if err := d.RenameNew("real/file", "a/b"); err != unix.EEXIST {
		t.Errorf("RenameNew to a name that is taken: %v", err)
	}
	ok(t, d.Rename("real/file", "a/b/file", 0))
	ok(t, d.RemoveAll("a"))
	ok(t, d.RemoveAll("a"))
	if _, err := os.Stat(filepath.Join(dir, "real/sub")); err != nil {
		t.Errorf("RemoveAll went through a link: %v", err)
	}
}
