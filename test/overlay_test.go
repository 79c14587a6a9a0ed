package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/registrytest"
)

// TestStoryByOverlay is the main job by overlayfs. Its releases must be those
// that FUSE makes of the same pushes, for every command that answers.
func TestStoryByOverlay(t *testing.T) {
	withRaceDetector(t)
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		releases := debian(t)
		s, fuse := newStore(t, "v1.0", "v1.1"), newStore(t, "v1.0", "v1.1")
		for i, name := range []string{"v1.0", "v1.1"} { // the first stays mounted beside the second
			m := s.mount(t, name, "--backend", "overlay")
			r := serve(t, v, m.dir, nil)
			push(t, r, releases[i])
			verify(t, r, releases[i])
			other := serve(t, v, fuse.mount(t, name, "--backend", "fuse").dir, nil)
			push(t, other, releases[i])

			t.Run("the same answers of "+name, func(t *testing.T) { sameAnswers(t, s, fuse, name) })
			file := filepath.Join(t.TempDir(), name+".tar")
			s.must(t, "export", name, "-o", file, "--verify")
			sameSet(t, file, dumpTar(t, file).files(), closureOf(t, releases[i]).dump())
			if i == 0 {
				continue
			}
			servedByBoth(t, file, releases[i])
			r.Stop()
			s.must(t, "umount", m.dir)
			m.gone()
			t.Run("the same answers of "+name+", unmounted", func(t *testing.T) { sameAnswers(t, s, fuse, name) })
			back := s.mountAt(t, m.dir, name, "--backend", "fuse")
			r.Restart()
			verify(t, r, releases[i])
			sameSet(t, "M3 listing, on FUSE", dumpDir(t, back.dir).withoutUploads().files(), closureOf(t, releases[i]).dump())
		}
	})
}

func sameAnswers(t *testing.T, a, b store, release string) {
	t.Helper()
	want(t, "ls", a.must(t, "ls", release), b.must(t, "ls", release)) // the JSON form has times
	tar := func(s store) dump {
		file := filepath.Join(t.TempDir(), "release.tar")
		s.must(t, "export", release, "-o", file)
		return dumpTar(t, file)
	}
	sameSet(t, "export", tar(a), tar(b))
}

// TestOverlayServerKilled: an overlay needs no server, and the next one takes
// it over.
func TestOverlayServerKilled(t *testing.T) {
	withRaceDetector(t)
	s := newStore(t, "v1.0")
	dir := filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { tearDown(dir) })
	s.must(t, "mount", "v1.0", dir, "--detach", "--backend", "overlay")
	r := serve(t, registrytest.V31, dir, nil)
	before := putImage(t, r.API(t), "a", "before", noise(1, 9000))
	for _, pid := range s.servers() {
		ok(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	s.noServer(t)
	after := putImage(t, r.API(t), "a", "after", noise(2, 9000))
	list := s.must(t, "ls", "v1.0")
	for _, img := range []image{before, after} {
		want(t, "ls has the image", strings.Contains(list, img.digest.String()), true)
	}
	s.refuses(t, failed, []string{"is mounted at"}, "mount", "v1.0", t.TempDir(), "--backend", "overlay")

	m := s.mountAt(t, dir, "v1.0", "--backend", "overlay")
	want(t, "mounts", len(minorsAt(dir)), 1)
	putImage(t, r.API(t), "a", "last", noise(3, 9000))
	want(t, "status", strings.Contains(s.must(t, "status"), "overlay"), true)
	r.Stop()
	m.stop(syscall.SIGTERM)
	want(t, "images", len(strings.Split(strings.TrimSpace(s.must(t, "ls", "v1.0")), "\n")), 1+3)
	r.Restart()
}

// TestOverlayUnmountedByHand: what umount(8) leaves is brought in, with a
// server and without.
func TestOverlayUnmountedByHand(t *testing.T) {
	for _, server := range []string{"with a server", "without"} {
		t.Run(server, func(t *testing.T) {
			s := newStore(t, "v1.0")
			dir := filepath.Join(t.TempDir(), "mnt")
			ok(t, os.Mkdir(dir, 0o755))
			t.Cleanup(func() { tearDown(dir) })
			s.must(t, "mount", "v1.0", dir, "--detach", "--backend", "overlay")
			content := noise(1, 5000)
			d := digest.FromBytes(content)
			writeFile(t, filepath.Join(dir, "kept"), []byte("text"))
			ok(t, os.MkdirAll(filepath.Join(dir, blobDir(d)), 0o755))
			writeFile(t, filepath.Join(dir, blobPath(d)), content)
			if server == "without" {
				for _, pid := range s.servers() {
					ok(t, syscall.Kill(pid, syscall.SIGKILL))
				}
				s.noServer(t)
			}
			command(t, "umount", dir)
			s.noServer(t)
			s.must(t, "ls", "v1.0")
			got, err := os.ReadFile(s.blob(d))
			ok(t, err)
			want(t, "blob", digest.FromBytes(got), d)
			m := s.mount(t, "v1.0", "--backend", "fuse")
			text, err := os.ReadFile(m.path("kept"))
			ok(t, err)
			want(t, "M9 what was there", string(text), "text")
		})
	}
}

// TestOverlayInUse: a mount that somebody uses, here or in another namespace,
// is not read back before he is done, and then is.
func TestOverlayInUse(t *testing.T) {
	needRoot(t)
	s := newStore(t, "v1.0")
	dir := filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { tearDown(dir) })
	s.must(t, "mount", "v1.0", dir, "--detach", "--backend", "overlay")
	d := digest.FromString("content")
	ok(t, os.MkdirAll(filepath.Join(dir, blobDir(d)), 0o755))
	f, err := os.Create(filepath.Join(dir, blobPath(d)))
	ok(t, err)
	s.refuses(t, failed, []string{"in use by", "--force"}, "umount", dir)
	s.refuses(t, failed, []string{"has it open still"}, "umount", dir, "--force")
	_, err = f.WriteString("content")
	ok(t, err)
	ok(t, f.Close())
	s.noServer(t) // it has seen that, and left
	_, err = os.Stat(s.blob(d))
	want(t, "blob of who had it open", err, nil)
}

// TestOverlayInUseAndImport: nothing is imported beside an overlay that somebody
// uses still. When that is read back, it would count as removed.
func TestOverlayInUseAndImport(t *testing.T) {
	needRoot(t)
	releases, err := threeReleases()
	ok(t, err)
	s := newStore(t, "v1.0")
	dir := filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { tearDown(dir) })
	s.must(t, "mount", "v1.0", dir, "--detach", "--backend", "overlay")
	f, err := os.Create(filepath.Join(dir, "plain"))
	ok(t, err)
	defer f.Close()
	for _, pid := range s.servers() {
		ok(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	s.noServer(t)
	command(t, "umount", "--lazy", dir)
	s.refuses(t, failed, []string{"somebody uses still", "regfs sync v1.0"}, "import", "v1.0", releases[0].Dir)
	ok(t, f.Close())
	s.must(t, "import", "v1.0", releases[0].Dir)
	list := s.must(t, "ls", "v1.0")
	s.must(t, "sync", "v1.0")
	want(t, "ls after sync", s.must(t, "ls", "v1.0"), list)
	for _, image := range releases[0].Images {
		want(t, image.Ref()+" is listed", strings.Contains(list, image.Digest.String()), true)
	}
}

// TestOverlayRefused: damage is named, kept, and the exit code says so.
func TestOverlayRefused(t *testing.T) {
	s := newStore(t, "v1.0")
	dir := filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { tearDown(dir) })
	s.must(t, "mount", "v1.0", dir, "--detach", "--backend", "overlay")
	d := digest.FromString("promised")
	ok(t, os.MkdirAll(filepath.Join(dir, blobDir(d)), 0o755))
	writeFile(t, filepath.Join(dir, blobPath(d)), []byte("written"))
	if !within(mountTime, func() bool { return s.regfs(t, "sync", "v1.0").code == damage }) {
		t.Error("sync does not tell of a wrong blob")
	}
	s.refuses(t, damage, []string{"releases/v1.0/refused", blobPath(d), digest.FromString("written").String()}, "umount", dir)
	want(t, "mounted", isMounted(dir), false)
	kept, err := os.ReadFile(filepath.Join(string(s), "releases/v1.0/refused", layout.BlobDataPath(d)))
	ok(t, err)
	want(t, "what was written", string(kept), "written")
}

func TestOverlayCannot(t *testing.T) {
	s := newStore(t, "v1.0")
	for _, flags := range [][]string{
		{"--reuse", "none"}, {"--uid", "1000"}, {"--gid", "1000"}, {"--file-mode", "0600"}, {"--dir-mode", "0700"},
		{"--no-passthrough"},
	} {
		words := []string{"overlayfs cannot do", strings.TrimSuffix(flags[0], "=false")}
		s.refuses(t, usage, words, append([]string{"mount", "v1.0", t.TempDir(), "--backend", "overlay"}, flags...)...)
	}
	s.refuses(t, usage, []string{"--backend"}, "mount", "v1.0", t.TempDir(), "--backend", "nfs")
	s.refuses(t, failed, []string{"no release"}, "mount", "v9", t.TempDir(), "--backend", "overlay")
}

// TestFallback: where there is no /dev/fuse, overlayfs mounts, and says why.
func TestFallback(t *testing.T) {
	s := newStore(t, "v1.0")
	mnt := t.TempDir()
	const noFuse = `mount -t tmpfs none "$2"; touch "$2/null"; mount --bind /dev/null "$2/null"; mount --rbind "$2" /dev`
	r := privately(t, noFuse, s, "mount", "v1.0", mnt, "--detach")
	if r.code != 0 || !strings.Contains(r.stderr, "no /dev/fuse") || !strings.Contains(r.stderr, "overlayfs") {
		t.Fatalf("mount: exit code %d\n%s", r.code, r.stderr)
	}
	var status struct {
		Mounts []struct {
			Backend, Reuse string
			Reason         string `json:"fallback_reason"`
		}
	}
	s.mustJSON(t, &status, "status")
	if len(status.Mounts) != 1 || status.Mounts[0].Backend != "overlay" || status.Mounts[0].Reuse != "repository" ||
		!strings.Contains(status.Mounts[0].Reason, "/dev/fuse") {
		t.Errorf("status: %+v", status)
	}
	want(t, "status says why", strings.Contains(s.must(t, "status"), "not mounted by FUSE: "), true)
	s.must(t, "umount", mnt) // which the server does, in its own namespace
	s.noServer(t)

	r = privately(t, noFuse, s, "mount", "v1.0", mnt, "--uid", "1000")
	refused(t, r, usage, "neither FUSE nor overlayfs", "/dev/fuse", "--uid", "leave it out")
}
