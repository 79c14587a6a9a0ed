package test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/registrytest"
)

// What disks and machines do: they fill up, break, and run out of descriptors,
// under registries that push and pull. Each request has an end, what fails is an
// error and nothing half, and when the cause is gone all goes on.

// requestTime is what any request of a client has, whatever the disk does.
const requestTime = 20 * time.Second

// A site is a store on a disk of its own, with a release mounted and a registry
// on it.
type site struct {
	t        *testing.T
	disk     *disk
	store    store
	dir      string
	registry *registrytest.Registry
	client   *http.Client

	mu    sync.Mutex
	acked map[digest.Digest][]byte // what the registry has acknowledged
	count byte
}

const siteRepo = "team/app"

func newSite(t *testing.T, kind string, size int64, v registrytest.Version) *site {
	t.Helper()
	d := newDiskOf(t, kind, size)
	s := &site{t: t, disk: d, store: d.newStore(t, "store"), acked: map[digest.Digest][]byte{}}
	s.dir = s.store.detach(t, "v1")
	s.registry = serve(t, v, s.dir, nil)
	s.client = newHTTPClient(t)
	s.client.Timeout = requestTime
	t.Cleanup(func() {
		s.registry.Stop()
		for _, word := range []string{"panic", "goroutine ", "SIGBUS", "fatal error"} {
			if strings.Contains(s.store.log(), word) {
				t.Errorf("the server's log says %q", word)
			}
		}
	})
	return s
}

// do sends a request; one without an answer in time fails the test.
func (s *site) do(method, url string, body []byte) (status int, location string, text []byte) {
	if strings.HasPrefix(url, "/") {
		url = s.registry.URL() + url
	}
	req, err := http.NewRequest(method, url, strings.NewReader(string(body)))
	if err != nil {
		s.t.Error(err)
		return 0, "", nil
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	if strings.Contains(url, "/manifests/") {
		req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if os.IsTimeout(err) {
			s.t.Errorf("%s %s: no answer in %v", method, url, requestTime)
		}
		return 0, "", nil
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	if os.IsTimeout(err) {
		s.t.Errorf("%s %s: no end in %v", method, url, requestTime)
	}
	if err != nil {
		return 0, "", nil
	}
	return resp.StatusCode, resp.Header.Get("Location"), text
}

// blob pushes a blob and returns the last status.
func (s *site) blob(content []byte) int {
	status, location, _ := s.do("POST", "/v2/"+siteRepo+"/blobs/uploads/", nil)
	if status != http.StatusAccepted {
		return status
	}
	if strings.Contains(location, "?") {
		location += "&"
	} else {
		location += "?"
	}
	status, _, _ = s.do("PUT", location+"digest="+digest.FromBytes(content).String(), content)
	return status
}

// image pushes an image with one layer of a size, which nothing else has, and
// returns the last status. What was acknowledged is remembered.
func (s *site) image(size int) int {
	s.mu.Lock()
	s.count++
	layer := noise(s.count, size)
	s.mu.Unlock()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	for _, content := range [][]byte{layer, config} {
		if status := s.blob(content); status != http.StatusCreated {
			return status
		}
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer))
	status, _, _ := s.do("PUT", "/v2/"+siteRepo+"/manifests/"+digest.FromBytes(layer).Encoded()[:12], manifest)
	if status == http.StatusCreated {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.acked[digest.FromBytes(layer)], s.acked[digest.FromBytes(manifest)] = layer, manifest
	}
	return status
}

// pushes pushes images until one is refused, and returns how; 201 if none was.
func (s *site) pushes(n, size int) (status int) {
	for range n {
		if status = s.image(size); status != http.StatusCreated {
			return status
		}
	}
	return status
}

// pulls compares all that was acknowledged, and says what is wrong.
func (s *site) pulls() (wrong []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, content := range s.acked {
		path := "/v2/" + siteRepo + "/blobs/" + d.String()
		if content[0] == '{' {
			path = "/v2/" + siteRepo + "/manifests/" + d.String()
		}
		status, _, got := s.do("GET", path, nil)
		if status != http.StatusOK || digest.FromBytes(got) != d {
			wrong = append(wrong, fmt.Sprintf("%s: status %d, %d bytes", path, status, len(got)))
		}
	}
	return wrong
}

func (s *site) mustPull(when string) {
	s.t.Helper()
	if wrong := s.pulls(); len(wrong) > 0 {
		s.t.Errorf("%s: %v", when, first(wrong))
	}
}

func (s *site) mustPush(when string) {
	s.t.Helper()
	var status int
	if !within(requestTime, func() bool { status = s.image(100_000); return status == http.StatusCreated }) {
		s.t.Errorf("%s: a push: status %d", when, status)
	}
}

// mustNotPush wants an error of the server's kind.
func (s *site) mustNotPush(when string) {
	s.t.Helper()
	if status := s.image(100_000); status < 500 {
		s.t.Errorf("%s: a push: status %d, want 5xx", when, status)
	}
}

// fill takes the disk's space but for some bytes.
func (d *disk) fill(but uint64) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "filler"), os.O_CREATE|os.O_WRONLY, 0o600)
	ok(d.t, err)
	defer f.Close()
	for {
		free := d.free()
		if free <= but {
			return
		}
		info, err := f.Stat()
		ok(d.t, err)
		step := min(free-but, 64<<20)
		for ; step > 0; step /= 2 {
			err = unix.Fallocate(int(f.Fd()), 0, info.Size(), int64(step))
			if !errors.Is(err, unix.ENOSPC) {
				break
			}
		}
		if step < 4096 {
			return
		}
		ok(d.t, err)
	}
}

func (d *disk) drain() {
	d.t.Helper()
	ok(d.t, os.Remove(filepath.Join(d.dir, "filler")))
}

func (d *disk) free() uint64 {
	var st unix.Statfs_t
	ok(d.t, unix.Statfs(d.dir, &st))
	return st.Bavail * uint64(st.Bsize)
}

func TestDiskFull(t *testing.T) {
	for kind, version := range map[string]registrytest.Version{"ext4": registrytest.V31, "xfs": registrytest.V28} {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, kind, 400<<20, version)
			want(t, "pushes", s.pushes(3, 300_000), http.StatusCreated)
			server := s.store.server()

			s.disk.fill(90 << 20)
			var group sync.WaitGroup
			stop := make(chan struct{})
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						s.mustPull("while the disk fills up")
					}
				}
			})
			if status := s.pushes(100, 3<<20); status < 500 {
				t.Errorf("a push that fills the disk: status %d", status)
			}
			s.mustNotPush("index full")
			s.disk.fill(0)
			s.mustNotPush("disk full")
			s.store.refuses(t, failed, []string{"no space left"}, "release", "create", "v2")
			close(stop)
			group.Wait()
			want(t, "server", s.store.server(), server)
			if said := s.registry.Log() + s.store.log(); !strings.Contains(said, "no space left on device") {
				t.Error("nobody says that there is no space left")
			}

			ok(t, syscall.Kill(server, syscall.SIGKILL))
			s.store.comeBack(t, s.dir, server)
			server = s.store.server()
			s.mustPull("restored on a full disk")
			s.mustNotPush("restored on a full disk")

			s.disk.drain()
			s.mustPush("there is space again")
			want(t, "server", s.store.server(), server)
			s.mustPull("there is space again")
			if left := halfBlobs(t, s.store); len(left) > 0 {
				t.Errorf("half blobs: %v", left)
			}
		})
	}
}

// halfBlobs returns the blobs of the store that are not what their names say.
func halfBlobs(t *testing.T, s store) (half []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(string(s), v2, "blobs/*/*/*/data"))
	ok(t, err)
	for _, name := range found {
		content, err := os.ReadFile(name)
		ok(t, err)
		if hex := filepath.Base(filepath.Dir(name)); digest.FromBytes(content).Encoded() != hex {
			half = append(half, name)
		}
	}
	return half
}

// A disk that fails altogether, or may only be read any more, under load: errors
// at once, an end of the server in order, and all is there when the disk is
// back.
func TestDiskFails(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		fail       func(d *disk)
		readable   bool
	}{
		{"ext4 fails", "ext4", func(d *disk) { command(d.t, "xfs_io", "-x", "-c", "shutdown", d.dir) }, false},
		{"xfs fails", "xfs", func(d *disk) { command(d.t, "xfs_io", "-x", "-c", "shutdown", d.dir) }, false},
		{"ext4 becomes read-only", "ext4", func(d *disk) { command(d.t, "mount", "-o", "remount,abort", d.dir) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, c.kind, 400<<20, registrytest.V31)
			want(t, "pushes", s.pushes(3, 300_000), http.StatusCreated)
			stop := s.load()
			time.Sleep(200 * time.Millisecond)
			c.fail(s.disk)
			time.Sleep(200 * time.Millisecond)
			s.mustNotPush("the disk has failed")
			if c.readable {
				s.mustPull("the disk can be read")
			} else {
				s.pulls()
			}
			stop()
			s.registry.Stop()
			ends := time.Now()
			// A disk that gives no answer at all does not lead to the socket either.
			// And the supervisor of a server that was in the middle of a change has
			// not given up yet.
			if r := s.store.regfs(t, "umount", "--force", s.dir); r.code != 0 {
				t.Logf("umount: exit code %d: %s", r.code, r.stderr)
			}
			for _, pid := range s.store.servers() {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
			within(requestTime, func() bool { return len(s.store.servers()) == 0 })
			t.Logf("the server has left after %v", time.Since(ends))
			s.store.noServer(t)
			want(t, "mounted", isMounted(s.dir), false)

			s.disk.unmount()
			s.disk.mount()
			s.store.must(t, "mount", "v1", s.dir, "--detach")
			s.registry.Restart()
			s.mustPush("the disk is back")
			s.mustPull("the disk is back")
		})
	}
}

// load pushes images all the time, whatever comes of it, until stop is called.
func (s *site) load() (stop func()) {
	var group sync.WaitGroup
	ended := make(chan struct{})
	for range 3 {
		group.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					s.image(50_000)
				}
			}
		})
	}
	return func() { close(ended); group.Wait() }
}

// TestNoDescriptors: a server that may open nothing more refuses, and goes on
// when it may.
func TestNoDescriptors(t *testing.T) {
	s := newSite(t, "ext4", 400<<20, registrytest.V31)
	want(t, "pushes", s.pushes(3, 300_000), http.StatusCreated)
	server := s.store.server()
	// Blobs that wait for their place are open still.
	if !within(mountTime, func() bool { return len(namesIn(t, filepath.Join(string(s.store), "tmp/pending"))) == 0 }) {
		t.Fatal("blobs wait for their place")
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server))
	ok(t, err)
	var before unix.Rlimit
	ok(t, unix.Prlimit(server, unix.RLIMIT_NOFILE, nil, &before))
	stop := s.load()
	for _, more := range []uint64{0, 2, 4} {
		limit := unix.Rlimit{Cur: uint64(len(open)) + more, Max: before.Max}
		ok(t, unix.Prlimit(server, unix.RLIMIT_NOFILE, &limit, nil))
		time.Sleep(500 * time.Millisecond)
		if more == 0 {
			s.mustNotPush("no descriptors")
		}
		s.pulls()
		ok(t, unix.Prlimit(server, unix.RLIMIT_NOFILE, &before, nil))
		s.mustPush("descriptors again")
	}
	stop()
	want(t, "server", s.store.server(), server)
	s.mustPull("descriptors again")
}
