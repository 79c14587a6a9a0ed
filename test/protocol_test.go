package test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/registrytest"
)

// A mountedRegistry is a registry on the mount of a release.
type mountedRegistry struct {
	*registrytest.Registry
	*registrytest.API
	store store
	mount *mounted
}

// serveRelease makes a store with two releases and a registry on the second:
// the first, "old", holds one image with the layer oldLayer.
func serveRelease(t *testing.T, v registrytest.Version, config map[string]any, flags ...string) *mountedRegistry {
	t.Helper()
	s := newStore(t, "old", "new")
	m := s.mount(t, "old")
	r := serve(t, v, m.dir, nil)
	putImage(t, r.API(t), "library/old", "1.0", oldLayer)
	r.Stop()
	m.stop(syscall.SIGTERM)
	return serveOn(t, s, "new", v, config, flags...)
}

var oldLayer = noise(0, 50_000)

func serveOn(t *testing.T, s store, release string, v registrytest.Version, config map[string]any, flags ...string) *mountedRegistry {
	t.Helper()
	m := s.mount(t, release, flags...)
	r := serve(t, v, m.dir, config)
	return &mountedRegistry{r, r.API(t), s, m}
}

// remount ends registry, mount and server, and runs all of them again.
func (r *mountedRegistry) remount() {
	r.mount.t.Helper()
	r.Stop()
	r.mount.stop(syscall.SIGTERM)
	if !within(requestTime, func() bool { return len(r.store.servers()) == 0 }) {
		r.mount.t.Errorf("M13: the server has not left with the last mount")
	}
	r.mount = r.mount.again()
	r.Restart()
}

// An image is one of the tests' own.
type image struct {
	digest digest.Digest // of the manifest
	body   []byte
	config digest.Digest
	layers []digest.Digest
}

// putImage pushes an image of some layers, and fails the test on any status
// but the protocol's.
func putImage(t *testing.T, a *registrytest.API, repo, tag string, layers ...[]byte) image {
	t.Helper()
	var img image
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, content := range layers {
		img.layers = append(img.layers, putBlob(t, a, repo, content))
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content)),
		})
	}
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	img.config = putBlob(t, a, repo, config)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: img.config, Size: int64(len(config))}
	var err error
	img.body, err = json.Marshal(m)
	ok(t, err)
	d, status := a.PutManifest(repo, tag, m.MediaType, img.body)
	want(t, "put manifest", status, http.StatusCreated)
	img.digest = d
	return img
}

// putBlob pushes a blob unless the registry has it.
func putBlob(t *testing.T, a *registrytest.API, repo string, content []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(content)
	if _, status := a.HeadBlob(repo, d); status == http.StatusOK {
		return d
	}
	_, status := a.PushBlobMonolithic(repo, content)
	want(t, "push blob", status, http.StatusCreated)
	return d
}

// served checks that HEAD and GET agree on a blob: its content, or 404 if
// content is nil.
func served(t *testing.T, a *registrytest.API, repo string, d digest.Digest, content []byte) {
	t.Helper()
	wanted := http.StatusOK
	if content == nil {
		wanted = http.StatusNotFound
	}
	size, head := a.HeadBlob(repo, d)
	got, get := a.GetBlob(repo, d)
	want(t, "HEAD "+repo+"@"+d.String(), head, wanted)
	want(t, "GET "+repo+"@"+d.String(), get, wanted)
	if content != nil && (size != int64(len(content)) || !bytes.Equal(got, content)) {
		t.Errorf("%s@%s: HEAD says %d bytes, GET gives %d, want %d", repo, d, size, len(got), len(content))
	}
}

// manifestServed checks what HEAD and GET say of a tag or digest.
func manifestServed(t *testing.T, a *registrytest.API, repo, ref string, wanted int) {
	t.Helper()
	_, head := a.HeadManifest(repo, ref)
	_, get := a.GetManifest(repo, ref)
	want(t, "HEAD "+repo+":"+ref, head, wanted)
	want(t, "GET "+repo+":"+ref, get, wanted)
}

func TestUploads(t *testing.T) {
	withRaceDetector(t)
	onAll(t, func(t *testing.T, v registrytest.Version) {
		r := serveRelease(t, v, nil)
		content := noise(1, 300_000)

		t.Run("M8 chunks", func(t *testing.T) {
			d, status := r.PushBlobChunked("up/chunks", content, 7)
			want(t, "status", status, http.StatusCreated)
			served(t, r.API, "up/chunks", d, content)
		})
		for name, interrupt := range map[string]func(){
			"a restart of the registry":        r.Restart,
			"a restart of the regfs server":    r.remount,
			"a new start of both, and a pause": func() { r.remount(); r.Restart() },
		} {
			t.Run("M8 resumed after "+name, func(t *testing.T) {
				content := noise(name[len(name)-1], 200_000)
				u, status := r.StartUpload("up/resumed")
				want(t, "start", status, http.StatusAccepted)
				u, status = r.PatchUpload(u, content[:70_000])
				want(t, "first chunk", status, http.StatusAccepted)
				interrupt()
				u, status = r.GetUploadStatus(u)
				want(t, "status", status, http.StatusNoContent)
				want(t, "offset", u.Offset, 70_000)
				u, status = r.PatchUpload(u, content[70_000:150_000])
				want(t, "second chunk", status, http.StatusAccepted)
				d := digest.FromBytes(content)
				want(t, "finish", r.FinishUpload(u, d, content[150_000:]), http.StatusCreated)
				served(t, r.API, "up/resumed", d, content)
			})
		}
		t.Run("M8 cancel", func(t *testing.T) {
			u, _ := r.StartUpload("up/cancelled")
			u, _ = r.PatchUpload(u, content)
			want(t, "cancel", r.CancelUpload(u), http.StatusNoContent)
			_, status := r.GetUploadStatus(u)
			want(t, "status", status, http.StatusNotFound)
			// The registry itself leaves something behind on any disk.
			left := dumpDir(t, r.mount.path(repoPath("up/cancelled"))).files()
			sameSet(t, "left behind", left.keep(func(line string) bool { return !strings.Contains(line, "/hashstates/") }), nil)
		})
		t.Run("M5 corrupt upload", func(t *testing.T) {
			u, _ := r.StartUpload("up/corrupt")
			wrong := digest.FromString("something else")
			want(t, "finish", r.FinishUpload(u, wrong, content), http.StatusBadRequest)
			served(t, r.API, "up/corrupt", wrong, nil)
		})
		t.Run("M8 mount across repositories", func(t *testing.T) {
			d := digest.FromBytes(content)
			_, status := r.MountBlob("else/where", d, "up/chunks")
			want(t, "mount", status, http.StatusCreated)
			served(t, r.API, "else/where", d, content)
			_, status = r.MountBlob("else/where", digest.FromBytes(oldLayer), "library/old")
			want(t, "M2 mount of a blob of history", status, http.StatusCreated)
			u, status := r.MountBlob("else/where", digest.FromString("absent"), "up/chunks")
			want(t, "mount of what is nowhere", status, http.StatusAccepted)
			want(t, "cancel", r.CancelUpload(u), http.StatusNoContent)
		})
	})
}

// TestPurge runs a registry that purges uploads, and removes an old one as it
// would: it begins to within an hour of its start, too late for a test.
func TestPurge(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		r := serveRelease(t, v, map[string]any{
			"storage.maintenance.uploadpurging.enabled":  true,
			"storage.maintenance.uploadpurging.age":      "1h",
			"storage.maintenance.uploadpurging.interval": "1h",
			"storage.maintenance.uploadpurging.dryrun":   false,
		})
		t.Run("M8 purge", func(t *testing.T) {
			u, _ := r.StartUpload("up/old")
			u, _ = r.PatchUpload(u, noise(2, 1000))
			dir := r.mount.path(repoPath("up/old", "_uploads", u.UUID))
			begun, err := os.ReadFile(filepath.Join(dir, "startedat"))
			ok(t, err)
			if at, err := time.Parse(time.RFC3339, string(begun)); err != nil || time.Since(at) > time.Minute {
				t.Errorf("startedat: %q", begun)
			}
			ok(t, os.RemoveAll(dir))
			_, status := r.GetUploadStatus(u)
			want(t, "status", status, http.StatusNotFound)
			sameSet(t, "left", dumpDir(t, r.mount.dir).files(), nil)
		})
	})
}

func TestDelete(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		for _, reuse := range []string{"store", "repository", "none"} {
			t.Run("reuse-"+reuse, func(t *testing.T) { deletes(t, v, reuse) })
		}
	})
}

func deletes(t *testing.T, v registrytest.Version, reuse string) {
	r := serveRelease(t, v, nil, "--reuse", reuse)
	old := digest.FromBytes(oldLayer)
	t.Run("M2 lookup", func(t *testing.T) {
		found := map[string][]string{"store": {"library/old", "any/other"}, "repository": {"library/old"}}[reuse]
		for _, repo := range []string{"library/old", "any/other"} {
			if slices.Contains(found, repo) {
				served(t, r.API, repo, old, oldLayer)
			} else {
				served(t, r.API, repo, old, nil)
			}
		}
		_, err := os.Stat(r.mount.path(blobPath(old)))
		want(t, "blob opens", err == nil, reuse != "none")
		manifestServed(t, r.API, "library/old", "1.0", http.StatusNotFound)
		want(t, "M3 repositories listed", len(r.AllRepositories(0)), 0)
		if all := dumpDir(t, r.mount.dir); len(all.files()) > 0 {
			t.Errorf("M3 lookups have left %q", all)
		}
	})
	layer := noise(3, 20_000)
	img := putImage(t, r.API, "library/old", "2.0", layer, oldLayer)
	keep := putImage(t, r.API, "library/keep", "1.0", layer, oldLayer)

	t.Run("M4 blob", func(t *testing.T) {
		for _, d := range img.layers {
			want(t, "delete", r.DeleteBlob("library/old", d), http.StatusAccepted)
			served(t, r.API, "library/old", d, nil)
			want(t, "delete again", r.DeleteBlob("library/old", d), http.StatusNotFound)
		}
		served(t, r.API, "library/keep", old, oldLayer)
		served(t, r.API, "library/keep", img.layers[0], layer)
		img = putImage(t, r.API, "library/old", "2.0", layer, oldLayer)
		served(t, r.API, "library/old", old, oldLayer)
	})
	t.Run("M4 tag", func(t *testing.T) {
		if v == registrytest.V28 {
			t.Skip("2.8 deletes no tags")
		}
		_, status := r.PutManifest("library/old", "extra", ocispec.MediaTypeImageManifest, img.body)
		want(t, "tag", status, http.StatusCreated)
		want(t, "delete", r.DeleteManifest("library/old", "extra"), http.StatusAccepted)
		manifestServed(t, r.API, "library/old", "extra", http.StatusNotFound)
		manifestServed(t, r.API, "library/old", "2.0", http.StatusOK)
		sameSet(t, "tags", r.AllTags("library/old", 10), []string{"2.0"})
	})
	t.Run("M4 manifest", func(t *testing.T) {
		want(t, "delete", r.DeleteManifest("library/old", img.digest.String()), http.StatusAccepted)
		manifestServed(t, r.API, "library/old", img.digest.String(), http.StatusNotFound)
		manifestServed(t, r.API, "library/old", "2.0", http.StatusNotFound)
		manifestServed(t, r.API, "library/keep", keep.digest.String(), http.StatusOK)
		want(t, "delete again", r.DeleteManifest("library/old", img.digest.String()), http.StatusNotFound)
	})
	t.Run("M4 all of it stays so", func(t *testing.T) {
		r.Stop()
		r.mount.stop(syscall.SIGTERM)
		r.mount = r.mount.again("--reuse", reuse)
		r.Restart()
		manifestServed(t, r.API, "library/old", img.digest.String(), http.StatusNotFound)
		manifestServed(t, r.API, "library/keep", "1.0", http.StatusOK)
		served(t, r.API, "library/keep", old, oldLayer)
	})
	t.Run("M4 the other release keeps everything", func(t *testing.T) {
		other := serveOn(t, r.store, "old", v, nil)
		manifestServed(t, other.API, "library/old", "1.0", http.StatusOK)
		served(t, other.API, "library/old", old, oldLayer)
	})
}

func TestPaging(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		r := serveRelease(t, v, nil)
		var repos, tags []string
		img := putImage(t, r.API, "tagged/one", "start", noise(4, 1000))
		for i := range 23 {
			name := string(rune('a' + i))
			repos = append(repos, "deep/"+name+"/repo")
			putImage(t, r.API, "deep/"+name+"/repo", "1.0", noise(4, 1000))
			tags = append(tags, "tag-"+name)
			_, status := r.PutManifest("tagged/one", "tag-"+name, ocispec.MediaTypeImageManifest, img.body)
			want(t, "tag", status, http.StatusCreated)
		}
		t.Run("M3 catalog", func(t *testing.T) {
			for _, n := range []int{1, 5, 100} {
				sameSet(t, "catalog", r.AllRepositories(n), append([]string{"tagged/one"}, repos...))
			}
		})
		t.Run("M3 tags", func(t *testing.T) {
			for _, n := range []int{1, 5, 100} {
				sameSet(t, "tags", r.AllTags("tagged/one", n), append([]string{"start"}, tags...))
			}
		})
	})
}

// TestTwoRegistries lets two processes write the same at once.
func TestTwoRegistries(t *testing.T) {
	withRaceDetector(t)
	onAll(t, func(t *testing.T, v registrytest.Version) {
		r := serveRelease(t, v, nil)
		second := serve(t, v, r.mount.dir, nil)
		apis := []*registrytest.API{r.API, second.API(t)}
		t.Run("M6 the same manifest at once", func(t *testing.T) {
			img := putImage(t, r.API, "two/writers", "start", noise(5, 5000))
			f, err := os.Open(r.mount.path(blobPath(img.digest)))
			ok(t, err)
			defer f.Close()
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					_, status := apis[i%2].PutManifest("two/writers", "same", ocispec.MediaTypeImageManifest, img.body)
					want(t, "put", status, http.StatusCreated)
					got, status := apis[i%2].GetManifest("two/writers", img.digest.String())
					want(t, "get", status, http.StatusOK)
					want(t, "manifest", string(got.Body), string(img.body))
				})
			}
			wg.Wait()
			got := make([]byte, len(img.body))
			_, err = f.ReadAt(got, 0)
			ok(t, err)
			want(t, "what a reader sees that has had it open", string(got), string(img.body))
		})
		t.Run("M6 the same blob at once", func(t *testing.T) {
			content := noise(6, 400_000)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					_, status := apis[i%2].PushBlobChunked("two/writers", content, 3)
					want(t, "push", status, http.StatusCreated)
				})
			}
			wg.Wait()
			served(t, apis[0], "two/writers", digest.FromBytes(content), content)
		})
	})
}

// TestDirectWrites goes past the registry, where it would check itself.
func TestDirectWrites(t *testing.T) {
	s := newStore(t, "one", "two")
	one, two := s.mount(t, "one"), s.mount(t, "two")
	content := noise(7, 10_000)
	d, wrong := digest.FromBytes(content), digest.FromString("something else")
	upload := repoPath("any", "_uploads", "11111111-2222-3333-4444-555555555555", "data")

	t.Run("M5 rename of corrupt content", func(t *testing.T) {
		writeFile(t, one.path(upload), content)
		ok(t, os.MkdirAll(one.path(blobDir(wrong)), 0o755))
		if err := os.Rename(one.path(upload), one.path(blobPath(wrong))); err == nil {
			t.Error("the rename succeeded")
		}
		if _, err := os.Stat(one.path(upload)); err != nil {
			t.Errorf("a rename that failed has taken its source away: %v", err)
		}
		nowhere(t, one, two, wrong)
		bothDigests(t, one, wrong, d)
	})
	t.Run("M5 corrupt content in place", func(t *testing.T) {
		wrong := digest.FromString("one more")
		ok(t, os.MkdirAll(one.path(blobDir(wrong)), 0o755))
		f, err := os.Create(one.path(blobPath(wrong)))
		ok(t, err)
		_, err = f.Write(content)
		ok(t, err)
		if err := f.Close(); err == nil {
			t.Error("close succeeded")
		}
		nowhere(t, one, two, wrong)
		bothDigests(t, one, wrong, d)
	})
	t.Run("M12 seen by the other mount at once", func(t *testing.T) {
		if _, err := os.Stat(two.path(blobPath(d))); err == nil {
			t.Error("there already")
		}
		writeFile(t, one.path(upload), content)
		ok(t, os.MkdirAll(one.path(blobDir(d)), 0o755))
		ok(t, os.Rename(one.path(upload), one.path(blobPath(d))))
		got, err := os.ReadFile(two.path(blobPath(d)))
		ok(t, err)
		want(t, "content", bytes.Equal(got, content), true)
		want(t, "M3 not listed there", len(dumpDir(t, two.dir).files()), 0)
	})
	t.Run("M5 a link that is none", func(t *testing.T) {
		link := one.path(layerLink("any", d))
		ok(t, os.MkdirAll(filepath.Dir(link), 0o755))
		for _, text := range []string{"no digest", "sha256:1234", wrong.String()} {
			if err := os.WriteFile(link, []byte(text), 0o644); err == nil {
				t.Errorf("link %q was taken", text)
			}
		}
	})
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	ok(t, os.WriteFile(path, content, 0o644))
}

// nowhere checks that a refused blob is in no mount and not in the store.
func nowhere(t *testing.T, one, two *mounted, d digest.Digest) {
	t.Helper()
	for _, path := range []string{one.path(blobPath(d)), two.path(blobPath(d)), one.store.blob(d)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want that it is not there", path, err)
		}
	}
}

func bothDigests(t *testing.T, m *mounted, a, b digest.Digest) {
	t.Helper()
	if !within(mountTime, func() bool { return strings.Contains(m.Log(), a.String()) && strings.Contains(m.Log(), b.String()) }) {
		t.Errorf("the log does not say both digests:\n%s", m.Log())
	}
}
