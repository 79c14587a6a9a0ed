package test

import (
	"archive/tar"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// TestFormats gives each form of a release to those who take it, and looks
// that every digest has come through.
func TestFormats(t *testing.T) {
	release := debian(t)[0]
	s := packaged(t, []imagetest.Release{release})
	out := t.TempDir()
	file := func(name string) string { return filepath.Join(out, name) }

	t.Run("registry, as a tree", func(t *testing.T) {
		s.must(t, "export", "v1.0", "-o", file("v1.0.tar"))
		s.must(t, "export", "v1.0", "--dir", file("tree"))
		sameSet(t, "tree", dumpDir(t, file("tree")), dumpTar(t, file("v1.0.tar")))
		for _, v := range registrytest.Versions {
			verify(t, serve(t, v, file("tree"), nil), release)
		}
		s.refuses(t, 1, []string{"is not empty"}, "export", "v1.0", "--dir", file("tree"))
	})
	t.Run("oci", func(t *testing.T) { ociConsumers(t, s, release, out) })
	t.Run("dir", func(t *testing.T) { dirConsumers(t, s, release, out) })
	t.Run("docker-archive", func(t *testing.T) { dockerConsumers(t, s, release, out) })
}

// readable are the images that skopeo of Debian finds in an OCI layout.
func readable(release imagetest.Release) (images []imagetest.Image) {
	for _, i := range release.Images {
		if i.SkopeoReads() {
			images = append(images, i)
		}
	}
	return images
}

func ociConsumers(t *testing.T, s store, release imagetest.Release, out string) {
	dir, file := filepath.Join(out, "oci"), filepath.Join(out, "oci.tar")
	s.must(t, "export", "v1.0", "--format", "oci", "--dir", dir)
	s.must(t, "export", "v1.0", "--format", "oci", "-o", file)
	sameSet(t, "oci.tar", dumpTar(t, file), dumpDir(t, dir))

	r := serve(t, registrytest.V31, t.TempDir(), nil)
	t.Run("by the protocol", func(t *testing.T) {
		moved := release
		moved.Dir = dir
		ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), moved))
		verify(t, r, release)
	})
	t.Run("skopeo", func(t *testing.T) {
		for _, i := range readable(release)[:4] {
			for _, from := range []string{"oci:" + dir, "oci-archive:" + file} {
				registrytest.Skopeo(t, append(append([]string{"copy", "--all", "--preserve-digests"}, r.SkopeoFlags("dest")...),
					from+":"+i.Ref(), "docker://"+r.Addr()+"/skopeo/"+i.Ref())...)
				d, status := r.API(t).HeadManifest("skopeo/"+i.Repository, i.Tag)
				if status != 200 || d.Digest != i.Digest {
					t.Errorf("%s from %s: %d, %s", i.Ref(), from, status, d.Digest)
				}
			}
		}
	})
	t.Run("crane", func(t *testing.T) {
		one, list := filepath.Join(out, "one"), filepath.Join(out, "list")
		image := release.Images[0]
		writeFile(t, list, []byte(image.Ref()+"\n"))
		s.must(t, "export", "v1.0", "--format", "oci", "--images", list, "--no-referrers", "--dir", one)
		registrytest.Crane(t, "push", one, r.Addr()+"/crane/one:1")
		want(t, "digest", strings.TrimSpace(registrytest.Crane(t, "digest", r.Addr()+"/crane/one:1")), image.Digest.String())
	})
}

func dirConsumers(t *testing.T, s store, release imagetest.Release, out string) {
	dir, file, untarred := filepath.Join(out, "dirs"), filepath.Join(out, "dirs.tar"), t.TempDir()
	s.must(t, "export", "v1.0", "--format", "dir", "--dir", dir)
	s.must(t, "export", "v1.0", "--format", "dir", "-o", file)
	command(t, "tar", "-xf", file, "-C", untarred)
	sameSet(t, "dirs.tar", dumpDir(t, untarred), dumpDir(t, dir))
	r := serve(t, registrytest.V28, t.TempDir(), nil)
	to := append([]string{"sync", "--all", "--scoped", "--src", "dir", "--dest", "docker"}, r.SkopeoFlags("dest")...)
	registrytest.Skopeo(t, append(to, untarred, r.Addr()+"/synced")...)
	for _, i := range release.Images {
		d, status := r.API(t).HeadManifest("synced/"+i.Repository, i.Tag)
		if status != 200 || d.Digest != i.Digest {
			t.Errorf("%s: %d, %s, want %s", i.Ref(), status, d.Digest, i.Digest)
		}
	}
}

func dockerConsumers(t *testing.T, s store, release imagetest.Release, out string) {
	file, list := filepath.Join(out, "docker.tar"), filepath.Join(out, "docker.list")
	r := s.regfs(t, "export", "v1.0", "--format", "docker-archive", "-o", file)
	if r.code != 1 || !strings.Contains(r.stderr, "choose one with --platform") || !strings.Contains(r.stderr, "multi/net:1.0") {
		t.Errorf("indexes are not refused by name: %d %s", r.code, r.stderr)
	}
	text := ""
	images := slices.DeleteFunc(slices.Clone(release.Images), func(i imagetest.Image) bool {
		return strings.HasPrefix(i.Tag, "sha256-") || strings.HasSuffix(i.Tag, "-control")
	})
	for _, i := range images {
		text += i.Ref() + "\n"
	}
	writeFile(t, list, []byte(text))
	args := []string{"export", "v1.0", "--format", "docker-archive", "--images", list, "--platform", "linux/amd64", "-o"}
	s.must(t, append(args, file)...)
	sound := dockerArchive(t, file)
	var plan struct{ Size int64 }
	s.mustJSON(t, &plan, append(args[:len(args)-1], "-n")...)
	want(t, "size by the plan", plan.Size, fileSize(t, file))

	t.Run("skopeo", func(t *testing.T) {
		i := images[0]
		dir := t.TempDir()
		registrytest.Skopeo(t, "copy", "docker-archive:"+file+":"+i.Ref(), "oci:"+dir+":x")
		config := registrytest.Skopeo(t, "inspect", "--config", "--raw", "oci:"+dir+":x")
		if !slices.Contains(sound[i.Ref()], digest.FromString(config).Encoded()+".json") {
			t.Errorf("%s has another config: %s", i.Ref(), config)
		}
	})
	t.Run("podman load", func(t *testing.T) {
		p := newPodman(t)
		if r := p.podman("load", "-i", file); r.code != 0 {
			t.Fatalf("%d %s", r.code, r.stderr)
		}
		said := p.podman("images", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}", "--no-trunc").stdout
		for name, parts := range sound {
			if !strings.Contains(said, name+" sha256:"+strings.TrimSuffix(parts[0], ".json")) && !strings.Contains(said, name+" "+strings.TrimSuffix(parts[0], ".json")) {
				t.Errorf("podman does not have %s as %s:\n%s", name, parts[0], said)
			}
		}
	})
}

// dockerArchive reads one as docker does, checks that each content is what its
// name says, and returns each tag's config and layers.
func dockerArchive(t *testing.T, name string) map[string][]string {
	t.Helper()
	var list []struct {
		Config           string
		RepoTags, Layers []string
	}
	seen := make(map[string]bool)
	eachMember(t, name, func(h *tar.Header, r io.Reader, _ int64) {
		if seen[h.Name] {
			t.Errorf("%s is there twice", h.Name)
		}
		seen[h.Name] = true
		data, err := io.ReadAll(r)
		ok(t, err)
		if h.Name == "manifest.json" {
			ok(t, json.Unmarshal(data, &list))
			return
		}
		hex, _, _ := strings.Cut(h.Name, ".")
		want(t, h.Name, digest.FromBytes(data).Encoded(), hex)
	})
	images := make(map[string][]string)
	for _, i := range list {
		for _, tag := range i.RepoTags {
			images[tag] = append([]string{i.Config}, i.Layers...)
		}
		for _, part := range append(i.Layers, i.Config) {
			if !seen[part] {
				t.Errorf("%s of %v is not in the archive", part, i.RepoTags)
			}
		}
	}
	return images
}
