package index

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// smallDisk mounts a disk of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("NOT TESTED: a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func allocated(t *testing.T, pattern string) int64 {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v", pattern, err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(found[len(found)-1], &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func fillDisk(t *testing.T, dir string) (drain func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for size := len(zeros); size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(zeros[:size])
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() { _ = os.Remove(name) }
}

// The index can be opened, read and closed on a disk that is full to its last
// block, again and again, and takes changes when it is not.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(smallDisk(t, "300M"), "index")
	db, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Create("v1"); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, filepath.Join(dir, "*.mem")); got < logSize {
		t.Errorf("the log has %d bytes of blocks", got)
	}
	if got := allocated(t, filepath.Join(dir, ballastFile)); got != ballastSize {
		t.Errorf("the ballast has %d bytes of blocks", got)
	}
	drain := fillDisk(t, filepath.Dir(dir))
	for range 5 {
		if err := db.Create("v2"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("full: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if db, err = Open(dir, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if all, err := db.Releases(); err != nil || len(all) != 1 {
			t.Errorf("releases: %v, %v", all, err)
		}
		fillDisk(t, filepath.Dir(dir)) // what it has left to others
	}
	select {
	case err := <-db.Broken():
		t.Errorf("broken by a full disk: %v", err)
	default:
	}
	drain()
	if err := db.Create("v2"); err != nil {
		t.Errorf("there is space: %v", err)
	}
	if err := db.Create("v3"); err != nil { // after which all is done that follows the change before
		t.Error(err)
	}
	if got := allocated(t, filepath.Join(dir, ballastFile)); got != ballastSize {
		t.Errorf("the ballast has %d bytes of blocks", got)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// A full disk takes the changes by which room is made, as far as the log goes.
func TestRemovalOnFullDisk(t *testing.T) {
	dir := filepath.Join(smallDisk(t, "300M"), "index")
	db, err := Open(dir, slog.New(slog.DiscardHandler))
	ok(t, err)
	for name, dirs := range map[string]int{"small": 3_000, "large": 60_000} {
		ok(t, db.Create(name))
		r, err := db.Open(name)
		ok(t, err)
		for i := range dirs {
			ok(t, r.AddDir(fmt.Sprintf("docker/registry/v2/repositories/some/where/%06d", i)))
		}
		ok(t, r.Sync())
		r.Close()
	}
	r, err := db.Open("small")
	ok(t, err)
	ok(t, r.LinkLayer("app", dg("l")))
	r.Close()
	ok(t, db.Close()) // a server that is started has a new log
	db, err = Open(dir, slog.New(slog.DiscardHandler))
	ok(t, err)
	fillDisk(t, filepath.Dir(dir))
	ok(t, db.RemoveBlobs(markOf(t, db), []digest.Digest{dg("l")}))
	if err := db.Create("v2"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("another change: %v", err)
	}
	waitWorking(t, db)
	ok(t, db.RemoveRelease(t.Context(), "small", noClean))
	if err := db.RemoveRelease(t.Context(), "large", noClean); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than the log holds: %v", err)
	}
	ok(t, db.Close())
	db, err = Open(dir, slog.New(slog.DiscardHandler))
	ok(t, err)
	ok(t, db.Verify(t.Context()))
	all, err := db.Releases()
	ok(t, err)
	equal(t, "releases", len(all), 0)
	ok(t, db.Close())
}

// A disk without any room is an error, and no signal.
func TestNoRoomToOpen(t *testing.T) {
	dir := filepath.Join(smallDisk(t, "300M"), "index")
	db, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, ballastFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Dir(dir))
	if _, err := Open(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
}

// Who has only read an index needs no room to close it.
func TestNoRoomToClose(t *testing.T) {
	dir := filepath.Join(smallDisk(t, "300M"), "index")
	db, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, ballastFile), 0); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Dir(dir))
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestBreakage(t *testing.T) {
	b := newBreakage()
	b.note(nil)
	b.note(&refusal{"low", syscall.ENOSPC})
	b.note(broken("damage"))
	select {
	case err := <-b.why:
		t.Errorf("broken by %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	b.note(syscall.EIO)
	b.note(syscall.EROFS)
	if err := <-b.why; err != syscall.EIO {
		t.Errorf("%v", err)
	}
}
