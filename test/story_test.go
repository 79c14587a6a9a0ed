package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// onBoth runs a test with each version of the registry, side by side: much of
// the time is the disk's.
func onBoth(t *testing.T, f func(t *testing.T, v registrytest.Version)) {
	for _, v := range registrytest.Versions {
		t.Run("registry-"+string(v), func(t *testing.T) {
			t.Parallel()
			f(t, v)
		})
	}
}

// onAll is onBoth, and once more with the newer registry on mounts by
// overlayfs: for tests of what such mounts promise, too.
func onAll(t *testing.T, f func(t *testing.T, v registrytest.Version)) {
	onBoth(t, f)
	t.Run(overlayTest, func(t *testing.T) {
		t.Parallel()
		f(t, registrytest.V31)
	})
}

// overlayTest is in the name of tests whose mounts are by overlayfs.
const overlayTest = "by-overlayfs"

// serve runs a registry on a mount, or on any directory.
func serve(t *testing.T, v registrytest.Version, dir string, config map[string]any) *registrytest.Registry {
	t.Helper()
	return registrytest.Start(t, registrytest.Options{Version: v, Root: dir, Config: config})
}

// accessLog makes a registry say what it was asked.
var accessLog = map[string]any{"log.accesslog.disabled": false}

var (
	uploadBegun = regexp.MustCompile(`"POST /v2/\S+/blobs/uploads/`)
	uploadDone  = regexp.MustCompile(`"PUT /v2/\S+/blobs/uploads/\S*[?&]digest=([a-z0-9]+)(?::|%3A)([0-9a-f]+)`)
)

// uploads returns what clients have uploaded to a registry with an access log:
// how many uploads were begun, and which blobs they brought.
func uploads(r *registrytest.Registry) (begun int, brought []string) {
	log := r.Log()
	for _, m := range uploadDone.FindAllStringSubmatch(log, -1) {
		brought = append(brought, m[1]+":"+m[2])
	}
	return len(uploadBegun.FindAllString(log, -1)), brought
}

// push brings a release to a registry as a user does: with skopeo, and what
// Debian's skopeo cannot read, by the protocol.
func push(t *testing.T, r *registrytest.Registry, release imagetest.Release) {
	t.Helper()
	pushTo(t, r, release, func(repo string) string { return repo })
}

// pushTo is push under other names.
func pushTo(t *testing.T, r *registrytest.Registry, release imagetest.Release, rename func(repo string) string) {
	t.Helper()
	parallel(4, release.Images, func(image imagetest.Image) {
		if err := pushImage(t, r, release, image, rename(image.Repository)); err != nil {
			t.Errorf("push %s: %v", image.Ref(), err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

func pushImage(t *testing.T, r *registrytest.Registry, release imagetest.Release, image imagetest.Image, repo string) error {
	if !image.SkopeoReads() {
		return imagetest.Push(t.Context(), r.Client(), r.URL(), release.Dir, image.Ref(), repo, image.Tag)
	}
	_, err := registrytest.TrySkopeo(t, skopeoCopy(r, release, image, repo)...)
	return err
}

func skopeoCopy(r *registrytest.Registry, release imagetest.Release, image imagetest.Image, repo string) []string {
	args := append([]string{"copy", "--all", "--preserve-digests"}, r.SkopeoFlags("dest")...)
	return append(args, "oci:"+release.Dir+":"+image.Ref(), "docker://"+r.Addr()+"/"+repo+":"+image.Tag)
}

// parallel calls f for all of a list, n at a time.
func parallel[T any](n int, list []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, n)
	for _, item := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(item)
		})
	}
	wg.Wait()
}

// verify pulls everything of a release and compares it with its layout.
func verify(t *testing.T, r *registrytest.Registry, release imagetest.Release) {
	t.Helper()
	if err := imagetest.Verify(t.Context(), r.Client(), r.URL(), release); err != nil {
		t.Error(err)
	}
}

func repositories(r imagetest.Release) (names []string) {
	seen := map[string]bool{}
	for _, image := range r.Images {
		if !seen[image.Repository] {
			seen[image.Repository] = true
			names = append(names, image.Repository)
		}
	}
	return names
}

// TestStory is the main job: three releases, each on a mount of its own beside
// the others, each exported while its registry runs.
func TestStory(t *testing.T) {
	withRaceDetector(t)
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		releases := debian(t)
		s := newStore(t, "v1.0", "v1.1", "v1.2")
		out := t.TempDir()
		exported := func(name string) string { return filepath.Join(out, name+".tar") }

		m0 := s.mount(t, "v1.0")
		r0 := serve(t, v, m0.dir, nil)
		push(t, r0, releases[0])
		verify(t, r0, releases[0])
		s.must(t, "export", "v1.0", "-o", exported("v1.0"))
		before := s.stamps(t)

		m1 := s.mount(t, "v1.1")
		r1 := serve(t, v, m1.dir, accessLog)
		t.Run("M3 no tag of history", func(t *testing.T) {
			want(t, "repositories", len(r1.API(t).AllRepositories(10)), 0)
			if all := dumpDir(t, m1.dir).files(); len(all) > 0 {
				t.Errorf("a new release lists %q", first(all))
			}
			for _, repo := range repositories(releases[0]) {
				want(t, "tags of "+repo, r1.API(t).Tags(repo, 0, "").Status, 404)
			}
			for _, image := range releases[0].Images {
				_, status := r1.API(t).HeadManifest(image.Repository, image.Digest.String())
				want(t, "M2 manifest of "+image.Ref()+" by digest", status, 404)
			}
		})
		push(t, r1, releases[1])
		t.Run("M2 nothing is uploaded twice", func(t *testing.T) { uploadedOnlyNew(t, r1, releases[0], releases[1]) })
		t.Run("M5 a known blob is not stored again", func(t *testing.T) { before.stillIn(t, s) })
		verify(t, r1, releases[1])
		s.must(t, "export", "v1.1", "-o", exported("v1.1"))

		t.Run("M2 in any repository", func(t *testing.T) { elsewhere(t, s, v, releases) })

		t.Run("Export is the release", func(t *testing.T) {
			for i, m := range []*mounted{m0, m1} {
				exportIsRelease(t, m, exported(m.release), closureOf(t, releases[i]))
			}
		})
		t.Run("Export is the same each time", func(t *testing.T) {
			s.must(t, "export", "v1.1", "-o", exported("again"))
			sameFile(t, exported("again"), exported("v1.1"))
			streamed := s.must(t, "export", "v1.1", "-o", "-", "--verify")
			ok(t, os.WriteFile(exported("again"), []byte(streamed), 0o600))
			sameFile(t, exported("again"), exported("v1.1"))
		})
		t.Run("Export is served by both registries", func(t *testing.T) {
			servedByBoth(t, exported("v1.1"), releases[1])
		})
		t.Run("ls", func(t *testing.T) { lists(t, s, "v1.1", releases[1]) })
		t.Run("status", func(t *testing.T) { shows(t, s, m0, m1) })
		t.Run("M13 umount", func(t *testing.T) { umounts(t, s, m1, r1) })
		verify(t, r0, releases[0])
		t.Run("M12 the other release is as it was", func(t *testing.T) {
			s.must(t, "export", "v1.0", "-o", exported("again"), "--force")
			sameFile(t, exported("again"), exported("v1.0"))
		})
	})
}

// uploadedOnlyNew checks, by the registry's own log, that clients sent no blob
// of an earlier release.
func uploadedOnlyNew(t *testing.T, r *registrytest.Registry, old, now imagetest.Release) {
	had, needs := closureOf(t, old), closureOf(t, now)
	_, brought := uploads(r)
	if len(brought) == 0 {
		t.Errorf("no upload found in the log:\n%s", r.Log())
	}
	news := 0
	for d := range needs.blobs {
		if _, known := had.blobs[d]; !known {
			news++
		}
	}
	for _, d := range brought {
		if _, known := had.blobs[digest.Digest(d)]; known {
			t.Errorf("uploaded again: %s", d)
		}
	}
	t.Logf("of %d blobs and manifests %d are new; uploaded: %d blobs", len(needs.blobs), news, len(brought))
}

// stamps is what a store's blobs have that changes when they are written
// again: path to inode, size and times.
type stamps map[string]string

func (s store) stamps(t *testing.T) stamps {
	t.Helper()
	all := stamps{}
	for _, file := range dumpDir(t, filepath.Join(string(s), v2, "blobs")).files() {
		name, _, _ := strings.Cut(file, " ")
		var st syscall.Stat_t
		ok(t, syscall.Lstat(filepath.Join(string(s), v2, "blobs", name), &st))
		want(t, "mode of a blob", st.Mode&0o777, 0o444)
		all[name] = fmt.Sprint(st.Ino, st.Size, st.Mtim, st.Ctim)
	}
	return all
}

func (before stamps) stillIn(t *testing.T, s store) {
	t.Helper()
	now := s.stamps(t)
	for name, stamp := range before {
		want(t, name, now[name], stamp)
	}
}

// elsewhere pushes all of the first release into repositories that no release
// has had, and the third release too.
func elsewhere(t *testing.T, s store, v registrytest.Version, releases []imagetest.Release) {
	m := s.mount(t, "v1.2")
	r := serve(t, v, m.dir, accessLog)
	needs := newClosure(t)
	rename := func(repo string) string { return "mirror/of/" + repo }
	for _, image := range releases[0].Images {
		needs.add(releases[0], image, rename(image.Repository))
	}
	pushTo(t, r, releases[0], rename)
	if begun, brought := uploads(r); begun+len(brought) > 0 {
		t.Errorf("%d uploads begun, blobs uploaded again: %q", begun, brought)
	}
	skopeoSaysSkipped(t, r, releases[0])

	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), releases[2]))
	verify(t, r, releases[2])
	for _, image := range releases[2].Images {
		needs.add(releases[2], image, image.Repository)
	}
	needs.add(releases[0], releases[0].Images[0], "told/to/user")
	file := filepath.Join(t.TempDir(), "v1.2.tar")
	s.must(t, "export", "v1.2", "-o", file)
	exportIsRelease(t, m, file, needs)
}

// skopeoSaysSkipped lets skopeo talk to a terminal, where it says what it
// does not send.
func skopeoSaysSkipped(t *testing.T, r *registrytest.Registry, release imagetest.Release) {
	t.Helper()
	image := release.Images[0]
	line := "skopeo --insecure-policy " + strings.Join(skopeoCopy(r, release, image, "told/to/user"), " ")
	cmd := exec.Command("script", "-qec", "stty cols 300; "+line, "/dev/null")
	cmd.Env = append(os.Environ(), "_CONTAINERS_ROOTLESS_UID=1", "XDG_DATA_HOME="+t.TempDir(), "TERM=dumb")
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, said)
	}
	c := newClosure(t)
	c.add(release, image, "told/to/user")
	blobs := len(c.blobs) - 1 // the manifest is no upload
	if got := strings.Count(string(said), "already exists"); got < blobs-1 {
		t.Errorf("skopeo says %d times \"already exists\", of %d blobs:\n%s", got, blobs, said)
	}
}

// exportIsRelease compares an export with what the release's images need, and
// with a plain tar of its mount. The mount has one thing more: the directories
// in which the registry has kept its uploads.
func exportIsRelease(t *testing.T, m *mounted, file string, needs *closure) {
	t.Helper()
	got := dumpTar(t, file)
	sameSet(t, m.release+".tar", got.files(), needs.dump())

	plain := filepath.Join(t.TempDir(), "plain.tar")
	command(t, "tar", "-C", m.dir, "-cf", plain, ".")
	sameSet(t, "tar of the mount of "+m.release, dumpTar(t, plain).withoutUploads(), got)
	sameSet(t, "find on the mount of "+m.release, dumpDir(t, m.dir).withoutUploads(), got)
}

func sameFile(t *testing.T, a, b string) {
	t.Helper()
	if r := runProgram(t, nil, "cmp", a, b); r.code != 0 {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
}

// servedByBoth unpacks an export as a customer does, and pulls all images.
func servedByBoth(t *testing.T, file string, release imagetest.Release) {
	t.Helper()
	for _, v := range registrytest.Versions {
		dir := t.TempDir()
		command(t, "tar", "-xf", file, "-C", dir)
		r := serve(t, v, dir, nil)
		verify(t, r, release)
		sameSet(t, "catalog of the customer", r.API(t).AllRepositories(7), repositories(release))
	}
}

// lists checks the two forms of ls.
func lists(t *testing.T, s store, name string, release imagetest.Release) {
	var images []struct {
		Repository, Tag string
		Digest          digest.Digest
		Size            int64
	}
	s.mustJSON(t, &images, "ls", name)
	table := s.must(t, "ls", name)
	var got, known []string
	for _, i := range images {
		got = append(got, fmt.Sprint(i.Repository, ":", i.Tag, "@", i.Digest, " ", i.Size))
	}
	for _, i := range release.Images {
		c := newClosure(t)
		c.add(release, i, i.Repository)
		size := int64(0)
		for _, file := range c.blobs {
			info, err := os.Stat(file)
			ok(t, err)
			size += info.Size()
		}
		known = append(known, fmt.Sprint(i.Ref(), "@", i.Digest, " ", size))
		if !regexp.MustCompile(`(?m)^` + i.Repository + ` +` + i.Tag + ` +` + i.Digest.String()).MatchString(table) {
			t.Errorf("the table has no line for %s:\n%s", i.Ref(), table)
		}
	}
	sameSet(t, "ls --json", got, known)
}

// shows checks what status says of the mounts.
func shows(t *testing.T, s store, mounts ...*mounted) {
	var status struct {
		Store      string
		Server     int `json:"server_pid"`
		Supervisor int `json:"supervisor_pid"`
		Mounts     []struct {
			Release, Mountpoint, Reuse string
			Passthrough                bool
			Reason                     string `json:"passthrough_reason"`
		}
	}
	s.mustJSON(t, &status, "status")
	want(t, "store", status.Store, string(s))
	if servers := s.servers(); len(servers) != 2 || servers[0] != status.Supervisor || servers[1] != status.Server {
		t.Errorf("status says process %d, supervised by %d, found %v", status.Server, status.Supervisor, servers)
	}
	want(t, "mounts", len(status.Mounts), len(mounts))
	table := s.must(t, "status")
	for i, m := range status.Mounts {
		want(t, "release", m.Release, mounts[i].release)
		want(t, "mount point", m.Mountpoint, mounts[i].dir)
		want(t, "reuse", m.Reuse, "store")
		if m.Passthrough == (m.Reason != "") {
			t.Errorf("M11 passthrough %v, reason %q", m.Passthrough, m.Reason)
		}
		if !strings.Contains(table, m.Mountpoint) {
			t.Errorf("the table lacks %s:\n%s", m.Mountpoint, table)
		}
	}
}

// umounts ends one mount while another stays.
func umounts(t *testing.T, s store, m *mounted, r *registrytest.Registry) {
	r.Stop()
	s.must(t, "umount", m.dir)
	m.gone()
	want(t, "a server that serves on", s.server() != 0, true)
	r.Restart() // on the empty directory: what the test's end expects
}
