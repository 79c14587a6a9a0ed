package cas

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

var errFault = errors.New("fault put there by a test")

// A fixture is a store of which the test knows the directory.
type fixture struct {
	*testing.T
	*Store
	dir string
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, dir: t.TempDir()}
	f.reopen()
	return f
}

// reopen opens the store anew, without closing it, as if the process before
// had been killed.
func (f *fixture) reopen() {
	f.T.Helper()
	if f.Store != nil {
		f.pending.close()
	}
	s, err := Open(f.dir)
	f.must(err)
	f.Store = s
	f.Cleanup(func() {
		s.pending.close()
		s.dir.Close()
	})
}

func (f *fixture) must(err error) {
	f.T.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) write(name, content string) {
	f.T.Helper()
	f.must(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	f.must(os.WriteFile(f.path(name), []byte(content), 0o640))
}

// plant makes a symlink.
func (f *fixture) plant(target, name string) {
	f.T.Helper()
	f.must(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	f.must(os.Symlink(target, f.path(name)))
}

func (f *fixture) writer(content string) *Writer {
	f.T.Helper()
	w, err := f.NewWriter()
	f.must(err)
	f.Cleanup(func() { w.Close() })
	_, err = w.File().WriteString(content)
	f.must(err)
	return w
}

func (f *fixture) put(content string) digest.Digest {
	f.T.Helper()
	d := digest.FromString(content)
	_, err := f.writer(content).Commit(d)
	f.must(err)
	return d
}

func (f *fixture) checkFile(name, content string) {
	f.T.Helper()
	got, err := os.ReadFile(f.path(name))
	if err != nil || string(got) != content {
		f.Errorf("%s has content %q, %v, not %q", name, got, err, content)
	}
}

func (f *fixture) checkGone(name string) {
	f.T.Helper()
	if _, err := os.Lstat(f.path(name)); !errors.Is(err, fs.ErrNotExist) {
		f.Errorf("%s is there: %v", name, err)
	}
}

// checkNoTemp checks that no writer has left anything.
func (f *fixture) checkNoTemp() {
	f.T.Helper()
	names, err := f.tempNames()
	f.must(err)
	pending, err := os.ReadDir(f.path(pendingDir))
	if len(names) > 0 || len(pending) > 0 {
		f.Errorf("left in tmp: %v, %v, %v", names, pending, err)
	}
}

func (f *fixture) inode(name string) uint64 {
	f.T.Helper()
	info, err := os.Lstat(f.path(name))
	f.must(err)
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestOpenWritesNothing(t *testing.T) {
	f := setup(t)
	if _, err := f.Stat(digest.FromString("")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for range f.All() {
		t.Error("an empty store has blobs")
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("after reading, the directory has %v, %v", entries, err)
	}
	if _, err := Open(f.path("absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an absent directory: %v", err)
	}
}

func TestModes(t *testing.T) {
	f := setup(t)
	defer syscall.Umask(syscall.Umask(0o022))
	w := f.writer("content")
	check := func(name string, want fs.FileMode) {
		t.Helper()
		info, err := os.Lstat(f.path(name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v, not %v", name, info.Mode(), err, want)
		}
	}
	check(w.name, 0o600)
	check("tmp", fs.ModeDir|0o755)
	name := blobPath(f.put("content"))
	f.must(f.Settle())
	check(name, 0o444)
	for name != blobsDir {
		name = filepath.Dir(name)
		check(name, fs.ModeDir|0o755)
	}
}

func TestErrorText(t *testing.T) {
	f := setup(t)
	d := digest.FromString("absent")
	_, err := f.Stat(d)
	if want := "stat blob " + d.String() + ": no such file or directory"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	_, err = f.writer("present").Commit(d)
	want := "commit blob " + d.String() + ": content has digest " + digest.FromString("present").String() + ", not " + d.String()
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// What stands in a blob's place and is none is neither read nor replaced, and
// never looks absent.
func TestPlantedAtBlobPath(t *testing.T) {
	d := digest.FromString("content")
	name := blobPath(d)
	for kind, plant := range map[string]func(*fixture){
		"Symlink": func(f *fixture) {
			f.write("releases/r/files/evil", "content")
			f.plant("../../../../../../../releases/r/files/evil", name)
		},
		"DanglingSymlink": func(f *fixture) { f.plant("nowhere", name) },
		"EscapingSymlink": func(f *fixture) { f.plant("/etc/passwd", name) },
		"Directory":       func(f *fixture) { f.must(os.MkdirAll(f.path(name), 0o755)) },
		"FIFO": func(f *fixture) {
			f.must(os.MkdirAll(f.path(filepath.Dir(name)), 0o755))
			f.must(syscall.Mkfifo(f.path(name), 0o644))
		},
	} {
		t.Run(kind, func(t *testing.T) {
			f := setup(t)
			plant(f)
			before := f.inode(name)
			if _, err := f.Stat(d); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v", err)
			}
			if _, err := f.Open(d); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open: %v", err)
			}
			w := f.writer("content")
			if _, err := w.Commit(d); err == nil {
				t.Error("Commit succeeds")
			}
			for info := range f.All() {
				t.Errorf("All yields %v", info)
			}
			f.must(w.Close())
			f.checkNoTemp()
			if f.inode(name) != before {
				t.Error("Commit replaced it")
			}
		})
	}
}

func TestOpenFollowsNoSymlinkOnTheWay(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.must(f.Settle())
	dir := filepath.Dir(blobPath(d))
	f.must(os.Rename(f.path(dir), f.path("elsewhere")))
	f.plant("../../../../../../elsewhere", dir)
	if _, err := f.Open(d); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open through a symlink: %v", err)
	}
}

func TestAllSkipsStrangers(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	hex := d.Encoded()
	inPlace, err := filepath.Rel(blobsDir, blobPath(d))
	f.must(err)
	for _, name := range []string{
		"README", "md5/aa/aaaa/data", "sha256/README", "sha256/zz/" + hex + "/data", "sha256/ab/short/data",
		"sha256/" + strings.ToUpper(hex[:2]) + "x/" + hex + "/data", filepath.Dir(inPlace) + "/data.1234.tmp",
		filepath.Dir(filepath.Dir(inPlace)) + "/file", "sha256/aa/" + strings.Repeat("a", 64) + "/other",
	} {
		f.write(blobsDir+"/"+name, "stranger")
	}
	f.plant("sha256", blobsDir+"/sha512")
	n := 0
	for info, err := range f.All() {
		if err != nil || info.Digest != d {
			t.Errorf("All yields %v, %v", info, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("All yields %d blobs, not 1", n)
	}
}

func TestAllTellsWhatItCannotRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	f := setup(t)
	d := f.put("content")
	f.must(f.Settle())
	dir := f.path(filepath.Dir(filepath.Dir(blobPath(d))))
	f.must(os.Chmod(dir, 0))
	defer os.Chmod(dir, 0o755)
	var errs []error
	for _, err := range f.All() {
		errs = append(errs, err)
	}
	if len(errs) != 1 || !errors.Is(errs[0], fs.ErrPermission) {
		t.Errorf("All yields %v", errs)
	}
}
