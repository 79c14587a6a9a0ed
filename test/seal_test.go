package test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// TestSealedRelease seals what was pushed by a registry, and goes with it to a
// customer.
func TestSealedRelease(t *testing.T) {
	releases := synthetic(t)
	s := newStore(t)
	for _, release := range releases {
		s.must(t, "release", "create", release.Name)
		pushThrough(t, s, registrytest.V31, release)
	}
	d := strings.TrimSpace(s.must(t, "release", "seal", "v1.0"))
	if digest.Digest(d).Validate() != nil {
		t.Fatalf("seal prints %q", d)
	}
	want(t, "sealed twice", strings.TrimSpace(s.must(t, "release", "seal", "v1.0")), d)
	want(t, "sum of the document", digest.FromString(s.must(t, "release", "show", "v1.0", "--document")).String(), d)
	if said := s.must(t, "verify", "v1.0"); !strings.Contains(said, "good") || !strings.Contains(said, d) {
		t.Errorf("verify says %s", said)
	}
	t.Run("other stores, other orders, another name", func(t *testing.T) {
		other := newStore(t, "other")
		again := releases[0]
		again.Images = slices.Clone(again.Images)
		slices.Reverse(again.Images)
		again.Name = "other"
		pushThrough(t, other, registrytest.V28, again)
		want(t, "digest", strings.TrimSpace(other.must(t, "release", "seal", "other")), d)
	})
	t.Run("mounted", func(t *testing.T) { sealedMount(t, s, releases[0], d) })
	t.Run("mounted by-overlayfs", func(t *testing.T) {
		t.Run(overlayTest, func(t *testing.T) { sealedMount(t, s, releases[0], d) })
	})
	t.Run("handed over", func(t *testing.T) { sealedHandover(t, s, releases, d) })
	t.Run("damaged", func(t *testing.T) { sealedDamage(t, s, d) })
}

// pushThrough brings a release into the store by a registry on its mount. As
// long as that is there, the release is not to be sealed.
func pushThrough(t *testing.T, s store, v registrytest.Version, release imagetest.Release) {
	t.Helper()
	m := s.mount(t, release.Name)
	r := serve(t, v, m.dir, nil)
	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
	s.refuses(t, 1, []string{"mounted at", "umount it first"}, "release", "seal", release.Name)
	r.Stop()
	m.stop(syscall.SIGTERM)
}

// sealedMount: a registry serves the release whole, and nothing writes to it.
func sealedMount(t *testing.T, s store, release imagetest.Release, d string) {
	m := s.mount(t, "v1.0")
	before := dumpDir(t, m.dir)
	r := serve(t, registrytest.V31, m.dir, nil)
	verify(t, r, release)
	image := release.Images[0]
	if err := imagetest.Push(t.Context(), r.Client(), r.URL(), release.Dir, image.Ref(), "new/repository", "1"); err == nil {
		t.Error("a push to it succeeds")
	}
	verify(t, r, release)
	r.Stop()
	var blob string
	ok(t, filepath.WalkDir(m.path("docker/registry/v2/blobs"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Name() == "data" {
			blob = path
		}
		return err
	}))
	for what, try := range map[string]func() error{
		"mkdir":    func() error { return os.Mkdir(m.path("new"), 0o755) },
		"create":   func() error { return os.WriteFile(m.path("x"), nil, 0o600) },
		"remove":   func() error { return os.Remove(blob) },
		"open":     func() error { return os.WriteFile(blob, nil, 0o600) },
		"truncate": func() error { return os.Truncate(blob, 0) },
		"rename":   func() error { return os.Rename(blob, blob+"x") },
		"chmod":    func() error { return os.Chmod(blob, 0o600) },
		"link":     func() error { return os.Link(blob, m.path("x")) },
		"symlink":  func() error { return os.Symlink("x", m.path("x")) },
	} {
		if err := try(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	sameSet(t, "the mount after all that", dumpDir(t, m.dir), before)
	want(t, "sealing what is mounted, and sealed", strings.TrimSpace(s.must(t, "release", "seal", "v1.0")), d)
	if !strings.Contains(t.Name(), overlayTest) { // which needs no server
		ok(t, syscall.Kill(s.server(), syscall.SIGKILL))
		if !within(mountTime, func() bool { return m.says("mount restored") }) {
			t.Fatal("the mount does not come back")
		}
		if err := os.Mkdir(m.path("new"), 0o755); !errors.Is(err, syscall.EROFS) {
			t.Errorf("mkdir on a mount that was restored: %v, want EROFS", err)
		}
	}
	m.stop(syscall.SIGTERM)
	want(t, "digest after it was mounted", strings.TrimSpace(s.must(t, "release", "seal", "v1.0")), d)
	s.must(t, "verify", "v1.0")
}

// sealedHandover: whatever way a release comes to a customer, it is the one of
// that digest there.
func sealedHandover(t *testing.T, s store, releases []imagetest.Release, d1 string) {
	d2 := strings.TrimSpace(s.must(t, "release", "seal", "v1.1"))
	out := t.TempDir()
	file := func(name string) string { return filepath.Join(out, name) }
	s.must(t, "export", "v1.0", "-o", file("v1.0.tar"))
	s.must(t, "export", "v1.0", "-o", file("again.tar"))
	s.must(t, "export", "v1.1", "-o", file("v1.1.tar"))
	s.must(t, "export", "v1.1", "--base", "v1.0", "-o", file("patch.tar"))
	command(t, "cmp", file("v1.0.tar"), file("again.tar"))

	none := store("") // a customer has none
	for _, name := range []string{"v1.1.tar", "patch.tar"} {
		if said := none.must(t, "verify", "--digest", d2, file(name)); !strings.Contains(said, d2) {
			t.Errorf("%s: verify says %s", name, said)
		}
	}
	none.must(t, "verify", "--digest", d2, "--exact", file("v1.1.tar"))
	want(t, "another release's digest", none.regfs(t, "verify", "--digest", d1, file("v1.1.tar")).code, damage)
	c := newCustomer(t)
	c.untar(file("v1.0.tar"))
	command(t, "sh", "-c", "cd "+c.dir+" && sha256sum -c --quiet regfs/v1.0/SHA256SUMS && sha256sum regfs/v1.0/release.json | grep -q ^"+strings.TrimPrefix(d1, "sha256:"))
	none.must(t, "verify", "--digest", d1, "--exact", c.dir)
	c.untar(file("patch.tar"))
	command(t, "sh", "-c", "cd "+c.dir+" && sha256sum -c --quiet regfs/v1.1/SHA256SUMS")
	var report struct {
		Release string
		Extra   []string
	}
	none.mustJSON(t, &report, "verify", "--digest", d2, c.dir)
	want(t, "release at the customer's", report.Release, d2)
	if len(report.Extra) == 0 {
		t.Error("nothing is left of v1.0, or not found")
	}
	none.must(t, "verify", "--digest", d1, c.dir) // whose tags are there still
	verify(t, serve(t, registrytest.V31, c.dir, nil), releases[1])

	full := newCustomer(t)
	full.untar(file("v1.1.tar"))
	ok(t, os.RemoveAll(filepath.Join(full.dir, "regfs")))
	none.must(t, "verify", "--digest", d2, full.dir) // the names make the document
	blobs, err := filepath.Glob(filepath.Join(full.dir, "docker/registry/v2/blobs/sha256/*/*/data"))
	ok(t, err)
	flip(t, blobs[len(blobs)/2])
	r := none.regfs(t, "verify", "--digest", d2, full.dir)
	want(t, "a byte is flipped", r.code, damage)
	if !strings.Contains(r.stdout, "damaged") {
		t.Errorf("verify says %s", r.stdout)
	}
}

// flip changes a byte of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	ok(t, err)
	text[len(text)/2] ^= 1
	ok(t, os.Chmod(name, 0o644))
	ok(t, os.WriteFile(name, text, 0o644))
}

// sealedDamage: what rots in the store is found, down to a layer and up to the
// document.
func sealedDamage(t *testing.T, s store, d string) {
	var images []struct{ Digest digest.Digest }
	s.mustJSON(t, &images, "ls", "v1.0")
	var manifest struct {
		Layers []struct{ Digest digest.Digest }
	}
	text, err := os.ReadFile(s.blob(images[0].Digest))
	ok(t, err)
	ok(t, json.Unmarshal(text, &manifest))
	layer := s.blob(manifest.Layers[0].Digest)
	whole, err := os.ReadFile(layer)
	ok(t, err)
	flip(t, layer)
	r := s.regfs(t, "verify", "v1.0")
	want(t, "a layer is damaged", r.code, damage)
	if !strings.Contains(r.stdout, manifest.Layers[0].Digest.String()) || !strings.Contains(r.stdout, "needed by") {
		t.Errorf("verify says %s", r.stdout)
	}
	writeFile(t, layer, whole)
	s.must(t, "verify", "v1.0")
	ok(t, os.Remove(s.blob(digest.Digest(d))))
	want(t, "the document is lost", s.regfs(t, "verify", "v1.0").code, damage)
	want(t, "and comes back", strings.TrimSpace(s.must(t, "release", "seal", "v1.0")), d)
	s.must(t, "verify", "v1.0")
}

// TestReleaseIsAValue forks, tags and renames what was sealed.
func TestReleaseIsAValue(t *testing.T) {
	releases := synthetic(t)
	s := newStore(t, "v1.0")
	pushThrough(t, s, registrytest.V31, releases[0])
	d := strings.TrimSpace(s.must(t, "release", "seal", "v1.0"))
	before := diskUsage(t, string(s)+"/docker")
	s.must(t, "release", "fork", "v1.0", "v1.0.1")
	want(t, "bytes of blobs after a fork", diskUsage(t, string(s)+"/docker"), before)
	want(t, "a fork, sealed", strings.TrimSpace(s.must(t, "release", "seal", "v1.0.1")), d)
	s.must(t, "release", "fork", "v1.0.1", "next")
	first := releases[0].Images[0]
	s.refuses(t, 1, []string{"is sealed", "release fork v1.0 NEW"}, "tag", "v1.0", first.Ref(), first.Repository+":moved")
	s.refuses(t, 1, []string{"is sealed"}, "untag", "v1.0", first.Ref())
	s.refuses(t, 1, []string{"exists already"}, "release", "fork", "v1.0", "next")
	s.refuses(t, 1, []string{"exists already"}, "release", "rename", "next", "v1.0")
	s.refuses(t, 1, []string{"no release none"}, "release", "rename", "none", "v2")
	s.refuses(t, 2, []string{"bad release name"}, "release", "rename", "next", "../../etc")
	s.refuses(t, 2, []string{"bad release name"}, "release", "fork", "next", "..")
	s.refuses(t, 1, []string{"no image none:1"}, "tag", "next", "none:1", "none:2")
	s.refuses(t, 1, []string{"no image"}, "tag", "next", first.Repository+"@"+digest.FromString("x").String(), "none:2")
	s.refuses(t, 2, []string{"no image of a release"}, "tag", "next", "no-tag", "none:2")
	s.refuses(t, 2, []string{"a tag is wanted"}, "tag", "next", first.Ref(), first.Repository+"@"+digest.FromString("x").String())
	s.refuses(t, 2, []string{"no image of a release"}, "tag", "next", first.Ref(), "../up:1")
	s.must(t, "tag", "next", first.Ref(), first.Repository+":moved")
	s.must(t, "tag", "next", first.Ref(), "another/repository:1")
	s.must(t, "untag", "next", releases[0].Images[1].Ref(), "--image")
	s.must(t, "release", "rename", "next", "v1.1")
	s.refuses(t, 1, []string{"no release next"}, "ls", "next")
	if d2 := strings.TrimSpace(s.must(t, "release", "seal", "v1.1")); d2 == d {
		t.Error("another content has the same digest")
	}
	s.must(t, "verify", "v1.1")
	s.must(t, "fsck")
	m := s.mount(t, "v1.1")
	s.refuses(t, 1, []string{"mounted at"}, "release", "rename", "v1.1", "v1.2")
	r := serve(t, registrytest.V31, m.dir, nil)
	part := releases[0]
	part.Images = append(slices.Clone(part.Images[:1]), part.Images[2:]...)
	verify(t, r, part)
	renamed := part.Images[0]
	for _, name := range []string{renamed.Repository + ":moved", "another/repository:1"} {
		registrytest.Crane(t, "validate", "--remote", r.Addr()+"/"+name)
	}
	gone := releases[0].Images[1]
	want(t, "tags of what was taken out", len(r.API(t).Tags(gone.Repository, 0, "").Names), 0)
	r.Stop()
	m.stop(syscall.SIGTERM)
	s.must(t, "release", "rename", "v1.0", "first")
	want(t, "digest under another name", strings.TrimSpace(s.must(t, "release", "seal", "first")), d)
	s.must(t, "verify", "first")
}

// TestSealedReleaseTravels: what is imported from an export, or from a patch over
// what was imported, is the release of the same digest, and a sealed one takes no
// import.
func TestSealedReleaseTravels(t *testing.T) {
	releases := synthetic(t)
	s, out := newStore(t), t.TempDir()
	var digests []string
	for _, release := range releases {
		s.must(t, "release", "create", release.Name)
		pushThrough(t, s, registrytest.V31, release)
		digests = append(digests, s.must(t, "release", "seal", release.Name))
	}
	full, patch := filepath.Join(out, "v1.0.tar"), filepath.Join(out, "patch.tar")
	s.must(t, "export", "v1.0", "-o", full)
	s.must(t, "export", "v1.1", "--base", "v1.0", "-o", patch)
	other := newStore(t)
	for i, file := range []string{full, patch} {
		other.must(t, "import", "--create", releases[i].Name, file)
		want(t, "digest of what was imported as "+releases[i].Name, other.must(t, "release", "seal", releases[i].Name), digests[i])
	}
	other.refuses(t, 1, []string{"is sealed", "release fork v1.0 NEW"}, "import", "v1.0", full)
	other.must(t, "release", "fork", "v1.0", "both")
	other.must(t, "import", "both", full)
	want(t, "digest when it was imported over itself", other.must(t, "release", "seal", "both"), digests[0])
}

// TestSealWithUploadPending: what a client has not finished is no part of what is
// sealed, and stays where it is.
func TestSealWithUploadPending(t *testing.T) {
	release := synthetic(t)[0]
	s := newStore(t, "v1.0", "plain")
	pushThrough(t, s, registrytest.V31, release)
	other := release
	other.Name = "plain"
	pushThrough(t, s, registrytest.V31, other)
	m := s.mount(t, "v1.0")
	r := serve(t, registrytest.V31, m.dir, nil)
	resp, err := r.Client().Post(r.URL()+"/v2/pending/blobs/uploads/", "", nil)
	ok(t, err)
	ok(t, resp.Body.Close())
	want(t, "status", resp.StatusCode, 202)
	r.Stop()
	m.stop(syscall.SIGTERM)
	d := s.must(t, "release", "seal", "v1.0")
	want(t, "digest of the same without an upload", s.must(t, "release", "seal", "plain"), d)
	m = s.mount(t, "v1.0")
	uploads, err := filepath.Glob(m.path("docker/registry/v2/repositories/pending/_uploads/*"))
	ok(t, err)
	want(t, "uploads on the mount", len(uploads), 1)
	if err := os.RemoveAll(uploads[0]); !errors.Is(err, syscall.EROFS) {
		t.Errorf("an upload is removed: %v, want EROFS", err)
	}
	m.stop(syscall.SIGTERM)
	s.must(t, "verify", "v1.0")

	t.Chdir(t.TempDir())
	ok(t, os.Mkdir("v1.0", 0o755))
	s.refuses(t, 2, []string{"a release in the store, and a file here", "./v1.0"}, "verify", "v1.0")
	s.refuses(t, 1, []string{"no registry's storage"}, "verify", "./v1.0")
	s.refuses(t, 1, []string{"no such file, and no release v0.9"}, "verify", "v0.9")
	s.refuses(t, 2, []string{"no digest of a release"}, "verify", "--digest", "5f70", "v1.0")
	s.refuses(t, 2, []string{"--exact is for --digest"}, "verify", "--exact", "v1.0")
	s.refuses(t, 3, []string{"not whole", "it has no image"}, "release", "seal", func() string { s.must(t, "release", "create", "empty"); return "empty" }())
	s.refuses(t, 1, []string{"is not sealed"}, "release", "show", "empty", "--document")
}

// TestSealedReleaseIsNoGarbage: a collection leaves a document as long as one
// release is sealed with it, and takes it then.
func TestSealedReleaseIsNoGarbage(t *testing.T) {
	release := synthetic(t)[0]
	s := newStore(t, "v1.0")
	pushThrough(t, s, registrytest.V31, release)
	d := strings.TrimSpace(s.must(t, "release", "seal", "v1.0"))
	s.must(t, "release", "fork", "v1.0", "twin")
	want(t, "digest of the twin", strings.TrimSpace(s.must(t, "release", "seal", "twin")), d)
	want(t, "blobs that went", s.collect(t, "--grace", "0s").Removed.Blobs, 0)
	s.must(t, "release", "rm", "v1.0")
	want(t, "blobs that went", s.collect(t, "--grace", "0s").Removed.Blobs, 0)
	s.must(t, "verify", "twin")
	s.must(t, "release", "fork", "twin", "open")
	s.must(t, "release", "rm", "twin")
	want(t, "blobs that went with the last sealed one", s.collect(t, "--grace", "0s").Removed.Blobs, 1)
	want(t, "the document comes back", strings.TrimSpace(s.must(t, "release", "seal", "open")), d)
	s.must(t, "verify", "open")
	s.must(t, "fsck")
}

func diskUsage(t *testing.T, dir string) string {
	t.Helper()
	return strings.Fields(command(t, "du", "-sb", dir))[0]
}
