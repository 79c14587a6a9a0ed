package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// onBoth runs a test on both registries, over a directory of its own.
func onBoth(t *testing.T, test func(t *testing.T, o Options)) {
	for _, v := range Versions {
		t.Run(string(v), func(t *testing.T) { test(t, Options{Version: v, Root: t.TempDir()}) })
	}
}

// want fails the test on another status than the protocol's.
func want(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: status %d, want %d", what, got, want)
	}
}

// pushImage pushes a config and a layer, and a manifest under the tag.
func pushImage(t *testing.T, a *API, repo, tag string, layer []byte) (ocispec.Manifest, digest.Digest) {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux"}`)
	configDigest, status := a.PushBlobMonolithic(repo, config)
	want(t, "config", status, http.StatusCreated)
	layerDigest, status := a.PushBlobChunked(repo, layer, 3)
	want(t, "layer in chunks", status, http.StatusCreated)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: configDigest, Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: layerDigest, Size: int64(len(layer))}},
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, status := a.PutManifest(repo, tag, m.MediaType, body)
	want(t, "manifest", status, http.StatusCreated)
	if d != digest.FromBytes(body) {
		t.Fatalf("manifest digest %s, want %s", d, digest.FromBytes(body))
	}
	return m, d
}

// noise returns n bytes that differ for each seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

func TestPushPullDelete(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		a := Start(t, o).API(t)
		layer := noise(1, 1<<20)
		m, d := pushImage(t, a, "library/one", "1.0", layer)

		got, status := a.GetManifest("library/one", "1.0")
		want(t, "get manifest", status, http.StatusOK)
		if got.Digest != d || got.MediaType != m.MediaType || digest.FromBytes(got.Body) != d {
			t.Errorf("manifest %s of type %s came back as %s, %s", d, m.MediaType, got.Digest, got.MediaType)
		}
		blob, status := a.GetBlob("library/one", m.Layers[0].Digest)
		want(t, "get blob", status, http.StatusOK)
		if !bytes.Equal(blob, layer) {
			t.Error("layer came back changed")
		}
		size, status := a.HeadBlob("library/one", m.Layers[0].Digest)
		want(t, "head blob", status, http.StatusOK)
		if size != int64(len(layer)) {
			t.Errorf("size %d, want %d", size, len(layer))
		}
		want(t, "delete manifest", a.DeleteManifest("library/one", d.String()), http.StatusAccepted)
		_, status = a.HeadManifest("library/one", d.String())
		want(t, "head deleted manifest", status, http.StatusNotFound)
		want(t, "delete blob", a.DeleteBlob("library/one", m.Config.Digest), http.StatusAccepted)
		_, status = a.HeadBlob("library/one", m.Config.Digest)
		want(t, "head deleted blob", status, http.StatusNotFound)
	})
}

func TestListingByPages(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		a := Start(t, o).API(t)
		var names []string
		for i := range 5 {
			names = append(names, fmt.Sprintf("r%d", i))
			pushImage(t, a, "library/tags", names[i], noise(9, 3000))
			pushImage(t, a, "library/"+names[i], "x", noise(9, 3000))
		}
		if got := slices.Sorted(slices.Values(a.AllTags("library/tags", 2))); !slices.Equal(got, names) {
			t.Errorf("tags %v, want %v", got, names)
		}
		if got := a.AllRepositories(2); len(got) != 6 || !slices.IsSorted(got) {
			t.Errorf("catalog %v, want six repositories", got)
		}
		page := a.Catalog(2, "")
		if len(page.Names) != 2 || page.Next == "" {
			t.Errorf("first page %+v, want two names and a link", page)
		}
		if page := a.Tags("library/absent", 0, ""); page.Status != http.StatusNotFound {
			t.Errorf("tags of an absent repository: status %d", page.Status)
		}
	})
}

func TestUploadStepByStep(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		r := Start(t, o)
		a := r.API(t)
		content := noise(2, 100_000)
		u, status := a.StartUpload("up/load")
		want(t, "start", status, http.StatusAccepted)
		u, status = a.PatchUpload(u, content[:40_000])
		want(t, "patch", status, http.StatusAccepted)
		if o.Version != V28 {
			wrong := u
			wrong.Offset = 0
			_, status = a.PatchUpload(wrong, content)
			want(t, "patch at a wrong offset", status, http.StatusRequestedRangeNotSatisfiable)
		}
		r.Restart()
		u, status = a.GetUploadStatus(u)
		want(t, "status after restart", status, http.StatusNoContent)
		if u.Offset != 40_000 || u.UUID == "" {
			t.Fatalf("after restart %+v", u)
		}
		d := digest.FromBytes(content)
		want(t, "finish", a.FinishUpload(u, d, content[40_000:]), http.StatusCreated)

		_, status = a.MountBlob("else/where", d, "up/load")
		want(t, "mount", status, http.StatusCreated)
		_, status = a.HeadBlob("else/where", d)
		want(t, "head mounted", status, http.StatusOK)
		u, status = a.MountBlob("else/where", digest.FromString("absent"), "up/load")
		want(t, "mount of an absent blob", status, http.StatusAccepted)
		want(t, "cancel", a.CancelUpload(u), http.StatusNoContent)
		_, status = a.GetUploadStatus(u)
		want(t, "status of a cancelled upload", status, http.StatusNotFound)
	})
}

func TestGarbageCollect(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		r := Start(t, o)
		a := r.API(t)
		m, d := pushImage(t, a, "library/one", "1.0", noise(3, 5000))
		keep, _ := pushImage(t, a, "library/two", "1.0", noise(4, 5000))
		want(t, "delete", a.DeleteManifest("library/one", d.String()), http.StatusAccepted)
		r.Stop()
		out := r.GarbageCollect("--delete-untagged")
		if !strings.Contains(out, m.Layers[0].Digest.String()) {
			t.Errorf("the collector does not speak of %s:\n%s", m.Layers[0].Digest, out)
		}
		if exists(t, o.Root, m.Layers[0].Digest) || !exists(t, o.Root, keep.Layers[0].Digest) {
			t.Error("the collector has removed the wrong blobs")
		}
		r.Restart()
		_, status := a.GetBlob("library/two", keep.Layers[0].Digest)
		want(t, "blob that was kept", status, http.StatusOK)
	})
}

// exists says whether a blob's file is in the storage directory.
func exists(t *testing.T, root string, d digest.Digest) bool {
	t.Helper()
	path := filepath.Join(root, "docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
	_, err := os.Stat(path)
	return err == nil
}

func TestPasswordAndTLS(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		o.Htpasswd, o.TLS = true, true
		r := Start(t, o)
		_, d := pushImage(t, r.API(t), "library/one", "1.0", noise(5, 5000))
		image := r.Addr() + "/library/one:1.0"

		inspect := append([]string{"inspect", "--raw"}, r.SkopeoFlags("")...)
		if got := digest.FromString(Skopeo(t, append(inspect, "docker://"+image)...)); got != d {
			t.Errorf("skopeo saw %s, want %s", got, d)
		}
		if _, err := TryCrane(t, "digest", image); err == nil {
			t.Error("crane came in without password")
		}
		r.CraneLogin(t)
		if got := strings.TrimSpace(Crane(t, "digest", image)); !strings.HasSuffix(got, d.String()) {
			t.Errorf("crane saw %s, want %s", got, d)
		}
		stranger := NewAPI(t, newClient(t, Options{TLS: true}, r.dir), r.URL())
		_, status := stranger.HeadManifest("library/one", "1.0")
		want(t, "without password", status, http.StatusUnauthorized)
	})
}

func TestPullThrough(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		far := Start(t, Options{Version: o.Version, Root: t.TempDir()})
		m, d := pushImage(t, far.API(t), "library/one", "1.0", noise(6, 5000))
		o.Proxy = far.URL()
		near := Start(t, o).API(t)
		got, status := near.GetManifest("library/one", "1.0")
		want(t, "manifest", status, http.StatusOK)
		if got.Digest != d {
			t.Errorf("manifest %s, want %s", got.Digest, d)
		}
		_, status = near.GetBlob("library/one", m.Layers[0].Digest)
		want(t, "layer", status, http.StatusOK)
	})
}

func TestMoreConfiguration(t *testing.T) {
	onBoth(t, func(t *testing.T, o Options) {
		o.Config = map[string]any{"storage.maintenance.readonly.enabled": true}
		_, status := Start(t, o).API(t).StartUpload("library/one")
		want(t, "upload to a read-only registry", status, http.StatusMethodNotAllowed)
	})
}
