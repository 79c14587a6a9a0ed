package store

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

var quiet = slog.New(slog.DiscardHandler)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newStore makes a store that is not open.
func newStore(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	ok(t, Init(dir))
	return dir
}

func write(t *testing.T, name, content string) {
	t.Helper()
	ok(t, os.WriteFile(name, []byte(content), 0o600))
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	ok(t, Init(dir))
	ok(t, Check(dir))
	info, err := os.Stat(dir)
	ok(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("others may enter: %v", info.Mode())
	}
	text, err := os.ReadFile(filepath.Join(dir, "regfs.json"))
	ok(t, err)
	if string(text) != "{\"format\":1}\n" {
		t.Errorf("regfs.json: %q", text)
	}
	entries, err := os.ReadDir(dir)
	ok(t, err)
	if len(entries) != 1 {
		t.Errorf("more than one file: %v", entries)
	}
}

// An empty directory becomes a store, whatever its mode was.
func TestInitOfEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.Chmod(dir, 0o755))
	ok(t, Init(dir))
	info, err := os.Stat(dir)
	ok(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestInitRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T) string
		kind error
		says string
	}{
		{"a store", newStore, fs.ErrExist, "is a store already"},
		{"a directory with a file", func(t *testing.T) string {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "file"), "")
			return dir
		}, fs.ErrExist, "is not empty"},
		{"a damaged store", func(t *testing.T) string {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "regfs.json"), "{")
			return dir
		}, fs.ErrExist, "is not empty"},
		{"a file", func(t *testing.T) string {
			name := filepath.Join(t.TempDir(), "file")
			write(t, name, "content")
			return name
		}, syscall.ENOTDIR, "make store"},
		{"below a file", func(t *testing.T) string {
			name := filepath.Join(t.TempDir(), "file")
			write(t, name, "content")
			return filepath.Join(name, "store")
		}, syscall.ENOTDIR, "make store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.make(t)
			before, _ := os.ReadDir(dir)
			err := Init(dir)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) && c.kind == fs.ErrExist {
				t.Errorf("%v", err)
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("something was changed: %v", after)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		name, content string
		kind          error
		says          string
	}{
		{"empty", "", ErrFormat, "is damaged"},
		{"no JSON", "hello", ErrFormat, "is damaged"},
		{"cut off", `{"format":`, ErrFormat, "is damaged"},
		{"another file", `{"version":1}`, ErrFormat, "is damaged"},
		{"no number", `{"format":"1"}`, ErrFormat, "is damaged"},
		{"negative", `{"format":-1}`, ErrFormat, "is damaged"},
		{"newer", `{"format":2,"more":true}`, ErrFormat, "format 2 is newer than this regfs, which knows up to 1; use a newer regfs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newStore(t)
			write(t, filepath.Join(dir, "regfs.json"), c.content)
			for _, err := range []error{Check(dir), openError(dir)} {
				if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%v", err)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("something was made: %v", entries)
			}
		})
	}
}

// openError opens a store that must not open.
func openError(dir string) error {
	s, err := Open(dir, quiet)
	if err == nil {
		s.Close()
		return errors.New("opened")
	}
	return err
}

func TestNoStore(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "nothing")} {
		for _, err := range []error{Check(dir), openError(dir)} {
			if !errors.Is(err, ErrNoStore) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "regfs init") {
				t.Errorf("%v", err)
			}
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("something was made: %v", entries)
		}
	}
}

func TestLocked(t *testing.T) {
	dir := newStore(t)
	s, err := Open(dir, quiet)
	ok(t, err)
	if err := openError(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
	ok(t, Check(dir))
	ok(t, s.Close())
	s, err = Open(dir, quiet)
	ok(t, err)
	ok(t, s.Close())
}

// A store that does not open gives its lock back.
func TestLockIsGivenBack(t *testing.T) {
	dir := newStore(t)
	write(t, filepath.Join(dir, "index"), "a file, not a directory")
	for range 2 {
		if err := openError(dir); errors.Is(err, ErrLocked) || strings.Contains(err.Error(), "opened") {
			t.Errorf("%v", err)
		}
	}
	ok(t, os.Remove(filepath.Join(dir, "index")))
	s, err := Open(dir, quiet)
	ok(t, err)
	ok(t, s.Close())
}

// Of many who open a store at once, one has it.
func TestOpenRace(t *testing.T) {
	dir := newStore(t)
	var holding, opened atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				s, err := Open(dir, quiet)
				if errors.Is(err, ErrLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				opened.Add(1)
				if holding.Add(1) != 1 {
					t.Error("two have the store")
				}
				holding.Add(-1)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if opened.Load() == 0 {
		t.Error("nobody had it")
	}
}

// What a process that was killed has left in tmp goes; blobs and names stay.
func TestOpenAgain(t *testing.T) {
	dir := newStore(t)
	s, err := Open(dir, quiet)
	ok(t, err)
	ok(t, s.Index.Create("v1"))
	content := []byte("blob")
	d := digest.FromBytes(content)
	w, err := s.Blobs.NewWriter()
	ok(t, err)
	_, err = w.File().Write(content)
	ok(t, err)
	_, err = w.Commit(d)
	ok(t, err)
	probe, err := s.Probe()
	ok(t, err)
	ok(t, probe.Close())
	ok(t, s.Close())
	write(t, filepath.Join(dir, "tmp", "left"), "half")
	s, err = Open(dir, quiet)
	ok(t, err)
	defer s.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp", "*", "*")); len(left) > 0 {
		t.Errorf("left pending: %v", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "tmp", "left")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left in tmp: %v", err)
	}
	if _, err := s.Blobs.Stat(d); err != nil {
		t.Error(err)
	}
	if all, err := s.Index.Releases(); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

// A store on a disk that cannot be written to is an error that says so.
func TestReadOnly(t *testing.T) {
	dir := newStore(t)
	s, err := Open(dir, quiet)
	ok(t, err)
	ok(t, s.Close())
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("NOT TESTED: needs root's rights to mount: %v", err)
	}
	defer func() { ok(t, syscall.Unmount(dir, 0)) }()
	ok(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	ok(t, Check(dir))
	if err := openError(dir); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("open: %v", err)
	}
	if err := Init(filepath.Join(dir, "new")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("init: %v", err)
	}
}

// Where others can write to the store's directory, or exchange it, the log says
// so; else it says nothing.
func TestOthersMayWrite(t *testing.T) {
	for _, c := range []struct {
		store, above os.FileMode
		says         string
	}{
		{0o700, 0o755, ""},
		{0o700, 0o777 | os.ModeSticky, ""},
		{0o770, 0o755, "chmod 0700 it"},
		{0o700, 0o777, "chmod o-w the one above"},
	} {
		dir := newStore(t)
		ok(t, os.Chmod(dir, c.store))
		ok(t, os.Chmod(filepath.Dir(dir), c.above))
		var log strings.Builder
		s, err := Open(dir, slog.New(slog.NewTextHandler(&log, nil)))
		ok(t, err)
		ok(t, s.Close())
		if c.says == "" && log.Len() > 0 || !strings.Contains(log.String(), c.says) {
			t.Errorf("%v in %v: the log says %q", c.store, c.above, log.String())
		}
	}
}

// What a new index is made of is read when nobody else can change it.
func TestRenewReadsUnderLock(t *testing.T) {
	dir := newStore(t)
	read := errors.New("read")
	_, err := Renew(dir, func() (uint64, error) {
		if _, err := Open(dir, quiet); !errors.Is(err, ErrLocked) {
			t.Errorf("another process opens it: %v", err)
		}
		return 0, read
	}, quiet)
	if !errors.Is(err, read) {
		t.Errorf("got %v", err)
	}
}

// A hold is there as long as its process. Among the holds nothing else is
// touched, nor is anything where a link leads.
func TestHolds(t *testing.T) {
	dir := newStore(t)
	s, err := Open(dir, quiet)
	ok(t, err)
	defer s.Close()
	held := func() []Held {
		t.Helper()
		all, err := s.Held()
		ok(t, err)
		return all
	}
	if all := held(); len(all) != 0 {
		t.Errorf("nobody holds anything, but %v", all)
	}
	one := digest.FromString("one")
	h, err := NewHold(dir, "an export")
	ok(t, err)
	if all := held(); len(all) != 1 || all[0].Why != "an export" || !all[0].All {
		t.Errorf("held: %+v", all)
	}
	ok(t, h.Only([]digest.Digest{one}))
	at := filepath.Join(dir, holds)
	dead := filepath.Join(at, "dead")
	ok(t, os.WriteFile(dead, []byte("killed\n"), 0o600))
	ok(t, os.Symlink(filepath.Join(dir, formatFile), filepath.Join(at, "link")))
	ok(t, os.MkdirAll(filepath.Join(at, "directory/in it"), 0o700))
	ok(t, syscall.Mkfifo(filepath.Join(at, "fifo"), 0o600))
	if all := held(); len(all) != 1 || all[0].All || len(all[0].Blobs) != 1 || all[0].Blobs[0] != one {
		t.Errorf("held: %+v", all)
	}
	if _, err := os.Lstat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead process's hold: %v", err)
	}
	ok(t, h.Close())
	if all := held(); len(all) != 0 {
		t.Errorf("held: %+v", all)
	}

	ok(t, os.RemoveAll(at))
	elsewhere := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(elsewhere, "file"), nil, 0o600))
	ok(t, os.Symlink(elsewhere, at))
	if _, err := s.Held(); !errors.Is(err, syscall.ELOOP) && !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a link: %v", err)
	}
	if h, err := NewHold(dir, "an export"); err == nil {
		t.Error("a hold is made where a link leads")
		ok(t, h.Close())
	}
	if _, err := os.Lstat(filepath.Join(elsewhere, "file")); err != nil {
		t.Errorf("where the link leads: %v", err)
	}
}
