package formats

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/layout"
)

// A shelf has blobs in a directory, and an inventory of images of them.
type shelf struct {
	*testing.T
	dir string
	inv *export.Inventory
}

func newShelf(t *testing.T) *shelf {
	return &shelf{t, t.TempDir(), &export.Inventory{Release: "v1"}}
}

func (s *shelf) Open(d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(s.dir, d.Encoded()))
}

func (s *shelf) put(content, mediaType string) v1.Descriptor {
	d := digest.FromString(content)
	if err := os.WriteFile(filepath.Join(s.dir, d.Encoded()), []byte(content), 0o600); err != nil {
		s.Fatal(err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (s *shelf) layer(content string) v1.Descriptor {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(content))
	w.Close()
	return s.put(b.String(), v1.MediaTypeImageLayerGzip)
}

// image makes an image of layers with these contents.
func (s *shelf) image(layers ...string) (m v1.Descriptor, needs []v1.Descriptor) {
	var config v1.Image
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString(l))
		manifest.Layers = append(manifest.Layers, s.layer(l))
	}
	manifest.Config = s.put(string(compact(config)), v1.MediaTypeImageConfig)
	m = s.put(string(compact(manifest)), v1.MediaTypeImageManifest)
	return m, append(manifest.Layers, manifest.Config, m)
}

// add makes an image known under a name, with what it needs.
func (s *shelf) add(name string, m v1.Descriptor, needs ...v1.Descriptor) {
	at := len(s.inv.Images)
	s.inv.Images = append(s.inv.Images, name)
	for _, d := range append(needs, m) {
		i := slices.IndexFunc(s.inv.Files, func(f export.File) bool { return f.Blob == d.Digest })
		if i < 0 {
			i = len(s.inv.Files)
			s.inv.Files = append(s.inv.Files, export.File{Path: layout.BlobDataPath(d.Digest), Size: d.Size, Blob: d.Digest})
		}
		if !slices.Contains(s.inv.Files[i].NeededBy, at) {
			s.inv.Files[i].NeededBy = append(s.inv.Files[i].NeededBy, at)
		}
	}
	if repo, tag, ok := strings.Cut(name, ":"); ok && !strings.Contains(name, "@") {
		s.inv.Files = append(s.inv.Files, export.File{Path: layout.TagCurrentLinkPath(repo, tag), Link: m.Digest})
	}
}

func (s *shelf) members(f Format, o Options) archive.Archive {
	s.Helper()
	all, _, err := f.Members(s.Context(), s.inv, s, o)
	if err != nil {
		s.Fatal(err)
	}
	return all
}

func find(all archive.Archive, path string) *archive.Member {
	for i := range all {
		if all[i].Path == path {
			return &all[i]
		}
	}
	return nil
}

func TestDockerArchive(t *testing.T) {
	s := newShelf(t)
	a, needs := s.image("base", "", "", "app") // an empty layer, twice
	s.add("a:1", a, needs...)
	s.add("a:latest", a, needs...)
	b, needs := s.image("base", "other")
	s.add("b:1", b, needs...)
	all := s.members(DockerArchive, Options{Host: "r.example.com"})
	var images []dockerImage
	if err := json.Unmarshal([]byte(find(all, "manifest.json").Text), &images); err != nil {
		t.Fatal(err)
	}
	tar := func(s string) string { return digest.FromString(s).Encoded() + ".tar" }
	if len(images) != 2 || !slices.Equal(images[0].RepoTags, []string{"r.example.com/a:1", "r.example.com/a:latest"}) ||
		!slices.Equal(images[0].Layers, []string{tar("base"), tar(""), tar(""), tar("app")}) {
		t.Errorf("%+v", images)
	}
	if len(all) != 1+2+4 { // the list, two configs, each layer once
		t.Errorf("%d members", len(all))
	}
	if m := find(all, tar("app")); m == nil || m.Size != 3 || m.Unpacked != digest.FromString("app") {
		t.Errorf("%+v", m)
	}
	if again := s.members(DockerArchive, Options{Host: "r.example.com"}); !slices.Equal(again, all) {
		t.Error("twice is not the same")
	}
}

func TestDockerArchiveRefusesByName(t *testing.T) {
	s := newShelf(t)
	amd, needsA := s.image("amd")
	arm, needsB := s.image("arm")
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	amd.Platform, arm.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}, &v1.Platform{OS: "linux", Architecture: "arm64"}
	index.Manifests = []v1.Descriptor{amd, arm}
	list := s.put(string(compact(index)), v1.MediaTypeImageIndex)
	chart := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	chart.Config = s.put("{}", "application/vnd.cncf.helm.config.v1+json")
	chart.Layers = []v1.Descriptor{s.layer("chart")}
	helm := s.put(string(compact(chart)), v1.MediaTypeImageManifest)
	windows, needsW := s.image("windows")

	s.add("multi:1", list, append(needsA, needsB...)...)
	s.add("chart:1", helm, chart.Config, chart.Layers[0])
	s.add("windows:1", windows, needsW[1:]...) // its layer may not be distributed
	_, _, err := DockerArchive.Members(t.Context(), s.inv, s, Options{})
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Images) != 3 {
		t.Fatalf("%v", err)
	}
	for _, word := range []string{"multi:1 (an index of linux/amd64, linux/arm64; choose one", "chart:1 (an artifact", "helm", "windows:1 (layer"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}

	sparse := newShelf(t)
	sparse.dir = s.dir
	sparse.add("multi:1", list, needsA...)
	all := sparse.members(DockerArchive, Options{})
	if !strings.Contains(find(all, "manifest.json").Text, digest.FromString("amd").Encoded()) {
		t.Errorf("a sparse index with one image is not that image: %+v", all)
	}
}

func TestDockerArchiveChecksTheConfig(t *testing.T) {
	s := newShelf(t)
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Layers = []v1.Descriptor{s.layer("layer")}
	for _, diffs := range [][]digest.Digest{nil, {digest.FromString("other")}, {"sha256:x"}} {
		var config v1.Image
		config.RootFS.DiffIDs = diffs
		m.Config = s.put(string(compact(config)), v1.MediaTypeImageConfig)
		one := newShelf(t)
		one.dir = s.dir
		one.add("a:1", s.put(string(compact(m)), v1.MediaTypeImageManifest), m.Config, m.Layers[0])
		if _, _, err := DockerArchive.Members(t.Context(), one.inv, one, Options{}); err == nil {
			t.Errorf("layers %v were taken", diffs)
		}
	}
}

func TestDirsShareBlobs(t *testing.T) {
	s := newShelf(t)
	a, needs := s.image("base", "a")
	s.add("x/a:1", a, needs...)
	b, needs := s.image("base", "b")
	s.add("x/b:1", b, needs...)
	all := s.members(Dir, Options{})
	base := s.layer("base").Digest.Encoded()
	first, second := find(all, "x/a:1/"+base), find(all, "x/b:1/"+base)
	if first == nil || second == nil || first.Blob == "" || second.Same != "x/a:1/"+base || second.Size != 0 {
		t.Errorf("%+v, %+v", first, second)
	}
	if m := find(all, "x/b:1/manifest.json"); m == nil || m.Blob != b.Digest {
		t.Errorf("%+v", m)
	}
}

func TestOCINames(t *testing.T) {
	s := newShelf(t)
	a, needs := s.image("a")
	s.add("library/a:1", a, needs...)
	b, needs := s.image("b")
	s.add("b@"+b.Digest.String(), b, needs...)
	for host, want := range map[string][2]string{
		"":               {"library/a:1", "docker.io/library/a:1"},
		"localhost:5000": {"localhost:5000/library/a:1", "localhost:5000/library/a:1"},
	} {
		var index v1.Index
		if err := json.Unmarshal([]byte(find(s.members(OCI, Options{Host: host}), "index.json").Text), &index); err != nil {
			t.Fatal(err)
		}
		got := index.Manifests[1].Annotations
		if index.Manifests[0].Annotations != nil || got[v1.AnnotationRefName] != want[0] || got[containerdName] != want[1] {
			t.Errorf("%+v", index.Manifests)
		}
	}
}

func TestDamagedManifestIsFound(t *testing.T) {
	s := newShelf(t)
	a, needs := s.image("a")
	s.add("a:1", a, needs...)
	for content, says := range map[string]string{"{}": "bytes", strings.Repeat("x", int(a.Size)): "content has digest"} {
		if err := os.WriteFile(filepath.Join(s.dir, a.Digest.Encoded()), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, f := range []Format{OCI, DockerArchive, Dir} {
			if _, _, err := f.Members(t.Context(), s.inv, s, Options{}); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}
