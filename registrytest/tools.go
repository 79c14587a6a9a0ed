package registrytest

import (
	"os"
	"os/exec"
	"path/filepath"
)

// A Version names a stock registry.
type Version string

const (
	V28 Version = "2.8" // Debian's docker-registry, 2.8.2
	V31 Version = "3.1" // the distribution module's registry, 3.1.2
)

// Versions are all that there are, the oldest first.
var Versions = []Version{V28, V31}

// binary is the name of the registry's program.
func (v Version) binary() string {
	if v == V28 {
		return "docker-registry"
	}
	return "registry"
}

// RegistryProgram returns the path of a registry's program, for what starts it
// by itself.
func RegistryProgram(t TB, v Version) string {
	t.Helper()
	return findTool(t, v.binary())
}

// findTool returns the path of a program. A test without it is skipped, and
// fails where REGFS_REQUIRE_TOOLS=1 says that nothing may be missing.
func findTool(t TB, name string) string {
	t.Helper()
	if path := lookTool(name); path != "" {
		return path
	}
	const missing = "NOT TESTED: %s not found in $REGFS_TOOLS, .cache/tools or $PATH; run: make deps"
	if os.Getenv("REGFS_REQUIRE_TOOLS") == "1" {
		t.Fatalf(missing, name)
	}
	t.Skipf(missing, name)
	return ""
}

// lookTool looks where scripts/build-tools puts programs, then in $PATH.
func lookTool(name string) string {
	if path, err := exec.LookPath(filepath.Join(toolsDir(), name)); err == nil {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return ""
}

func toolsDir() string {
	if dir := os.Getenv("REGFS_TOOLS"); dir != "" {
		return dir
	}
	return filepath.Join(moduleRoot(), ".cache", "tools")
}

// moduleRoot is the nearest directory upwards that holds a go.mod: tests run
// in their package's directory.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
