package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A disk is a file system in a file, mounted until the test ends.
type disk struct {
	t                   *testing.T
	image, dir, options string
}

func newDisk(t *testing.T, kind string) *disk {
	t.Helper()
	return newDiskOf(t, kind, 600<<20)
}

func newDiskOf(t *testing.T, kind string, size int64) *disk {
	t.Helper()
	needed(t, "mkfs."+kind, "xfs_io", "mount", "umount")
	d := &disk{t, filepath.Join(t.TempDir(), kind+".img"), filepath.Join(t.TempDir(), kind), "loop"}
	if kind == "ext4" {
		// Without it, ext4 writes out what was truncated and then closed, which
		// hides a sync that is missing.
		d.options = "loop,noauto_da_alloc"
	}
	ok(t, os.WriteFile(d.image, nil, 0o600))
	ok(t, os.Truncate(d.image, size))
	ok(t, os.Mkdir(d.dir, 0o700))
	command(t, "mkfs."+kind, "-q", d.image)
	t.Cleanup(func() {
		if isMounted(d.dir) {
			d.unmount()
		}
	})
	d.mount()
	return d
}

// needed skips a test that cannot run here, or fails it where all must.
func needed(t *testing.T, tools ...string) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root's rights"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool
		}
	}
	switch {
	case missing == "":
	case os.Getenv("REGFS_REQUIRE_TOOLS") == "1":
		t.Fatalf("NOT TESTED: %s is missing", missing)
	default:
		t.Skipf("NOT TESTED: %s is missing", missing)
	}
}

func (d *disk) mount() {
	d.t.Helper()
	command(d.t, "mount", "-o", d.options, d.image, d.dir)
}

// unmount waits for those who have just been killed to let go of the disk. The
// loop device goes with the mount.
func (d *disk) unmount() {
	d.t.Helper()
	var out []byte
	var err error
	if within(10*time.Second, func() bool { out, err = exec.Command("umount", d.dir).CombinedOutput(); return err == nil }) {
		return
	}
	d.t.Errorf("umount %s: %v: %s", d.dir, err, out)
	_ = syscall.Unmount(d.dir, syscall.MNT_DETACH)
}

// losePower: from one moment on, nothing reaches the disk. end ends whoever
// uses it; then it comes back, with what had reached it.
func (d *disk) losePower(end func()) {
	d.t.Helper()
	command(d.t, "xfs_io", "-x", "-c", "shutdown", d.dir)
	end()
	d.unmount()
	d.mount()
}

func (d *disk) newStore(t *testing.T, name string) store {
	t.Helper()
	return newStoreAt(t, filepath.Join(d.dir, name), "v1")
}
