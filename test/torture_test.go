package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// What a registry has acknowledged survives, M7: the power fails, or the
// server is killed, while clients push; then all is started again, and every
// blob and every image of which the registry had said 201 is pulled.
//
// REGFS_ROUNDS is how often; it also asks for the negative control, which
// breaks the promise on purpose and must be caught.

// rounds is how often a crash is tried on one disk.
func rounds(t *testing.T, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("REGFS_ROUNDS"))
	if err != nil || n < 1 {
		return otherwise
	}
	return n
}

func TestPowerLoss(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run("M7-"+kind, func(t *testing.T) {
			d := newDisk(t, kind)
			s := d.newStore(t)
			for i := range rounds(t, 2) {
				for _, loss := range crash(t, s, i, d.losePower) {
					t.Errorf("round %d: %s", i, loss)
				}
			}
		})
	}
}

func TestServerKilled(t *testing.T) {
	s := newStore(t, "v1")
	for i := range rounds(t, 3) {
		for _, loss := range crash(t, s, i, func(end func()) { end() }) {
			t.Errorf("M7, round %d: %s", i, loss)
		}
	}
}

// The tests above must catch a regfs that breaks the promise, or they prove
// nothing.
func TestPowerLossIsNoticed(t *testing.T) {
	if os.Getenv("REGFS_ROUNDS") == "" {
		t.Skip("NOT TESTED: whether the power loss test would notice a loss; set REGFS_ROUNDS to test it")
	}
	for _, c := range []struct{ name, file, old, patch string }{
		{"index-not-synced", "index/index.go", "WithSyncWrites(true)", "WithSyncWrites(false)"},
		{"blobs-not-synced", "cas/cas.go", "(*os.File).Sync,", "func(*os.File) error { return nil },"},
	} {
		t.Run(c.name, func(t *testing.T) {
			right := program
			defer func() { program = right }()
			program = buildPatched(t, c.file, c.old, c.patch)
			d := newDisk(t, "ext4")
			s := d.newStore(t)
			var losses []string
			n := rounds(t, 1)
			for i := 0; i < n && len(losses) == 0; i++ {
				losses = crash(t, s, i, d.losePower)
			}
			t.Logf("%d losses, such as %q", len(losses), first(losses))
			if len(losses) == 0 {
				t.Errorf("nothing was lost in %d rounds", n)
			}
		})
	}
}

// buildPatched builds the program with one line of its source replaced.
func buildPatched(t *testing.T, file, old, patch string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	ok(t, err)
	text, err := os.ReadFile(filepath.Join(root, file))
	ok(t, err)
	if strings.Count(string(text), old) != 1 {
		t.Fatalf("%s does not have %q once", file, old)
	}
	dir := t.TempDir()
	patched, overlay, binary := filepath.Join(dir, "patched.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "regfs")
	ok(t, os.WriteFile(patched, []byte(strings.Replace(string(text), old, patch, 1)), 0o600))
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, file): patched}})
	ok(t, err)
	ok(t, os.WriteFile(overlay, list, 0o600))
	command(t, "go", "build", "-overlay", overlay, "-o", binary, "github.com/regfs/regfs/cmd/regfs")
	return binary
}

// A disk is a file system in a file, mounted until the test ends.
type disk struct {
	t                   *testing.T
	image, dir, options string
}

func newDisk(t *testing.T, kind string) *disk {
	t.Helper()
	needed(t, "mkfs."+kind, "xfs_io", "mount", "umount")
	d := &disk{t, filepath.Join(t.TempDir(), kind+".img"), filepath.Join(t.TempDir(), kind), "loop"}
	if kind == "ext4" {
		// Without it, ext4 writes out what was truncated and then closed, which
		// hides a sync that is missing.
		d.options = "loop,noauto_da_alloc"
	}
	ok(t, os.WriteFile(d.image, nil, 0o600))
	ok(t, os.Truncate(d.image, 600<<20))
	ok(t, os.Mkdir(d.dir, 0o700))
	command(t, "mkfs."+kind, "-q", d.image)
	t.Cleanup(func() {
		if isMounted(d.dir) {
			d.unmount()
		}
	})
	d.mount()
	return d
}

// needed skips a test that cannot run here, or fails it where all must.
func needed(t *testing.T, tools ...string) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root's rights"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool
		}
	}
	switch {
	case missing == "":
	case os.Getenv("REGFS_REQUIRE_TOOLS") == "1":
		t.Fatalf("NOT TESTED: %s is missing", missing)
	default:
		t.Skipf("NOT TESTED: %s is missing", missing)
	}
}

func (d *disk) mount() {
	d.t.Helper()
	command(d.t, "mount", "-o", d.options, d.image, d.dir)
}

// unmount waits for those who have just been killed to let go of the disk. The
// loop device goes with the mount.
func (d *disk) unmount() {
	d.t.Helper()
	var out []byte
	var err error
	if within(10*time.Second, func() bool { out, err = exec.Command("umount", d.dir).CombinedOutput(); return err == nil }) {
		return
	}
	d.t.Errorf("umount %s: %v: %s", d.dir, err, out)
	_ = syscall.Unmount(d.dir, syscall.MNT_DETACH)
}

// losePower: from one moment on, nothing reaches the disk. end ends whoever
// uses it; then it comes back, with what had reached it.
func (d *disk) losePower(end func()) {
	d.t.Helper()
	command(d.t, "xfs_io", "-x", "-c", "shutdown", d.dir)
	end()
	d.unmount()
	d.mount()
}

func (d *disk) newStore(t *testing.T) store {
	t.Helper()
	s := store(filepath.Join(d.dir, "store"))
	t.Cleanup(func() { s.noServer(t) })
	s.must(t, "init")
	s.must(t, "release", "create", "v1")
	return s
}

// crash runs a registry on a mount, pushes to it, ends everything at a random
// moment in the way given, starts everything again, and returns what is lost
// or damaged.
func crash(t *testing.T, s store, round int, how func(end func())) (losses []string) {
	t.Helper()
	version := registrytest.Versions[round%len(registrytest.Versions)]
	release := crashImages(t, round)
	dir := filepath.Join(t.TempDir(), "mnt")

	m := s.mountAt(t, dir, "v1")
	r := serve(t, version, dir, nil)
	p := startPushers(t, r, release)
	p.awaitImages(1 + rand.IntN(12))
	time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
	p.crashing()
	how(func() {
		s.kill(t, m, func() {
			p.stop()
			r.Stop()
		})
		tearDown(dir) // if it is still there
	})
	t.Logf("round %d: registry %s had acknowledged %d blobs and %d manifests, %d images", round, version, len(p.blobs), len(p.manifests), len(p.images))

	m = s.mountAt(t, dir, "v1")
	if left := leftIn(t, filepath.Join(string(s), "tmp")); len(left) > 0 {
		losses = append(losses, fmt.Sprintf("left in the store's tmp: %v", first(left)))
	}
	r = serve(t, version, dir, nil)
	losses = append(losses, p.check(r)...)
	losses = append(losses, tornBlobs(t, s)...)
	// What was not acknowledged is there whole or not at all.
	if res := s.regfs(t, "export", "v1", "--verify", "-o", filepath.Join(t.TempDir(), "v1.tar")); res.code != 0 {
		losses = append(losses, "export: "+res.stderr)
	}
	r.Stop()
	m.stop(syscall.SIGTERM)
	return losses
}

// crashImages are small images, so that there are many acknowledgements, other
// ones each round.
func crashImages(t *testing.T, round int) imagetest.Release {
	t.Helper()
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{
		Images: 120, LayerSize: 10_000, SharedBases: 3, Seed: uint64(round) + 1,
	})
	ok(t, err)
	release := series.Release
	for i := range release.Images {
		release.Images[i].Tag = strings.Replace(release.Images[i].Tag, "1.0.", "1."+strconv.Itoa(round)+".", 1)
	}
	return release
}

// kill ends the store's server at once, has the users of the mount ended, and
// waits until the command that stands for the mount has ended, too. That stands
// still meanwhile: it must not take the mount from under its users.
func (s store) kill(t *testing.T, m *mounted, endUsers func()) {
	t.Helper()
	ok(t, m.cmd.Process.Signal(syscall.SIGSTOP))
	for _, pid := range s.servers() {
		ok(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	endUsers()
	ok(t, m.cmd.Process.Signal(syscall.SIGCONT))
	select {
	case err := <-m.ended:
		m.ended <- err
	case <-time.After(mountTime):
		t.Errorf("regfs mount has not noticed that the server is gone\n%s", m.Log())
		_ = m.cmd.Process.Kill()
	}
	m.stopped = true
}

// Pushers push images to a registry, four at a time, and remember what it has
// acknowledged.
type pushers struct {
	t       *testing.T
	release imagetest.Release
	client  *http.Client
	cancel  context.CancelFunc
	group   sync.WaitGroup

	mu        sync.Mutex // guards what follows
	crashed   bool       // errors are expected from now on
	blobs     map[[2]string]bool
	manifests map[[2]string]digest.Digest // repository, tag
	images    []imagetest.Image
}

func startPushers(t *testing.T, r *registrytest.Registry, release imagetest.Release) *pushers {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pushers{
		t: t, release: release, cancel: cancel,
		blobs: map[[2]string]bool{}, manifests: map[[2]string]digest.Digest{},
	}
	client := *r.Client()
	client.Transport = &recorder{client.Transport, p}
	queue := make(chan imagetest.Image, len(release.Images))
	for _, image := range release.Images {
		queue <- image
	}
	close(queue)
	for range 4 {
		p.group.Go(func() {
			for image := range queue {
				// Under the tag of this round, so that each round tags anew.
				err := imagetest.Push(ctx, &client, r.URL(), release.Dir, image.Repository+":1.0.0", image.Repository, image.Tag)
				if !p.done(image, err) {
					return
				}
			}
		})
	}
	t.Cleanup(p.stop)
	return p
}

// done notes how a push ended; false if it is time to stop.
func (p *pushers) done(image imagetest.Image, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.images = append(p.images, image)
		return true
	}
	if !p.crashed {
		p.t.Errorf("before the crash: %v", err)
	}
	return false
}

func (p *pushers) awaitImages(n int) {
	p.t.Helper()
	if !within(30*time.Second, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.images) >= n || p.t.Failed() }) {
		p.t.Fatalf("%d images were not pushed in 30 seconds", n)
	}
}

func (p *pushers) crashing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crashed = true
}

func (p *pushers) stop() {
	p.crashing()
	p.cancel()
	p.group.Wait()
}

// A recorder notes what is acknowledged, with the registry's answer in hand.
type recorder struct {
	next http.RoundTripper
	p    *pushers
}

func (rec *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	next := rec.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(req)
	if err != nil || req.Method != http.MethodPut || resp.StatusCode != http.StatusCreated {
		return resp, err
	}
	rec.p.mu.Lock()
	defer rec.p.mu.Unlock()
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if repo, ref, is := strings.Cut(path, "/manifests/"); is {
		rec.p.manifests[[2]string{repo, ref}] = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	} else if repo, _, is := strings.Cut(path, "/blobs/uploads/"); is {
		rec.p.blobs[[2]string{repo, req.URL.Query().Get("digest")}] = true
	}
	return resp, nil
}

// check pulls all that was acknowledged and returns what is not as it was.
func (p *pushers) check(r *registrytest.Registry) (losses []string) {
	api := r.API(p.t)
	for blob := range p.blobs {
		want := digest.Digest(blob[1])
		content, status := api.GetBlob(blob[0], want)
		if status != http.StatusOK || digest.FromBytes(content) != want {
			losses = append(losses, fmt.Sprintf("blob %s in %s: status %d, %d bytes, %s", want, blob[0], status, len(content), digest.FromBytes(content)))
		}
	}
	for at, want := range p.manifests {
		got, status := api.GetManifest(at[0], at[1])
		if status != http.StatusOK || got.Digest != want || digest.FromBytes(got.Body) != want {
			losses = append(losses, fmt.Sprintf("manifest %s:%s: status %d, %s, not %s", at[0], at[1], status, got.Digest, want))
		}
	}
	pushed := p.release
	pushed.Images = p.images
	if err := imagetest.Verify(context.Background(), r.Client(), r.URL(), pushed); err != nil {
		losses = append(losses, err.Error())
	}
	return losses
}

// tornBlobs returns the blobs of the store that are not what their names say.
func tornBlobs(t *testing.T, s store) (torn []string) {
	t.Helper()
	ok(t, filepath.WalkDir(filepath.Join(string(s), v2, "blobs"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := digest.SHA256.Digester()
		n, err := io.Copy(sum.Hash(), f)
		if hex := filepath.Base(filepath.Dir(name)); sum.Digest().Encoded() != hex {
			torn = append(torn, fmt.Sprintf("blob %s of %d bytes is %s", hex, n, sum.Digest()))
		}
		return err
	}))
	return torn
}

func leftIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ok(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// When the server dies, a registry that goes on must not go on in the bare
// directory under the mount: it would acknowledge what is nowhere in the store.
func TestDeadServerTakesNothing(t *testing.T) {
	s := newStore(t, "v1")
	m := s.mount(t, "v1")
	r := serve(t, registrytest.V31, m.dir, nil)
	s.kill(t, m, func() {})
	t.Cleanup(func() { tearDown(m.dir) })
	if _, status := r.API(t).PushBlobMonolithic("a", []byte("blob")); status == http.StatusCreated {
		t.Error("M7: the server is dead, and the registry has acknowledged a blob")
	}
}
