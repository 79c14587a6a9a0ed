package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// The soak: registries with their caches push, pull and delete on mounts that
// come and go, while garbage is collected every second. Every push and every
// pull must succeed, and everything that is there must be what was pushed.

// soakTime is how long it takes: REGFS_SOAK, a minute otherwise.
func soakTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("REGFS_SOAK")); err == nil {
		return d
	}
	if testing.Short() {
		return 10 * time.Second
	}
	return time.Minute
}

// lifeTime is how long a mount with its registry lives. What is collected is
// mostly what dead mounts have left: what a live one has seen is pinned.
const lifeTime = 4 * time.Second

// A soak is what all workers share.
type soak struct {
	store store
	end   time.Time

	failed                                  atomic.Int64
	pushes, pulls, deletes, lives, exports  atomic.Int64
	collections, removedBlobs, removedBytes atomic.Int64
}

// over says whether it has lasted, and has seen what it is about; on a slow
// machine that takes longer.
func (s *soak) over() bool {
	seen := s.pushes.Load() > 0 && s.deletes.Load() > 0 && s.removedBlobs.Load() > 0
	return time.Now().After(s.end) && seen || time.Now().After(s.end.Add(time.Minute))
}

func (s *soak) String() string {
	return fmt.Sprintf("soak of %v: %d pushes, %d pulls, %d deletes, %d mounts, %d exports; %d collections removed %d blobs, %d bytes; %d failed",
		soakTime(), s.pushes.Load(), s.pulls.Load(), s.deletes.Load(), s.lives.Load(), s.exports.Load(),
		s.collections.Load(), s.removedBlobs.Load(), s.removedBytes.Load(), s.failed.Load())
}

func TestSoak(t *testing.T) {
	withRaceDetector(t)
	s := &soak{store: newStore(t, "v2.8", "v3.1")}
	common := pool(t, seed)
	// The server stays when no mount is there.
	serving, stop := context.WithCancel(t.Context())
	defer stop()
	s.store.serve(t, serving)
	s.end = time.Now().Add(soakTime())

	var workers sync.WaitGroup
	for i, v := range registrytest.Versions {
		workers.Add(1)
		go func() {
			defer workers.Done()
			own := pool(t, seed+uint64(i)+1)
			t.Run("registry-"+string(v), func(t *testing.T) { s.work(t, v, uint64(i), append(own, common...)) })
		}()
	}
	done := make(chan bool)
	go func() { workers.Wait(); close(done) }()
	s.collect(t, done)
	report.note(s.String())
	t.Log(s)
	if s.failed.Load() > 0 || s.pushes.Load() == 0 || s.deletes.Load() == 0 || s.removedBlobs.Load() == 0 {
		t.Error("that is not what a soak is to say")
	}
	s.store.must(t, "fsck")
}

// pool generates releases from which images are taken.
func pool(t *testing.T, seed uint64) []imagetest.Release {
	t.Helper()
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{Images: 6, LayerSize: 60_000, SharedBases: 2, Seed: seed})
	ok(t, err)
	all := []imagetest.Release{series.Release}
	for range 5 {
		next, err := series.Next(0.5)
		ok(t, err)
		all = append(all, next)
	}
	return all
}

// serve runs a server until the context ends.
func (s store) serve(t *testing.T, ctx context.Context) {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, "--store", string(s), "serve")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	ok(t, cmd.Start())
	go cmd.Wait()
	if !within(mountTime, func() bool { return len(s.servers()) > 0 }) {
		t.Fatal("no server")
	}
}

// collect collects garbage every second until the workers are done.
func (s *soak) collect(t *testing.T, done chan bool) {
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		case <-time.After(time.Second):
		}
		grace := "0s"
		if n%4 == 3 {
			grace = "1h"
		}
		c := s.store.collect(t, "--grace", grace)
		s.collections.Add(1)
		s.removedBlobs.Add(int64(c.Removed.Blobs))
		s.removedBytes.Add(c.Removed.Bytes)
	}
}

// A soaker has a release of its own, and repositories of its own in it.
type soaker struct {
	*soak
	t       *testing.T
	version registrytest.Version
	release string
	random  *rand.Rand
	pool    []imagetest.Release // where its images come from
	these   []pushed            // those that it pushes in this life
	there   map[string]pushed   // what must be there: repository:tag → what
}

type pushed struct {
	from  imagetest.Release
	image imagetest.Image
	repo  string
}

func (s *soak) work(t *testing.T, v registrytest.Version, n uint64, pool []imagetest.Release) {
	w := &soaker{
		soak: s, t: t, version: v, release: "v" + string(v), pool: pool,
		random: rand.New(rand.NewPCG(seed, n)), there: map[string]pushed{},
	}
	mount := filepath.Join(t.TempDir(), "mnt")
	for !s.over() && s.failed.Load() == 0 {
		t.Run("life", func(t *testing.T) { w.live(t, mount) })
		time.Sleep(time.Duration(w.random.IntN(2000)) * time.Millisecond) // for a collection
	}
}

// live is one mount with its registry.
func (w *soaker) live(t *testing.T, dir string) {
	w.t, w.these = t, nil
	for range 8 {
		w.these = append(w.these, w.someImage())
	}
	w.lives.Add(1)
	m := w.store.mountAt(t, dir, w.release)
	r := serve(t, w.version, m.dir, cached)
	w.pullAll(r)
	for end := time.Now().Add(lifeTime); time.Now().Before(end) && w.failed.Load() == 0; {
		switch w.random.IntN(10) {
		case 0, 1, 2, 3, 4:
			w.push(r)
		case 5, 6, 7:
			w.pullOne(r)
		case 8:
			w.remove(r)
		case 9:
			w.export()
		}
	}
	for len(w.there) > 6 && w.failed.Load() == 0 {
		w.remove(r)
	}
	w.pullAll(r)
	r.Stop()
	m.stop(syscall.SIGTERM)
}

func (w *soaker) fail(format string, args ...any) {
	w.failed.Add(1)
	w.t.Errorf(format, args...)
}

func (w *soaker) someImage() pushed {
	from := w.pool[w.random.IntN(len(w.pool))]
	image := from.Images[w.random.IntN(len(from.Images))]
	return pushed{from, image, fmt.Sprintf("soak%d/%s", w.random.IntN(2), image.Repository)}
}

// push brings an image, which may have been there before.
func (w *soaker) push(r *registrytest.Registry) {
	p := w.these[w.random.IntN(len(w.these))]
	if err := imagetest.Push(w.t.Context(), r.Client(), r.URL(), p.from.Dir, p.image.Ref(), p.repo, p.image.Tag); err != nil {
		w.fail("push: %v", err)
		return
	}
	w.pushes.Add(1)
	w.there[p.repo+":"+p.image.Tag] = p
	w.pull(r, p)
}

// pull compares an image with what was pushed, byte for byte.
func (w *soaker) pull(r *registrytest.Registry, p pushed) {
	one := p.from
	one.Images = []imagetest.Image{p.image}
	one.Images[0].Repository = p.repo
	if err := imagetest.Verify(w.t.Context(), r.Client(), r.URL(), one); err != nil {
		w.fail("pull: %v", err)
		return
	}
	w.pulls.Add(1)
}

func (w *soaker) pullAll(r *registrytest.Registry) {
	for _, p := range w.there {
		w.pull(r, p)
	}
}

func (w *soaker) pullOne(r *registrytest.Registry) {
	for _, p := range w.there { // some one
		w.pull(r, p)
		return
	}
}

// remove deletes an image with all its tags, half of the time several.
func (w *soaker) remove(r *registrytest.Registry) {
	for range 1 + w.random.IntN(3) {
		for name, p := range w.there {
			if status := r.API(w.t).DeleteManifest(p.repo, p.image.Digest.String()); status != 202 {
				w.fail("delete %s: status %d", name, status)
			}
			w.deletes.Add(1)
			for other, q := range w.there {
				if q.repo == p.repo && q.image.Digest == p.image.Digest {
					delete(w.there, other)
				}
			}
			break
		}
	}
}

func (w *soaker) export() {
	if r := w.store.regfs(w.t, "export", w.release, "-o", "/dev/null", "--verify"); r.code != 0 {
		w.fail("export: %s", strings.TrimSpace(r.stderr))
		return
	}
	w.exports.Add(1)
}
