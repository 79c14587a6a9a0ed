package mounttest_test

import (
	"os"
	"runtime"
	"testing"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/testsuites"

	"github.com/regfs/regfs/mounttest"
)

// The suite by which distribution tests its own storage drivers, on the
// registry's filesystem driver.
func driver(t *testing.T, root string) {
	testsuites.Driver(t, func() (storagedriver.StorageDriver, error) {
		return filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100}), nil
	}, false)
}

// Over a minute each, most of it the suite's own: files of 128 MiB, uploads by
// byte.
func TestDriverOnPlainDirectory(t *testing.T) {
	if os.Getenv("MOUNTTEST_PLAIN_DRIVER") == "" {
		t.Skip("distribution runs this itself; MOUNTTEST_PLAIN_DRIVER=1 to see what an ordinary disk says")
	}
	driver(t, t.TempDir())
}

// On an overlay the suite sees the disk's own files.
func TestDriverOnOverlay(t *testing.T) {
	if os.Getenv("MOUNTTEST_PLAIN_DRIVER") == "" {
		t.Skip("the kernel's overlayfs is an ordinary disk to this suite; MOUNTTEST_PLAIN_DRIVER=1 to see that")
	}
	s := startServer(t, 5*time.Minute)
	driver(t, s.MountOverlay(t, "driver", mounttest.ReuseRepository))
}

func TestDriverOnMount(t *testing.T) {
	long(t)
	s := startServer(t, 5*time.Minute)
	dir := s.Mount(t, "driver", mounttest.ReuseStore)
	t.Cleanup(runtime.GC) // closes the readers that the suite leaves open
	driver(t, dir)
}
