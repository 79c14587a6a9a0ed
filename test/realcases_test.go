package test

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/imagetest"
)

// A shape is how the images of a list share layers: so many images, each with
// layers of its own on one of the bases.
type shape struct {
	name                  string
	images, bases         int
	baseLayers, baseSize  int // layers of a base, bytes of each
	ownLayers, ownSize    int
	files, shared         int     // as published: files of skopeo's form, and blobs when each is there once
	megabytes, megabytes1 float64 // the same in bytes: the published gigabytes by a thousand; 0: not published
}

// Published figures of a packaging team. The bytes are a thousandth of theirs.
var shapes = []shape{
	{"three images on one base", 3, 1, 2, 20_000, 0, 0, 12, 8, 0, 0},
	{"a patch's list", 31, 8, 4, 21_700, 3, 6_500, 279, 187, 3.3, 1.3},
	{"an image list", 158, 49, 2, 12_400, 4, 11_200, 1264, 1046, 11, 8.3},
}

// make writes images of the shape to an OCI layout.
func (s shape) make(t *testing.T, dir string) imagetest.Release {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	ok(t, os.MkdirAll(blobs, 0o755))
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := digest.FromBytes(content)
		writeFile(t, filepath.Join(blobs, d.Encoded()), content)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	layer := func(image, number, size int) ocispec.Descriptor {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(image), byte(image >> 8), byte(number), 77}).Read(b)
		return put(ocispec.MediaTypeImageLayer, b)
	}
	encode := func(v any) []byte {
		text, err := json.Marshal(v)
		ok(t, err)
		return text
	}
	release := imagetest.Release{Name: "v1.0", Dir: dir}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for i := range s.images {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
		for n := range s.baseLayers {
			m.Layers = append(m.Layers, layer(10_000+i%s.bases, n, s.baseSize))
		}
		for n := range s.ownLayers {
			m.Layers = append(m.Layers, layer(i, n, s.ownSize))
		}
		m.Config = put(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Cmd":["%d"]},"rootfs":{"type":"layers","diff_ids":[]}}`, i))
		d := put(ocispec.MediaTypeImageManifest, encode(m))
		image := imagetest.Image{Repository: fmt.Sprintf("case/app%03d", i), Tag: "1", Digest: d.Digest, MediaType: d.MediaType}
		d.Annotations = map[string]string{ocispec.AnnotationRefName: image.Ref()}
		index.Manifests = append(index.Manifests, d)
		release.Images = append(release.Images, image)
	}
	writeFile(t, filepath.Join(dir, "index.json"), encode(index))
	writeFile(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return release
}

// countFiles counts the files of a tar and their bytes, once with each name and
// once with each content. Links and files of a form's own are none.
func countFiles(t *testing.T, name string, isBlob func(string) bool) (files, blobs int, bytes, once int64) {
	t.Helper()
	sizes := make(map[string]int64)
	eachMember(t, name, func(h *tar.Header, _ io.Reader, _ int64) {
		if h.Typeflag == tar.TypeDir || !isBlob(h.Name) {
			return
		}
		size := h.Size
		if h.Typeflag == tar.TypeLink {
			size = sizes[h.Linkname]
		} else {
			blobs++
			once += size
		}
		sizes[h.Name] = size
		files++
		bytes += size
	})
	return files, blobs, bytes, once
}

// TestRealCases is what sharing layers saves in lists of the shapes that were
// published, from skopeo's form to a registry's.
func TestRealCases(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // much of the time is the disk's
			if testing.Short() && s.images > 100 {
				t.Skip("NOT TESTED in short mode: the largest list")
			}
			release := s.make(t, t.TempDir())
			store := packaged(t, []imagetest.Release{release})
			out := t.TempDir()
			store.must(t, "export", "v1.0", "--format", "dir", "-o", out+"/dir.tar")
			store.must(t, "export", "v1.0", "-o", out+"/registry.tar")
			files, _, bytes, _ := countFiles(t, out+"/dir.tar", func(name string) bool { return filepath.Base(name) != "version" })
			_, blobs, _, once := countFiles(t, out+"/registry.tar", func(name string) bool { return strings.HasSuffix(name, "/data") })
			want(t, "files", files, s.files)
			want(t, "blobs", blobs, s.shared)
			mb, mb1 := float64(bytes)/1e6, float64(once)/1e6
			t.Logf("%d files, %.2f MB → %d blobs, %.2f MB: %.0f %% less", files, mb, blobs, mb1, 100*(1-mb1/mb))
			if s.megabytes > 0 && (mb < 0.9*s.megabytes || mb > 1.1*s.megabytes || mb1 < 0.9*s.megabytes1 || mb1 > 1.1*s.megabytes1) {
				t.Errorf("%.2f MB → %.2f MB, published were %.1f → %.1f by a thousandth", mb, mb1, s.megabytes, s.megabytes1)
			}
			store.must(t, "verify", out+"/registry.tar")
		})
	}
}
