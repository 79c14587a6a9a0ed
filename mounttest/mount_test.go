package mounttest_test

import (
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
	s := startServer(t, 5*time.Minute, "MOUNTTEST_NO_PASSTHROUGH=1")
	mounttest.Posix(t, s.Mount(t, "posix", mounttest.ReuseNone))
}

func TestContract(t *testing.T) {
	s := startServer(t, 8*time.Minute)
	mounttest.Contract(t, s.suite())
}

func TestContractWithoutPassthrough(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: once, with passthrough, is enough")
	}
	s := startServer(t, 8*time.Minute, "MOUNTTEST_NO_PASSTHROUGH=1")
	mounttest.Contract(t, s.suite())
}

func (s *server) suite() mounttest.Mounts {
	return mounttest.Mounts{Mount: s.Mount, Unmount: s.Unmount, Log: s.log.String, Store: s.store}
}
