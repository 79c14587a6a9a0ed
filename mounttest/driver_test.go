package mounttest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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
	if dir := os.Getenv(driverVariable); dir != "" {
		driver(t, dir)
		runtime.GC() // closes the readers that the suite leaves open
		return
	}
	s := startServer(t, 5*time.Minute)
	dir := s.Mount(t, "driver", mounttest.ReuseStore)
	cmd := exec.CommandContext(t.Context(), withoutRaceDetector(t), "-test.run=^TestDriverOnMount$", "-test.v")
	cmd.Env = append(os.Environ(), driverVariable+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestDriverOnMount/TestConcurrentFileStreams")) {
		t.Errorf("%v\n%s", err, tail(string(out), 4000))
	}
}

// driverVariable names the directory to the process that runs the suite.
const driverVariable = "MOUNTTEST_DRIVER"

// withoutRaceDetector returns this test's program, built without the race
// detector if it has it. The suite hashes some hundred megabytes, and its own
// races are distribution's affair; what serves it has the detector.
func withoutRaceDetector(t *testing.T) string {
	t.Helper()
	if !raceDetector {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		return self
	}
	path := filepath.Join(t.TempDir(), "mounttest")
	if out, err := exec.Command("go", "test", "-c", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return path
}
