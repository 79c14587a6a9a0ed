package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/registrytest"
)

// cached makes a registry remember the blobs that it has seen: the default of
// many installations, and what no collector of a registry's own gets along
// with (distribution #1803).
var cached = map[string]any{"storage.cache.blobdescriptor": "inmemory"}

// A gcScenario does something with an image while garbage is collected, and
// says what was lost by it. Grace is 0 mostly, so that only the one thing keeps
// the image that the scenario is about.
type gcScenario struct {
	name string
	run  func(t *testing.T, v registrytest.Version) (losses []string)
	// control is a build without that thing; the scenario must lose something.
	control control
	v       registrytest.Version // for which the control is tried
}

var gcScenarios = []gcScenario{
	{
		name: "delete image, gc, push again without a restart of the registry, pull", run: deleteCollectPushAgain,
		control: control{name: "gc-without-pins-of-mounts", file: "control/gc.go",
			old: `return s.store.Blobs.NewPins("seen through " + at)`, new: "pins := s.store.Blobs.NewPins(at)\n\t\tpins.Release()\n\t\treturn pins"},
		v: registrytest.V28,
	},
	{
		name: "the same after the server has come back from a crash", run: crashCollectPushAgain,
		control: control{name: "gc-without-pins-of-restored-mounts", file: "control/gc.go", old: "if !replace {", new: "if true {"},
		v:       registrytest.V31,
	},
	{
		name: "upload, gc, manifest", run: uploadCollectManifest,
		control: control{name: "gc-without-grace", file: "gc/plan.go", old: "uploaded && r.begun.Sub(at) < r.Grace", new: "false && uploaded && r.begun.Equal(at)"},
		v:       registrytest.V31,
	},
	{
		name: "export, release rm, gc, the rest of the export", run: exportWhileCollecting,
		control: control{name: "gc-without-holds", file: "control/gc.go", old: "pins.Add(d)", new: "_ = d"},
		v:       registrytest.V31,
	},
	{
		name: "seen through an overlay, gc, manifest", run: overlayCollectManifest,
		control: control{name: "gc-without-guard-of-overlays", file: "overlay/overlay.go", old: "o.pins.AddAll()", new: "_ = o.pins"},
		v:       registrytest.V31,
	},
}

func TestCollect(t *testing.T) {
	withRaceDetector(t)
	for _, s := range gcScenarios {
		t.Run(s.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, v registrytest.Version) {
				for _, loss := range s.run(t, v) {
					t.Error(loss)
				}
			})
		})
	}
}

// A collector that ignores one kind of pin must be caught.
func TestCollectControls(t *testing.T) {
	if !long() && soakTime() < time.Minute*5 {
		t.Skip("NOT TESTED: whether the tests of gc would notice what they are there for; set REGFS_ROUNDS or REGFS_SOAK=10m")
	}
	for _, s := range gcScenarios {
		t.Run(s.control.name, func(t *testing.T) {
			right := program
			defer func() { program = right }()
			program = buildPatched(t, s.control)
			losses := s.run(t, s.v)
			if len(losses) == 0 {
				report.control(s.control.name, "NOT CAUGHT")
				t.Errorf("%s of %s: nothing was lost", s.control.name, s.control.file)
				return
			}
			report.control(s.control.name, "caught: "+losses[0])
		})
	}
}

// An app is an image that a scenario pushes and pulls.
type app struct {
	repo, tag string
	blobs     [][]byte // the layers and the config
	body      []byte
}

func newApp(seed uint64) *app {
	a := &app{repo: "team/app", tag: fmt.Sprint("1.", seed)}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	describe := func(mediaType string, content []byte) ocispec.Descriptor {
		a.blobs = append(a.blobs, content)
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	}
	for i := range uint64(3) {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, noise(byte(10*seed+i), 30_000)))
	}
	m.Config = describe(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%d","rootfs":{"type":"layers","diff_ids":[]}}`, seed))
	a.body, _ = json.Marshal(m) // of strings and numbers
	return a
}

func (a *app) digest() digest.Digest { return digest.FromBytes(a.body) }

// ask sends a request, and returns what has come of the answer.
func ask(r *registrytest.Registry, method, path, mediaType string, body []byte) (status int, got []byte, err error) {
	req, err := http.NewRequest(method, r.URL()+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.Client().Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err = io.ReadAll(resp.Body)
	return resp.StatusCode, got, err
}

// upload sends the blobs that the registry says it has not.
func (a *app) upload(t *testing.T, r *registrytest.Registry) (losses []string) {
	api := r.API(t)
	for _, content := range a.blobs {
		if _, status := api.HeadBlob(a.repo, digest.FromBytes(content)); status == http.StatusOK {
			continue
		}
		if _, status := api.PushBlobMonolithic(a.repo, content); status != http.StatusCreated {
			losses = append(losses, fmt.Sprintf("upload: status %d", status))
		}
	}
	return losses
}

func (a *app) putManifest(r *registrytest.Registry) (losses []string) {
	status, _, err := ask(r, http.MethodPut, "/v2/"+a.repo+"/manifests/"+a.tag, ocispec.MediaTypeImageManifest, a.body)
	if err != nil || status != http.StatusCreated {
		losses = append(losses, fmt.Sprintf("push: the manifest is refused with status %d, %v", status, err))
	}
	return losses
}

func (a *app) push(t *testing.T, r *registrytest.Registry) (losses []string) {
	return append(a.upload(t, r), a.putManifest(r)...)
}

// pull compares what the registry has with what was pushed.
func (a *app) pull(r *registrytest.Registry) (losses []string) {
	same := func(what, path string, want []byte) {
		status, got, err := ask(r, http.MethodGet, "/v2/"+a.repo+path, "", nil)
		if err != nil || status != http.StatusOK || !bytes.Equal(got, want) {
			losses = append(losses, fmt.Sprintf("pull: %s of %d bytes has status %d and %d bytes, %v", what, len(want), status, len(got), err))
		}
	}
	same("the manifest", "/manifests/"+a.tag, a.body)
	for _, content := range a.blobs {
		same("a blob", "/blobs/"+digest.FromBytes(content).String(), content)
	}
	return losses
}

func (a *app) remove(t *testing.T, api *registrytest.API) {
	t.Helper()
	want(t, "delete", api.DeleteManifest(a.repo, a.digest().String()), http.StatusAccepted)
}

// A collected is what "regfs gc --json" says.
type collected struct {
	DryRun         bool     `json:"dry_run"`
	RemoveReleases []string `json:"remove_releases"`
	Remove         gcAmount
	Keep           []struct {
		Reason, Detail string
		gcAmount
	}
	Releases []struct {
		Name string
		gcAmount
		Only gcAmount
	}
	Seconds map[string]float64
	Removed gcAmount
}

type gcAmount struct {
	Blobs int
	Bytes int64
}

func (s store) collect(t *testing.T, flags ...string) (c collected) {
	t.Helper()
	s.mustJSON(t, &c, append([]string{"gc"}, flags...)...)
	return c
}

// deleteCollectPushAgain is the field's: an image that was pushed once is
// pulled, so the registry remembers its blobs; it is deleted, garbage is
// collected, and it is pushed again to the same registry.
func deleteCollectPushAgain(t *testing.T, v registrytest.Version) []string {
	s, a, other := newStore(t, "v1"), newApp(1), newApp(2)
	m := s.mount(t, "v1")
	r := serve(t, v, m.dir, nil)
	losses := append(a.push(t, r), other.push(t, r)...)
	r.Stop()
	m.stop(syscall.SIGTERM)

	m = m.again()
	r = serve(t, v, m.dir, cached)
	losses = append(losses, a.pull(r)...)
	a.remove(t, r.API(t))
	other.remove(t, r.API(t)) // of which the registry has not seen the layers
	c := s.collect(t, "--grace", "0s")
	if c.Removed.Blobs < 3 {
		losses = append(losses, fmt.Sprintf("gc: %d blobs removed, but nobody has seen the layers of an image that is gone", c.Removed.Blobs))
	}
	losses = append(losses, a.push(t, r)...)
	losses = append(losses, a.pull(r)...)
	losses = append(losses, other.push(t, r)...)
	losses = append(losses, other.pull(r)...)
	r.Stop()
	m.stop(syscall.SIGTERM)
	if c := s.collect(t, "--grace", "0s"); c.Remove.Blobs != 0 {
		losses = append(losses, fmt.Sprintf("gc: removes %d blobs of images that are there", c.Remove.Blobs))
	}
	return losses
}

func crashCollectPushAgain(t *testing.T, v registrytest.Version) []string {
	s, a := newStore(t, "v1"), newApp(1)
	dir := s.detach(t, "v1")
	r := serve(t, v, dir, cached)
	losses := append(a.push(t, r), a.pull(r)...)
	old := s.server()
	resume := s.crashServer(t)
	resume()
	s.comeBack(t, dir, old)
	a.remove(t, r.API(t))
	c := s.collect(t, "--grace", "0s")
	losses = append(losses, a.push(t, r)...)
	losses = append(losses, a.pull(r)...)
	if len(losses) == 0 && !strings.Contains(c.reasons(), "restored") {
		losses = append(losses, "gc does not say that the mount was restored: "+c.reasons())
	}
	r.Stop()
	s.must(t, "umount", dir)
	r.Restart() // on the empty directory: what the test's end expects
	return losses
}

func (c collected) reasons() string {
	var all []string
	for _, k := range c.Keep {
		all = append(all, fmt.Sprint(k.Blobs, " ", k.Reason, " ", k.Detail))
	}
	return strings.Join(all, "; ")
}

// uploadCollectManifest: a client that takes a day for one push.
func uploadCollectManifest(t *testing.T, v registrytest.Version) []string {
	s, a := newStore(t, "v1"), newApp(1)
	m := s.mount(t, "v1")
	r := serve(t, v, m.dir, nil)
	losses := a.upload(t, r)
	r.Stop()
	m.stop(syscall.SIGTERM)
	s.must(t, "gc")
	m = m.again()
	r = serve(t, v, m.dir, nil)
	losses = append(losses, a.putManifest(r)...)
	losses = append(losses, a.pull(r)...)
	r.Stop()
	return losses
}

// exportWhileCollecting: nobody reads the export yet, so it has not read a blob
// when the release and its blobs go.
func exportWhileCollecting(t *testing.T, v registrytest.Version) []string {
	s, a := newStore(t, "v1"), newApp(1)
	m := s.mount(t, "v1")
	r := serve(t, v, m.dir, nil)
	losses := a.push(t, r)
	r.Stop()
	m.stop(syscall.SIGTERM)
	whole := []byte(s.must(t, "export", "v1", "-o", "-"))

	pipe := filepath.Join(t.TempDir(), "pipe")
	ok(t, syscall.Mkfifo(pipe, 0o600))
	cmd := exec.Command(program, "--store", string(s), "export", "v1", "-o", pipe)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	ok(t, cmd.Start())
	held := func() bool {
		files, _ := filepath.Glob(filepath.Join(string(s), "holds", "*"))
		return slices.ContainsFunc(files, func(name string) bool {
			text, _ := os.ReadFile(name)
			return bytes.HasSuffix(text, []byte("\n.\n"))
		})
	}
	if !within(mountTime, held) {
		t.Error("the export holds nothing")
	}
	s.must(t, "release", "rm", "v1")
	c := s.collect(t, "--grace", "0s")
	got, err := os.ReadFile(pipe)
	ok(t, err)
	if err := cmd.Wait(); err != nil || !bytes.Equal(got, whole) {
		losses = append(losses, fmt.Sprintf("export: %v, %d bytes of %d %s", err, len(got), len(whole), stderr.String()))
	}
	if len(losses) > 0 {
		return losses
	}
	if !strings.Contains(c.reasons(), "being exported: v1") {
		losses = append(losses, "gc does not say that the release is being exported: "+c.reasons())
	}
	if c := s.collect(t, "--grace", "0s"); c.Keep != nil && len(c.Keep) > 0 || c.Removed.Blobs != 5 {
		losses = append(losses, fmt.Sprintf("gc after the export: %d removed, keeps %s", c.Removed.Blobs, c.reasons()))
	}
	return losses
}

// overlayCollectManifest: a registry on an overlay sees the blobs of history,
// and regfs does not see it look.
func overlayCollectManifest(t *testing.T, v registrytest.Version) []string {
	s, a := newStore(t, "v1", "v2"), newApp(1)
	m := s.mount(t, "v1")
	r := serve(t, v, m.dir, nil)
	losses := a.push(t, r)
	r.Stop()
	m.stop(syscall.SIGTERM)

	m = s.mount(t, "v2", "--backend", "overlay")
	r = serve(t, v, m.dir, cached)
	losses = append(losses, a.upload(t, r)...) // nothing: all is there
	s.must(t, "release", "rm", "v1")
	c := s.collect(t, "--grace", "0s")
	losses = append(losses, a.putManifest(r)...)
	losses = append(losses, a.pull(r)...)
	says, overlay := c.reasons(), m.dir
	r.Stop()
	m.stop(syscall.SIGTERM)
	s.collect(t, "--grace", "0s")
	m = s.mount(t, "v2") // the kernel has forgotten now what it had seen
	r = serve(t, v, m.dir, nil)
	losses = append(losses, a.pull(r)...)
	r.Stop()
	if len(losses) == 0 && !strings.Contains(says, "v2 is mounted by overlayfs at "+overlay) {
		losses = append(losses, "gc does not say which overlay is in the way: "+says)
	}
	return losses
}

// TestCollectKilled kills or interrupts a collection at any moment, again and
// again. What is needed stays, nothing names what is gone, and in the end all
// garbage is gone.
func TestCollectKilled(t *testing.T) {
	s, a := newStore(t, "v1"), newApp(1)
	m := s.mount(t, "v1")
	r := serve(t, registrytest.V31, m.dir, nil)
	for _, loss := range a.push(t, r) {
		t.Error(loss)
	}
	r.Stop()
	m.stop(syscall.SIGTERM)
	before := s.must(t, "export", "v1", "-o", "-")
	needed := s.collect(t, "-n", "--grace", "0s").Keep[0].Blobs
	const garbage = 3000
	litter(t, s, garbage)

	var killed, interrupted int
	for n := 0; ; n++ {
		if s.collect(t, "-n", "--grace", "0s").Remove.Blobs == 0 {
			if killed > 0 || n > 50 {
				break
			}
			litter(t, s, garbage) // it was faster than we
		}
		cmd := exec.Command(program, "--store", string(s), "gc", "--grace", "0s")
		ok(t, cmd.Start())
		// Longer each time, so that it comes to an end on a slow machine, too.
		time.Sleep(time.Duration(20+rand.IntN(150+20*n)) * time.Millisecond)
		if n%2 == 0 {
			_ = cmd.Process.Kill()
		} else {
			_ = cmd.Process.Signal(syscall.SIGINT)
		}
		_ = cmd.Wait()
		switch status := cmd.ProcessState.Sys().(syscall.WaitStatus); {
		case status.Signaled():
			killed++
		case status.ExitStatus() == 130:
			interrupted++
		case status.ExitStatus() != 0:
			t.Fatalf("gc: exit code %d", status.ExitStatus())
		}
		s.must(t, "fsck")
	}
	t.Logf("killed %d times, interrupted %d times", killed, interrupted)
	if killed == 0 {
		t.Error("it was never killed")
	}
	want(t, "blobs left", len(dumpDir(t, filepath.Join(string(s), v2, "blobs")).files()), needed)
	want(t, "files in tmp", len(s.leftovers(t)), 0)
	want(t, "directories of blobs", len(blobDirs(t, s)), needed)
	if s.must(t, "export", "v1", "-o", "-") != before {
		t.Error("the release is not what it was")
	}
}

// litter fills a store with blobs that nobody needs and a release names.
func litter(t *testing.T, s store, n int) {
	t.Helper()
	db, err := index.Open(filepath.Join(string(s), "index"), slog.New(slog.DiscardHandler))
	ok(t, err)
	release, err := db.Open("v1")
	ok(t, err)
	for i := range n {
		content := fmt.Appendf(nil, "garbage %d", i)
		d := digest.FromBytes(content)
		ok(t, os.MkdirAll(filepath.Dir(s.blob(d)), 0o755))
		ok(t, os.WriteFile(s.blob(d), content, 0o444))
		ok(t, release.AddBlob(d))
	}
	ok(t, release.Sync())
	release.Close()
	ok(t, db.Close())
}

func blobDirs(t *testing.T, s store) (all []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(string(s), v2, "blobs/sha256/*/*"))
	ok(t, err)
	return found
}

func leftIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	ok(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestRetention removes releases by name and by age.
func TestRetention(t *testing.T) {
	s := newStore(t, "v1", "v2", "v3", "v4")
	base := newApp(0)
	for i, name := range []string{"v1", "v2", "v3", "v4"} {
		m := s.mount(t, name)
		r := serve(t, registrytest.V31, m.dir, nil)
		for _, a := range []*app{base, newApp(uint64(i + 1))} {
			for _, loss := range a.push(t, r) {
				t.Error(loss)
			}
		}
		r.Stop()
		m.stop(syscall.SIGTERM)
	}
	before := map[string]string{}
	for _, name := range []string{"v1", "v2", "v4"} {
		before[name] = s.must(t, "export", name, "-o", "-")
	}
	m := s.mount(t, "v2")
	ok(t, os.WriteFile(m.path("note"), []byte("plain"), 0o600))

	s.refuses(t, 2, []string{"give --keep-last"}, "gc", "--keep", "v1")
	s.refuses(t, 2, []string{"--keep v9", "no such release"}, "gc", "--keep-last", "1", "--keep", "v9")
	s.refuses(t, 1, []string{"v2", "mounted at " + m.dir}, "release", "rm", "v3", "v2")
	s.refuses(t, 1, []string{"no release v9"}, "release", "rm", "v9")
	s.refuses(t, 2, []string{"NAME is missing"}, "release", "rm")

	plan := s.collect(t, "-n", "--grace", "0s", "--keep-last", "1", "--keep", "v1")
	want(t, "releases that would go", fmt.Sprint(plan.RemoveReleases), "[v3]")
	want(t, "blobs that would go", plan.Remove.Blobs, 5)
	want(t, "releases that there are", len(s.releases(t)), 4)
	done := s.collect(t, "--grace", "0s", "--keep-last", "1", "--keep", "v1")
	want(t, "releases that went", fmt.Sprint(done.RemoveReleases), "[v3]")
	want(t, "blobs that went", done.Removed, plan.Remove)
	want(t, "releases that there are", fmt.Sprint(s.releases(t)), "[v1 v2 v4]")
	for name, tar := range before {
		if s.must(t, "export", name, "-o", "-") != tar {
			t.Errorf("%s is not what it was", name)
		}
	}
	table := s.must(t, "gc", "-n")
	for _, word := range []string{"needed by releases", "NEEDED BY NO OTHER", "v4"} {
		if !strings.Contains(table, word) {
			t.Errorf("the table does not say %q:\n%s", word, table)
		}
	}
	m.stop(syscall.SIGTERM)
	s.must(t, "release", "rm", "v1", "v2", "v4")
	want(t, "what releases leave", len(leftIn(t, filepath.Join(string(s), "releases"))), 0)
	s.collect(t, "--grace", "0s")
	want(t, "blobs that are left", len(blobDirs(t, s)), 0)
	s.must(t, "fsck")
}

func (s store) releases(t *testing.T) (names []string) {
	t.Helper()
	var all []struct{ Name string }
	s.mustJSON(t, &all, "release", "ls")
	for _, r := range all {
		names = append(names, r.Name)
	}
	return names
}
