package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A place is a kind of storage. Open makes the directory for the n-th push
// below dir, and says how to end it; what was pushed before is there.
type place struct {
	name, title string
	open        func(dir string, n int) (root string, end func() error, err error)
}

var places = []place{
	{"plain", "plain directory", openPlain},
	{"overlayfs", "kernel overlayfs", openOverlay},
	{"regfs", "regfs mount", openRegfs},
}

// openPlain takes the same directory again, without its _manifests: clients
// find the blobs and send the manifests.
func openPlain(dir string, _ int) (string, func() error, error) {
	root := filepath.Join(dir, "data")
	err := os.MkdirAll(root, 0o755)
	return root, func() error { return nil }, cmp.Or(err, dropManifests(root))
}

// openOverlay puts the second push over the first, as the pipeline does that
// regfs replaces: without _manifests, so that no tag of history is left.
func openOverlay(dir string, n int) (string, func() error, error) {
	sub := func(name string) string { return filepath.Join(dir, fmt.Sprint(name, n)) }
	lower := filepath.Join(dir, "empty")
	if n > 0 {
		lower = filepath.Join(dir, fmt.Sprint("upper", n-1))
	}
	root := sub("merged")
	for _, d := range []string{lower, sub("upper"), sub("work"), root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", nil, err
		}
	}
	opts := "lowerdir=" + lower + ",upperdir=" + sub("upper") + ",workdir=" + sub("work")
	if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
		return "", nil, fmt.Errorf("mount overlay: %w", err)
	}
	end := func() error { return unix.Unmount(root, 0) }
	if err := dropManifests(root); err != nil {
		return "", nil, errors.Join(err, end())
	}
	return root, end, nil
}

func dropManifests(root string) error {
	return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && e.Name() == "_manifests" {
			err = os.RemoveAll(path)
			return cmp.Or(err, filepath.SkipDir)
		}
		return err
	})
}

// openRegfs mounts a new release of one store.
func openRegfs(dir string, n int) (string, func() error, error) {
	store, root, release := filepath.Join(dir, "store"), filepath.Join(dir, fmt.Sprint("mnt", n)), fmt.Sprint("v1.", n)
	commands := [][]string{{"release", "create", release}, {"mount", release, root, "--detach"}}
	if n == 0 {
		commands = append([][]string{{"init"}}, commands...)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", nil, err
	}
	for _, args := range commands {
		if err := regfs(store, args...); err != nil {
			return "", nil, err
		}
	}
	return root, func() error { return regfs(store, "umount", root) }, nil
}

func regfs(store string, args ...string) error {
	program := os.Getenv("REGFS")
	if program == "" {
		program = "bin/regfs"
	}
	log, err := os.CreateTemp("", "regfs-log-") // no pipe: a server would hold it open
	if err != nil {
		return err
	}
	defer log.Close()
	if err := os.Remove(log.Name()); err != nil {
		return err
	}
	cmd := exec.Command(program, append([]string{"--store", store}, args...)...)
	cmd.Stderr = log
	if err := cmd.Run(); err != nil {
		text := make([]byte, 4096)
		n, _ := log.ReadAt(text, 0)
		return fmt.Errorf("regfs %s: %w\n%s", strings.Join(args, " "), err, text[:n])
	}
	return nil
}

// environment describes what is measured on, for the table.
func environment() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	version, _ := exec.Command(os.Getenv("REGFS"), "version").Output()
	return fmt.Sprintf("%s: %s, %d processors, %d GB of memory, Linux %s; %s", time.Now().Format(time.DateOnly), cpu, processors(),
		info.Totalram*uint64(info.Unit)>>30, unix.ByteSliceToString(uts.Release[:]), strings.TrimSpace(string(version)))
}

func processors() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0
	}
	return set.Count()
}
