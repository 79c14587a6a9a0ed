package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An Environment is what a run was made on.
type Environment struct {
	Date       string `json:"date"`
	Processor  string `json:"processor"`
	Processors int    `json:"processors"` // that the run may use
	Memory     int64  `json:"memory"`     // bytes
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"` // of the directory that is measured
	Regfs      string `json:"regfs"`
	Registry   string `json:"registry"`
	Go         string `json:"go"` // that the load generator is built with
}

func environment(ctx context.Context, o Options, dir string) Environment {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return Environment{
		Date:       time.Now().UTC().Format(time.DateOnly),
		Processor:  processor(),
		Processors: runtime.GOMAXPROCS(0),
		Memory:     int64(info.Totalram) * int64(info.Unit),
		Kernel:     unix.ByteSliceToString(uts.Release[:]),
		FileSystem: fileSystem(dir),
		Regfs:      describe(ctx, o.Program, "version"),
		Registry:   registryVersion(describe(ctx, o.Registry, "--version")),
		Go:         runtime.Version(),
	}
}

// registryVersion leaves out by which path the program was called.
func registryVersion(text string) string {
	if fields := strings.Fields(text); len(fields) > 1 {
		return strings.Join(fields[1:], " ")
	}
	return text
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// fileSystem returns the type of the file system that a directory lies on.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.FUSE_SUPER_MAGIC: "fuse",
	}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("of type %#x", st.Type)
}

// String is the environment in one paragraph.
func (e Environment) String() string {
	return fmt.Sprintf("%s: %s, %d processors, %d GB of memory, Linux %s, %s; %s; registry %s; load generator %s",
		e.Date, e.Processor, e.Processors, e.Memory>>30, e.Kernel, e.FileSystem, e.Regfs, e.Registry, e.Go)
}
