package test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

func TestSkopeo(t *testing.T) {
	withRaceDetector(t)
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		release := synthetic(t)[0]
		r := serveRelease(t, v, nil)
		ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
		image := release.Images[0]
		name := "docker://" + r.Addr() + "/" + image.Ref()
		dir := t.TempDir()

		t.Run("M1 inspect", func(t *testing.T) {
			raw := registrytest.Skopeo(t, append([]string{"inspect", "--raw", name}, r.SkopeoFlags("")...)...)
			want(t, "digest", digest.FromString(raw), image.Digest)
		})
		t.Run("M1 sync to a directory and back", func(t *testing.T) {
			from := append([]string{"sync", "--all", "--src", "docker", "--dest", "dir"}, r.SkopeoFlags("src")...)
			for _, repo := range repositories(release) {
				registrytest.Skopeo(t, append(from, r.Addr()+"/"+repo, dir)...)
			}
			other := serveOn(t, r.store, "old", v, accessLog)
			to := append([]string{"sync", "--all", "--src", "dir", "--dest", "docker"}, other.SkopeoFlags("dest")...)
			registrytest.Skopeo(t, append(to, dir, other.Addr()+"/synced")...)
			begun, _ := uploads(other.Registry)
			want(t, "M12 uploads into the other release", begun, 0)
			found := 0
			for _, repo := range other.AllRepositories(100) {
				if strings.HasPrefix(repo, "synced/") {
					found++
				}
			}
			want(t, "repositories synced", found, len(repositories(release)))
		})
		t.Run("M4 delete", func(t *testing.T) {
			registrytest.Skopeo(t, append([]string{"delete", name}, r.SkopeoFlags("")...)...)
			_, err := registrytest.TrySkopeo(t, append([]string{"inspect", name}, r.SkopeoFlags("")...)...)
			want(t, "inspect fails", err != nil, true)
			manifestServed(t, r.API, image.Repository, image.Tag, http.StatusNotFound)
		})
	})
}

func TestCrane(t *testing.T) {
	onAll(t, func(t *testing.T, v registrytest.Version) {
		release := synthetic(t)[0]
		r := serveRelease(t, v, nil)
		ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
		image := release.Images[0]
		name := r.Addr() + "/" + image.Ref()
		digestOf := func(name string) string { return strings.TrimSpace(registrytest.Crane(t, "digest", name)) }

		t.Run("M1 pull and push", func(t *testing.T) {
			tar := filepath.Join(t.TempDir(), "image.tar")
			registrytest.Crane(t, "pull", "--format", "oci", name, tar)
			registrytest.Crane(t, "push", tar, r.Addr()+"/crane/pushed:1.0")
			registrytest.Crane(t, "validate", "--remote", r.Addr()+"/crane/pushed:1.0")
		})
		t.Run("M8 copy across repositories", func(t *testing.T) {
			registrytest.Crane(t, "copy", name, r.Addr()+"/crane/copied:1.0")
			want(t, "digest", digestOf(r.Addr()+"/crane/copied:1.0"), image.Digest.String())
		})
		t.Run("M3 catalog and ls", func(t *testing.T) {
			all := strings.Fields(registrytest.Crane(t, "catalog", r.Addr()))
			sameSet(t, "catalog", all, append([]string{"crane/pushed", "crane/copied"}, repositories(release)...))
			tags := strings.Fields(registrytest.Crane(t, "ls", r.Addr()+"/crane/copied"))
			sameSet(t, "tags", tags, []string{"1.0"})
		})
		t.Run("M4 delete", func(t *testing.T) {
			registrytest.Crane(t, "delete", r.Addr()+"/crane/copied@"+image.Digest.String())
			manifestServed(t, r.API, "crane/copied", "1.0", http.StatusNotFound)
			manifestServed(t, r.API, image.Repository, image.Tag, http.StatusOK)
		})
	})
}

// TestPasswordAndTLS runs the story's middle against registries that ask who
// is there.
func TestPasswordAndTLS(t *testing.T) {
	onAll(t, func(t *testing.T, v registrytest.Version) {
		releases := synthetic(t)
		s := newStore(t, "v1.0")
		m := s.mount(t, "v1.0")
		r := registrytest.Start(t, registrytest.Options{Version: v, Root: m.dir, Htpasswd: true, TLS: true})
		t.Run("M1 push and pull", func(t *testing.T) {
			push(t, r, releases[0])
			verify(t, r, releases[0])
			r.CraneLogin(t)
			registrytest.Crane(t, "validate", "--remote", r.Addr()+"/"+releases[0].Images[0].Ref())
		})
	})
}

// TestPullThrough runs a registry on the mount as a cache of another.
func TestPullThrough(t *testing.T) {
	onAll(t, func(t *testing.T, v registrytest.Version) {
		release := synthetic(t)[0]
		far := serve(t, v, t.TempDir(), nil)
		ok(t, imagetest.PushRelease(t.Context(), far.Client(), far.URL(), release))
		s := newStore(t, "cache")
		m := s.mount(t, "cache")
		near := registrytest.Start(t, registrytest.Options{Version: v, Root: m.dir, Proxy: far.URL()})
		state := func() string {
			text, _ := os.ReadFile(m.path("scheduler-state.json"))
			return string(text)
		}
		t.Run("M1 pull through", func(t *testing.T) {
			verify(t, near, release)
			stored := func() bool { return len(minus(closureOf(t, release).dump(), dumpDir(t, m.dir))) == 0 }
			if !within(mountTime, stored) {
				t.Errorf("not in the cache: %q", first(minus(closureOf(t, release).dump(), dumpDir(t, m.dir))))
			}
		})
		t.Run("M9 scheduler-state.json", func(t *testing.T) {
			if !within(15*time.Second, func() bool { return strings.Contains(state(), release.Images[0].Repository) }) {
				t.Fatalf("scheduler-state.json: %s", state())
			}
			near.Stop()
			before := state()
			m.stop(syscall.SIGTERM)
			m = m.again()
			want(t, "after a remount", state(), before)
			near.Restart()
			far.Stop()
			for _, image := range release.Images[:1] {
				manifestServed(t, near.API(t), image.Repository, image.Digest.String(), http.StatusOK)
			}
			far.Restart()
		})
	})
}

// TestGarbageCollect runs the registry's own collector on the mount.
func TestGarbageCollect(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		for _, args := range [][]string{nil, {"--delete-untagged"}} {
			t.Run("M4 garbage-collect"+strings.Join(args, ""), func(t *testing.T) { collects(t, v, args) })
		}
		t.Run("M4 stale descriptor cache", func(t *testing.T) { staleCache(t, v) })
	})
	// Not the stale cache: by overlayfs it does what it does on a plain disk.
	t.Run(overlayTest, func(t *testing.T) { collects(t, registrytest.V31, []string{"--delete-untagged"}) })
}

func collects(t *testing.T, v registrytest.Version, args []string) {
	r := serveRelease(t, v, nil)
	keep := putImage(t, r.API, "gc/keep", "1.0", noise(1, 9000), oldLayer)
	untagged := putImage(t, r.API, "gc/keep", "moved", noise(2, 9000))
	moved := putImage(t, r.API, "gc/keep", "moved", noise(3, 9000))
	gone := putImage(t, r.API, "gc/gone", "1.0", noise(4, 9000), oldLayer)
	want(t, "delete", r.DeleteManifest("gc/gone", gone.digest.String()), http.StatusAccepted)
	loose := putBlob(t, r.API, "gc/keep", noise(5, 9000))
	before := r.store.stamps(t)

	r.Stop()
	said := r.GarbageCollect(args...)
	r.Restart()
	listed := func(d digest.Digest) bool {
		return slices.ContainsFunc(dumpDir(t, r.mount.dir), func(line string) bool { return strings.HasPrefix(line, blobPath(d)+" ") })
	}
	for _, img := range []image{keep, moved} {
		manifestServed(t, r.API, "gc/keep", img.digest.String(), http.StatusOK)
		for _, d := range img.layers {
			want(t, "layer is listed", listed(d), true)
		}
	}
	served(t, r.API, "gc/keep", keep.layers[1], oldLayer)
	want(t, "layer of a deleted image is listed", listed(gone.layers[0]), false)
	want(t, "deleted manifest is listed", listed(gone.digest), false)
	want(t, "blob of no image is listed", listed(loose), false)
	stays := len(args) == 0
	want(t, "untagged image is listed", listed(untagged.layers[0]), stays)
	if t.Failed() {
		t.Logf("garbage-collect said:\n%s", said)
	}
	before.stillIn(t, r.store)
	served(t, serveOn(t, r.store, "old", v, nil).API, "library/old", digest.FromBytes(oldLayer), oldLayer)
}

// staleCache is distribution #1803: the registry is not restarted after a
// collection, and remembers blobs that the collection has removed.
func staleCache(t *testing.T, v registrytest.Version) {
	r := serveRelease(t, v, map[string]any{"storage.cache.blobdescriptor": "inmemory"})
	layer := noise(6, 9000)
	img := putImage(t, r.API, "gc/stale", "1.0", layer, oldLayer)
	served(t, r.API, "gc/stale", img.layers[0], layer)
	want(t, "delete", r.DeleteManifest("gc/stale", img.digest.String()), http.StatusAccepted)
	r.GarbageCollect("--delete-untagged")

	again := putImage(t, r.API, "gc/stale", "1.0", layer, oldLayer)
	want(t, "digest", again.digest, img.digest)
	manifestServed(t, r.API, "gc/stale", "1.0", http.StatusOK)
	served(t, r.API, "gc/stale", img.layers[0], layer)
	served(t, r.API, "gc/stale", img.layers[1], oldLayer)
	r.Restart()
	served(t, r.API, "gc/stale", img.layers[0], layer)
	file := filepath.Join(t.TempDir(), "new.tar")
	r.store.must(t, "export", "new", "-o", file)
	want(t, "layer is in the export", slices.ContainsFunc(dumpTar(t, file), func(line string) bool {
		return strings.HasPrefix(line, blobPath(img.layers[0])+" ")
	}), true)
}
