package test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/registrytest"
)

// TestSelfHealing flips a byte of a layer and one of a manifest, has fsck put
// both aside, and pushes the image again through the registry that has been
// running all the time, as a client does it: with a question before each upload.
// The image comes back whole.
func TestSelfHealing(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		t.Run("passthrough", func(t *testing.T) { selfHealing(t, v, nil) })
		t.Run("no passthrough", func(t *testing.T) { selfHealing(t, v, nil, "--no-passthrough") })
		// Such a registry claims that the blob is there until it is restarted.
		t.Run("descriptors in memory", func(t *testing.T) {
			selfHealing(t, v, map[string]any{"storage.cache.blobdescriptor": "inmemory"})
		})
	})
}

func selfHealing(t *testing.T, v registrytest.Version, config map[string]any, flags ...string) {
	r := serveRelease(t, v, config, flags...)
	layer := noise(9, 2<<20) // more is not looked at when it is read: posix.md M11
	img := putImage(t, r.API, "heal/app", "1.0", layer, oldLayer)
	served(t, r.API, "heal/app", img.layers[0], layer)
	r.store.must(t, "fsck", "--data")

	r.store.flip(t, img.layers[0], 12345)
	r.store.flip(t, img.digest, 20)
	r.store.must(t, "fsck") // which reads neither
	if got, _ := r.API.GetBlob("heal/app", img.layers[0]); string(got) == string(layer) && len(flags) == 0 {
		t.Error("the byte was not flipped") // without passthrough, the kernel has kept the good ones
	}
	out := r.store.regfs(t, "fsck", "--data", "--repair")
	refused(t, out, damage, "not all is mended")
	contains(t, out.stdout, img.layers[0].String(), img.digest.String(), "new heal/app:1.0", "put aside to quarantine/")
	time.Sleep(1100 * time.Millisecond) // posix.md M12: for so long the kernel may keep that a blob is there

	_, status := r.API.HeadBlob("heal/app", img.layers[0])
	if config == nil {
		want(t, "HEAD after the quarantine", status, http.StatusNotFound)
	} else {
		want(t, "HEAD after the quarantine, by a registry that remembers", status, http.StatusOK)
		r.Restart()
	}
	again := putImage(t, r.API, "heal/app", "1.0", layer, oldLayer)
	want(t, "digest", again.digest, img.digest)
	manifestServed(t, r.API, "heal/app", "1.0", http.StatusOK)
	served(t, r.API, "heal/app", img.layers[0], layer)
	r.store.must(t, "fsck", "--data")
	file := filepath.Join(t.TempDir(), "new.tar")
	r.store.must(t, "export", "new", "-o", file, "--verify")
}

// TestDamagedBlobIsEIO: what can be known to be damaged is not read as if it
// were whole, and the log says so. A layer's bytes nobody looks at.
func TestDamagedBlobIsEIO(t *testing.T) {
	for _, flags := range [][]string{nil, {"--no-passthrough"}} {
		t.Run(strings.Join(flags, ""), func(t *testing.T) {
			r := serveRelease(t, registrytest.V31, nil)
			layer := noise(9, 3<<20)
			img := putImage(t, r.API, "read/app", "1.0", layer, oldLayer)
			r.Stop()
			r.mount.stop(syscall.SIGTERM)
			r.store.flip(t, img.digest, 20)
			r.store.flip(t, img.config, 20)
			m := r.mount.again(flags...)
			for _, d := range []digest.Digest{img.digest, img.config} {
				_, err := os.ReadFile(m.path(blobPath(d)))
				want(t, "a small blob with a byte flipped", errors.Is(err, syscall.EIO), true)
				contains(t, m.Log(), "a blob is damaged", d.String())
			}
			got, err := os.ReadFile(m.path(blobPath(img.layers[0])))
			want(t, "the layer is read", err == nil && string(got) == string(layer), true)
			m.stop(syscall.SIGTERM)

			ok(t, os.Truncate(r.store.blob(img.layers[0]), 2<<20))
			m = m.again(flags...)
			_, err = os.ReadFile(m.path(blobPath(img.layers[0])))
			want(t, "a layer that was cut short", errors.Is(err, syscall.EIO), true)
			contains(t, m.Log(), "2097152 bytes in the store, 3145728 by the manifest")
		})
	}
}

// TestLostIndex: a store whose index is gone says so, gets another one, and
// exports the same bytes. The names were written down at the unmount.
func TestLostIndex(t *testing.T) {
	r := serveRelease(t, registrytest.V31, nil)
	putImage(t, r.API, "lost/app", "1.0", noise(9, 9000), oldLayer)
	putImage(t, r.API, "lost/app", "1.0", noise(10, 9000), oldLayer)
	r.Stop()
	r.mount.stop(syscall.SIGTERM)
	s, dir := r.store, t.TempDir()
	s.must(t, "export", "new", "-o", dir+"/before.tar")
	s.must(t, "fsck")
	ok(t, os.RemoveAll(filepath.Join(string(s), "index")))
	for _, args := range [][]string{{"ls", "new"}, {"fsck"}, {"fsck", "--repair"}, {"mount", "new", dir}} {
		s.refuses(t, damage, []string{"it is missing", "regfs fsck --rebuild-index"}, args...)
	}
	s.refuses(t, usage, []string{"--repair"}, "fsck", "--rebuild-index", "--repair")
	contains(t, s.must(t, "fsck", "--rebuild-index"), "new: 2 images, as of", "old: 1 image,", "lost, as far as", "clean")
	s.must(t, "export", "new", "-o", dir+"/after.tar")
	before, err := os.ReadFile(dir + "/before.tar")
	ok(t, err)
	after, err := os.ReadFile(dir + "/after.tar")
	ok(t, err)
	want(t, "the same bytes", string(before) == string(after), true)
	m := r.mount.again()
	s.refuses(t, locked, []string{"no server may run"}, "fsck", "--rebuild-index")
	m.stop(syscall.SIGTERM)
}

// flip changes one byte of a blob behind everybody's back.
func (s store) flip(t *testing.T, d digest.Digest, at int64) {
	t.Helper()
	f, err := os.OpenFile(s.blob(d), os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	ok(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	ok(t, err)
}

// contains checks what a command has said.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("it does not say %q:\n%s", word, text)
		}
	}
}
