package test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/regfs/regfs/bench"
	"github.com/regfs/regfs/registrytest"
)

// benchSizes are so small that nothing is learnt from the figures.
var benchSizes = bench.Sizes{
	Images: 3, Layers: 2, LayerSize: 2000, Repeat: 1, Releases: 2, Known: 2, BlobSize: 1 << 20,
	ExportBlob: 100_000, ExportBlobs: 2, CloneBlobs: 2, ScaleReleases: 2, ScaleImages: 3,
}

func benchOptions(t *testing.T) bench.Options {
	t.Helper()
	return bench.Options{
		Program: program, Registry: registrytest.RegistryProgram(t, registrytest.V31),
		Dir: t.TempDir(), Rounds: 1, Sizes: benchSizes, Progress: io.Discard,
	}
}

// TestBench runs all of the bench. It compares what each workload has made with
// the release by itself; here it is to be complete, and to leave nothing.
func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: run without it to see that the bench measures")
	}
	needRoot(t)
	o := benchOptions(t)
	o.Workloads = slices.DeleteFunc(bench.Workloads(), func(w string) bool { return w == "clone" }) // which needs gigabytes
	report, err := bench.Run(t.Context(), o)
	ok(t, err)
	measured := make(map[string]bool)
	for _, s := range report.Samples {
		if s.Value < 0 {
			t.Errorf("%s of %s: %v", s.Workload, s.Subject, s.Value)
		}
		measured[s.Workload+" "+s.Subject] = true
	}
	for _, want := range []string{
		"push plain", "push overlayfs", "push fuse", "known overlayfs", "known fuse", "pull plain", "pull fuse",
		"list fuse", "catalog fuse", "read plain", "read fuse", "write plain", "write fuse",
		"release plain", "release pipeline", "release hardlink", "release fuse", "release/collect pipeline", "release/select hardlink",
		"assemble pipeline", "assemble hardlink", "assemble fuse", "export fuse", "export cat", "export-unsynced fuse",
		"scale/open fuse", "scale/lookup-p99 fuse", "scale/memory fuse", "scale/bytes index", "scale/bytes ext4",
	} {
		if !measured[want] {
			t.Errorf("%s was not measured", want)
		}
	}
	nothingLeft(t, o.Dir)
}

// TestBenchInterrupted: it cleans up whenever it is told to end.
func TestBenchInterrupted(t *testing.T) {
	needRoot(t)
	o := benchOptions(t)
	o.Workloads = []string{"push", "release"}
	for i, after := range []time.Duration{300 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := bench.Run(ctx, o)
		// It may have been done before the last of these.
		if first := i == 0; !errors.Is(err, context.DeadlineExceeded) && (err != nil || first) {
			t.Errorf("after %v: %v, want the context's error", after, err)
		}
		cancel()
		nothingLeft(t, o.Dir)
	}
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	ok(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %s", filepath.Join(dir, left[0].Name()))
	}
}

// TestBenchCommand: what it is asked for is checked before any work.
func TestBenchCommand(t *testing.T) {
	for name, args := range map[string][]string{
		"workload": {"--workload", "push,nap"}, "subject": {"--subject", "nobody"}, "rounds": {"--rounds", "-1"},
	} {
		if r := runProgram(t, nil, program, append([]string{"bench"}, args...)...); r.code != 2 {
			t.Errorf("%s: exit code %d, want 2: %s", name, r.code, r.stderr)
		}
	}
	r := runProgram(t, nil, program, "bench", "--registry", "/no/such/registry")
	if r.code != 1 || r.stdout != "" {
		t.Errorf("no registry: exit code %d, want 1: %s", r.code, r.stderr)
	}
	r = runProgram(t, nil, program, "bench", "--render", "../bench/testdata/results.json")
	want, err := os.ReadFile("../bench/testdata/README.md")
	ok(t, err)
	if r.code != 0 || r.stdout != string(want) {
		t.Errorf("render: exit code %d, or another report: %s", r.code, r.stderr)
	}
}
