package registrytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Skopeo runs skopeo and returns what it printed; it fails the test if skopeo
// fails. It takes any image unsigned, tries nothing twice, and keeps its
// caches and passwords in the test's own directory. What it needs to reach a
// registry is [Registry.SkopeoFlags].
func Skopeo(t TB, args ...string) string {
	t.Helper()
	out, err := TrySkopeo(t, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// TrySkopeo is [Skopeo] for a call that may fail. It may be called by several
// goroutines at once.
func TrySkopeo(t TB, args ...string) (string, error) {
	t.Helper()
	dir := clientDir(t)
	args = append([]string{"--insecure-policy", "--tmpdir", dir}, args...)
	return runClient(t, "skopeo", args,
		"HOME="+dir,
		"XDG_RUNTIME_DIR="+dir,
		"XDG_DATA_HOME="+dir,
		"REGISTRY_AUTH_FILE="+filepath.Join(dir, "auth.json"),
		// Root's cache of where blobs were seen is under /var/lib, others'
		// under XDG_DATA_HOME. It makes skopeo ask for mounts across
		// repositories, so it must not reach from one test into another.
		"_CONTAINERS_ROOTLESS_UID=1",
	)
}

// SkopeoFlags returns the flags by which skopeo reaches the registry: prefix is
// "src" or "dest" for copy and sync, empty for commands with one image.
func (r *Registry) SkopeoFlags(prefix string) []string {
	flag := func(name, value string) string {
		if prefix != "" {
			name = prefix + "-" + name
		}
		return "--" + name + "=" + value
	}
	flags := []string{flag("tls-verify", "false")}
	if r.options.TLS {
		flags = []string{flag("cert-dir", certDir(r.dir))}
	}
	if r.options.Htpasswd {
		flags = append(flags, flag("creds", User+":"+Password))
	}
	return flags
}

// Crane runs crane, which takes plain http and any certificate, and returns
// what it printed; it fails the test if crane fails. A registry with a
// password needs [Registry.CraneLogin] first.
func Crane(t TB, args ...string) string {
	t.Helper()
	out, err := TryCrane(t, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// TryCrane is [Crane] for a call that may fail.
func TryCrane(t TB, args ...string) (string, error) {
	t.Helper()
	dir := clientDir(t)
	return runClient(t, "crane", append([]string{"--insecure"}, args...), "HOME="+dir, "DOCKER_CONFIG="+dir)
}

// CraneLogin leaves the registry's password where the test's crane finds it.
func (r *Registry) CraneLogin(t TB) {
	t.Helper()
	Crane(t, "auth", "login", r.addr, "-u", User, "-p", Password)
}

// runClient runs a program in our environment with some of it replaced, and
// returns its standard output and error together.
func runClient(t TB, name string, args []string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(findTool(t, name), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// clientDirs holds a directory for each test that has run a client.
var clientDirs sync.Map // TB to func() string

// clientDir returns the test's directory for its clients, which is the same
// for all its calls and goes when it ends.
func clientDir(t TB) string {
	t.Helper()
	made, known := clientDirs.LoadOrStore(t, sync.OnceValue(t.TempDir))
	if !known {
		t.Cleanup(func() { clientDirs.Delete(t) })
	}
	return made.(func() string)()
}
