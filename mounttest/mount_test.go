package mounttest_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/regfs/regfs/mounttest"
)

// What fails here is a wrong test.
func TestPosixOnPlainDirectory(t *testing.T) { mounttest.Posix(t, t.TempDir()) }

func TestPosixOnMount(t *testing.T) {
	s := startServer(t, 5*time.Minute)
	mounttest.Posix(t, s.Mount(t, "posix", mounttest.ReuseStore))
}

// TestPosixOtherwise: without passthrough, and with nothing to reuse.
func TestPosixOtherwise(t *testing.T) {
	long(t)
	s := startServer(t, 5*time.Minute, "MOUNTTEST_NO_PASSTHROUGH=1")
	mounttest.Posix(t, s.Mount(t, "posix", mounttest.ReuseNone))
}

func TestContract(t *testing.T) {
	s := startServer(t, 8*time.Minute)
	mounttest.Contract(t, s.suite())
}

// long leaves a test out of a short run, in which each suite runs once, on the
// mount as it is used most.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: run without it to see this, too")
	}
}

func TestContractWithoutPassthrough(t *testing.T) {
	long(t)
	s := startServer(t, 8*time.Minute, "MOUNTTEST_NO_PASSTHROUGH=1")
	mounttest.Contract(t, s.suite())
}

// TestForgetful: where the kernel is told again and again to forget what it has
// looked up, nothing else is different.
func TestForgetful(t *testing.T) {
	long(t)
	s := startServer(t, 10*time.Minute, "MOUNTTEST_NODES=16")
	mounttest.Posix(t, s.Mount(t, "posix", mounttest.ReuseStore))
	mounttest.Contract(t, s.suite())
}

func TestPosixOnOverlay(t *testing.T) {
	long(t)
	s := startServer(t, 5*time.Minute)
	mounttest.Posix(t, s.MountOverlay(t, "posix", mounttest.ReuseRepository))
}

// TestContractOnOverlay is, in a short run, about many files only: under the race
// detector there are fewer of them.
func TestContractOnOverlay(t *testing.T) {
	s := startServer(t, 8*time.Minute)
	if testing.Short() {
		mounttest.Scale(t, s.overlaySuite())
		return
	}
	mounttest.Contract(t, s.overlaySuite())
}

func TestOverlay(t *testing.T) {
	s := startServer(t, 5*time.Minute)
	mounttest.Overlay(t, s.overlaySuite(), s.suite())
}

// exceptedVariable lets TestExcepted do what is expected to fail.
const exceptedVariable = "MOUNTTEST_EXCEPTED"

// Clauses that fail only after many waits for what does not come, or by a signal.
// What holds instead is O4_refused.
var slowToFail = []string{"M5_mismatch", "M6_rewritten_under_readers"}

// A clause that holds by chance: the disk may give a new directory the inode
// number of one that has just gone.
var byChance = []string{"M9_plain_files_last"}

// TestExcepted sees to it that each clause that is said not to hold on overlayfs
// does not. It runs them in a process of its own, as they must fail.
func TestExcepted(t *testing.T) {
	long(t)
	needMount(t)
	exceptions := maps.Clone(mounttest.OverlayExceptions)
	for _, name := range slices.Concat(slowToFail, byChance) {
		delete(exceptions, name)
	}
	if os.Getenv(exceptedVariable) != "" {
		m := startServer(t, 2*time.Minute).overlaySuite()
		m.Except, m.Patience = exceptions, time.Second
		mounttest.Excepted(t, m)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestExcepted$", "-test.v")
	cmd.Env = append(os.Environ(), exceptedVariable+"=1")
	out, _ := cmd.CombinedOutput()
	for name, why := range exceptions {
		if !bytes.Contains(out, []byte("--- FAIL: TestExcepted/"+name+" (")) {
			t.Errorf("%s is said not to hold on overlayfs (%s), but does", name, why)
		}
	}
	if t.Failed() {
		t.Logf("%s", tail(string(out), 4000))
	}
}

func (s *server) overlaySuite() mounttest.Mounts {
	m := s.suite()
	m.Mount, m.Except = s.MountOverlay, mounttest.OverlayExceptions
	return m
}

func (s *server) suite() mounttest.Mounts {
	return mounttest.Mounts{Mount: s.Mount, Unmount: s.Unmount, Log: s.log.String, Store: s.store, Slow: raceDetector}
}
