package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/regfs/regfs/imagetest"
)

// What all tests share: the program, and a directory that goes with the run.
var (
	program string
	shared  string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "regfs-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared = dir
	if program, err = findProgram(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer report.print(os.Stdout)
	return m.Run()
}

// findProgram returns $REGFS, or builds the program as users have it.
func findProgram(dir string) (string, error) {
	if path := os.Getenv("REGFS"); path != "" {
		return filepath.Abs(path)
	}
	return buildProgram(filepath.Join(dir, "regfs"))
}

func buildProgram(path string, flags ...string) (string, error) {
	args := append([]string{"build", "-trimpath", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "github.com/regfs/regfs/cmd/regfs")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// withRaceDetector lets a test run the program with the race detector, if the
// tests are: one in which many things happen in the program at the same time.
// With it a program starts ten times as slowly, and most tests start it often.
func withRaceDetector(t *testing.T) {
	t.Helper()
	if !raceDetector {
		return
	}
	raced, err := racedOnce()
	ok(t, err)
	plain := program
	program = raced
	t.Cleanup(func() { program = plain })
}

var racedOnce = sync.OnceValues(func() (string, error) {
	return buildProgram(filepath.Join(shared, "regfs-raced"), "-race")
})

var debianOnce = sync.OnceValues(func() ([]imagetest.Release, error) {
	return imagetest.Debian(filepath.Join(shared, "debian"), "")
})

// debian returns the releases of real images, v1.0 to v1.2.
func debian(t *testing.T) []imagetest.Release {
	t.Helper()
	releases, err := debianOnce()
	ok(t, err)
	return releases
}

var syntheticOnce = sync.OnceValues(func() ([]imagetest.Release, error) {
	s, err := imagetest.Synthetic(filepath.Join(shared, "synthetic"), imagetest.Options{Images: 6, LayerSize: 40_000})
	if err != nil {
		return nil, err
	}
	first := s.Release
	second, err := s.Next(0.3)
	return []imagetest.Release{first, second}, err
})

// synthetic returns two releases of a few small images: where it does not
// matter what is in them.
func synthetic(t *testing.T) []imagetest.Release {
	t.Helper()
	releases, err := syntheticOnce()
	ok(t, err)
	return releases
}
