package mounttest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/mounttest"
)

// lookupsVariable is how many repositories TestLookupFlood asks in, with the
// bound that mounts have; unset, it is 20,000 with a smaller one.
const lookupsVariable = "MOUNTTEST_LOOKUPS"

// TestLookupFlood asks for a blob that is not there in ever new repositories, as
// anybody can who may ask the registry. The server's memory does not grow with
// it; without the bound it does, or the test shows nothing.
func TestLookupFlood(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector remembers who has read what, and that grows; run it without: the second stage of make test does")
	}
	if n, err := strconv.Atoi(os.Getenv(lookupsVariable)); err == nil {
		if grown := flood(t, n, ""); grown > 200<<20 {
			t.Errorf("%d MiB after %d lookups", grown>>20, n)
		}
		return
	}
	const lookups = 20_000
	const limit = 24 << 20
	if grown := flood(t, lookups, "MOUNTTEST_NODES=1000"); grown > limit {
		t.Errorf("%d MiB after %d lookups", grown>>20, lookups)
	}
	if grown := flood(t, lookups, "MOUNTTEST_NODES=1000000"); grown <= limit {
		t.Errorf("the control: only %d MiB without a bound", grown>>20)
	}
}

// flood returns by how many bytes the server has grown at most.
func flood(t *testing.T, lookups int, env string) (grown int64) {
	t.Helper()
	s := startServer(t, time.Hour, env)
	dir := s.Mount(t, "flood", mounttest.ReuseStore)
	absent := digest.FromString("absent")
	before := s.memory(t)
	for i := range lookups {
		name := filepath.Join(dir, layout.LayerLinkPath(fmt.Sprintf("flood/r%d", i), absent))
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			grown = max(grown, s.memory(t)-before)
		}
	}
	t.Logf("%d lookups, %s: from %d MiB to %d MiB at most, %d MiB at the end", lookups, env, before>>20, (before+grown)>>20, s.memory(t)>>20)
	return grown
}

// memory is what the server has in memory, in bytes.
func (s *server) memory(t *testing.T) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
