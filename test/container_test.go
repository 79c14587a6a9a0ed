package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// podman's flags for a machine without systemd and with low limits.
var podmanFlags = []string{
	"--runtime", "runc", "--cgroup-manager=cgroupfs",
}

// A podman keeps images and containers in a directory of the test's.
type podman struct {
	t   *testing.T
	dir string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	for _, tool := range []string{"podman", "buildah", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			cannot(t, "%s is not installed; run: make deps", tool)
		}
	}
	if os.Geteuid() != 0 {
		cannot(t, "a container with a mount in it needs root")
	}
	dir, err := os.MkdirTemp("", "p") // t.TempDir is too long: podman takes 50 characters
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t, dir}
	t.Cleanup(func() { _ = os.RemoveAll(p.dir) })
	return p
}

// cannot skips a test loudly, or fails it where nothing may be missing.
func cannot(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("REGFS_REQUIRE_TOOLS") == "1" {
		t.Fatalf("NOT TESTED: "+format, args...)
	}
	t.Skipf("NOT TESTED: "+format, args...)
}

func (p *podman) storage() []string {
	return []string{"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--storage-driver", "vfs"}
}

func (p *podman) podman(args ...string) result {
	p.t.Helper()
	all := append(append(p.storage(), podmanFlags...), args...)
	return runProgram(p.t, nil, "podman", all...)
}

func (p *podman) buildah(args ...string) string {
	p.t.Helper()
	return strings.TrimSpace(command(p.t, "buildah", append(p.storage(), args...)...))
}

// registryImage makes an image from scratch: registry 3.1 and the libraries
// that it is linked with.
func (p *podman) registryImage() string {
	p.t.Helper()
	tools := os.Getenv("REGFS_TOOLS")
	if tools == "" {
		tools = "../.cache/tools"
	}
	binary := filepath.Join(tools, "registry")
	if _, err := os.Stat(binary); err != nil {
		cannot(p.t, "%v; run: make tools", err)
	}
	c := p.buildah("from", "scratch")
	p.buildah("copy", "--chmod", "0755", c, binary, "/registry")
	libraries := runProgram(p.t, nil, "ldd", binary).stdout // fails for a static one, which has none
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(libraries, -1) {
		p.buildah("copy", c, m[1], m[1])
	}
	p.buildah("config", "--entrypoint", `["/registry","serve","/config.yml"]`, c)
	p.buildah("commit", "-q", c, "registry:test")
	return "registry:test"
}

// TestContainer runs a registry in a container, as another user than the one
// who mounts.
func TestContainer(t *testing.T) {
	p := newPodman(t)
	image := p.registryImage()
	releases := synthetic(t)
	s := newStore(t, "v1.0")
	m := s.mount(t, "v1.0", "--uid", "1000", "--gid", "1000", "--file-mode", "0640", "--dir-mode", "0750")

	addr := freeAddr(t)
	config := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, config, fmt.Appendf(nil, "version: 0.1\nlog: {level: warn}\nstorage: {delete: {enabled: true}, filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: %q}\n", addr))
	started := p.podman("run", "--detach", "--name", "registry", "--network", "host", "--user", "1000:1000",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--env", "OTEL_TRACES_EXPORTER=none",
		"--volume", m.dir+":/var/lib/registry", "--volume", config+":/config.yml:ro", image)
	t.Cleanup(func() { p.podman("rm", "--force", "--time", "5", "registry") })
	if started.code != 0 {
		cannot(t, "podman run: exit code %d\n%s", started.code, started.stderr)
	}
	url := "http://" + addr
	client := newHTTPClient(t)
	answers := func() bool {
		resp, err := client.Get(url + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}
	if !within(30*time.Second, answers) {
		logs := p.podman("logs", "registry")
		t.Fatalf("the registry in the container does not answer:\n%s%s", logs.stdout, logs.stderr)
	}
	t.Run("M10 push and pull", func(t *testing.T) {
		for _, image := range releases[0].Images {
			registrytest.Skopeo(t, "copy", "--all", "--preserve-digests", "--dest-tls-verify=false",
				"oci:"+releases[0].Dir+":"+image.Ref(), "docker://"+addr+"/"+image.Ref())
		}
		if err := imagetest.Verify(t.Context(), client, url, releases[0]); err != nil {
			t.Error(err)
		}
	})
	t.Run("M10 owner and modes", func(t *testing.T) {
		out := command(t, "find", m.dir, "-mindepth", "1", "-printf", "%y %U %G %m\n")
		kinds := map[string]bool{}
		for line := range strings.Lines(out) {
			kinds[strings.TrimSpace(line)] = true
		}
		for kind := range kinds {
			if kind != "f 1000 1000 640" && kind != "d 1000 1000 750" && !strings.HasSuffix(kind, " 1000 1000 755") {
				t.Errorf("found %q", kind)
			}
		}
	})
	t.Run("Export while the container runs", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "v1.0.tar")
		s.must(t, "export", "v1.0", "-o", file)
		sameSet(t, "v1.0.tar", dumpTar(t, file).files(), closureOf(t, releases[0]).dump())
	})
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return l.Addr().String()
}
