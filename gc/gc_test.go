package gc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/gc"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/store"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A fixture is a store whose blobs have short contents, by which tests name
// them.
type fixture struct {
	*testing.T
	*store.Store
	unlinked []index.Pair
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t}
	dir := filepath.Join(t.TempDir(), "store")
	ok(t, store.Init(dir))
	f.open(dir)
	t.Cleanup(func() { ok(t, f.Close()) })
	return f
}

func (f *fixture) open(dir string) {
	var err error
	f.Store, err = store.Open(dir, slog.New(slog.DiscardHandler))
	ok(f.T, err)
}

func (f *fixture) reopen() {
	dir := f.Dir
	ok(f.T, f.Close())
	f.open(dir)
}

func dg(name string) digest.Digest { return digest.FromString(name) }

func (f *fixture) put(names ...string) {
	f.T.Helper()
	for _, name := range names {
		w, err := f.Blobs.NewWriter()
		ok(f.T, err)
		_, err = w.File().WriteString(name)
		ok(f.T, err)
		_, err = w.Commit(dg(name))
		ok(f.T, err)
	}
}

// image links an image of some layers.
func (f *fixture) image(r *index.Release, repo, name string, layers ...string) {
	f.T.Helper()
	f.put(name)
	f.put(layers...)
	ok(f.T, r.LinkManifest(repo, dg(name), index.Facts{dg(name): facts(layers...)}))
}

func facts(layers ...string) *manifest.Manifest {
	m := &manifest.Manifest{MediaType: "image"}
	for _, l := range layers {
		m.Refs = append(m.Refs, manifest.Ref{Digest: dg(l), Role: manifest.Layer})
	}
	return m
}

func (f *fixture) release(name string) *index.Release {
	f.T.Helper()
	if err := f.Index.Create(name); !errors.Is(err, fs.ErrExist) {
		ok(f.T, err)
	}
	r, err := f.Index.Open(name)
	ok(f.T, err)
	return r
}

func (f *fixture) collector(grace time.Duration) gc.Collector {
	return gc.Collector{
		Blobs: f.Blobs, Index: f.Index, Grace: grace,
		Unlink:   func(pairs []index.Pair) error { f.unlinked = append(f.unlinked, pairs...); return nil },
		LeaveOut: func(string) bool { return false },
	}
}

// collect collects garbage whole, and holds what goes against the plan.
func (f *fixture) collect(grace time.Duration) *gc.Plan {
	f.T.Helper()
	run := f.collector(grace).Begin()
	defer run.End()
	plan, err := run.Plan(f.T.Context())
	ok(f.T, err)
	gone, err := run.Sweep(f.T.Context(), func(gc.Amount) {})
	ok(f.T, err)
	if gone != plan.Remove {
		f.T.Errorf("planned %v, gone %v", plan.Remove, gone)
	}
	return plan
}

// remain holds what the store has against a list of names.
func (f *fixture) remain(what string, names ...string) {
	f.T.Helper()
	left := map[digest.Digest]bool{}
	for info, err := range f.Blobs.All() {
		ok(f.T, err)
		left[info.Digest] = true
	}
	for _, name := range names {
		if !left[dg(name)] {
			f.T.Errorf("%s: %s is gone", what, name)
		}
		delete(left, dg(name))
	}
	for d := range left {
		data, _ := os.ReadFile(filepath.Join(f.Dir, layout.BlobDataPath(d)))
		f.T.Errorf("%s: %s is left", what, data)
	}
}

func keeps(p *gc.Plan, reason gc.Reason) (blobs int, details string) {
	var all []string
	for _, k := range p.Keep {
		if k.Reason == reason {
			blobs += k.Blobs
			all = append(all, k.Detail)
		}
	}
	return blobs, strings.Join(all, " ")
}

func TestReasons(t *testing.T) {
	f := setup(t)
	v1 := f.release("v1")
	defer v1.Close()
	f.image(v1, "a", "image", "layer")
	f.put("upload", "seen", "garbage")
	ok(t, v1.AddBlob(dg("upload")))
	pins := f.Blobs.NewPins("seen by a test")
	defer pins.Release()
	_, err := pins.Stat(dg("seen"))
	ok(t, err)
	time.Sleep(20 * time.Millisecond) // the kernel's clock is coarse

	run := f.collector(time.Hour).Begin()
	defer run.End()
	time.Sleep(20 * time.Millisecond)
	f.put("new")
	ok(t, f.Blobs.Settle())
	plan, err := run.Plan(t.Context())
	ok(t, err)
	for _, c := range []struct {
		reason gc.Reason
		blobs  int
		detail string
	}{{gc.Needed, 2, ""}, {gc.Uploaded, 1, "v1"}, {gc.Pinned, 1, "seen by a test"}, {gc.New, 1, ""}} {
		if n, details := keeps(plan, c.reason); n != c.blobs || details != c.detail {
			t.Errorf("%s: %d blobs %q, want %d %q", c.reason, n, details, c.blobs, c.detail)
		}
	}
	if want := (gc.Amount{Blobs: 1, Bytes: int64(len("garbage"))}); plan.Remove != want {
		t.Errorf("goes: %v, want %v", plan.Remove, want)
	}
	f.remain("a plan changes nothing", "image", "layer", "upload", "seen", "new", "garbage")
	_, err = run.Sweep(t.Context(), func(gc.Amount) {})
	ok(t, err)
	f.remain("swept", "image", "layer", "upload", "seen", "new")
}

func TestReleasesAreMeasured(t *testing.T) {
	f := setup(t)
	v1, v2 := f.release("v1"), f.release("v2")
	defer v1.Close()
	defer v2.Close()
	f.image(v1, "a", "one", "shared", "old")
	f.image(v2, "a", "two", "shared", "new one")
	plan := f.collect(0)
	want := []gc.Release{
		{Name: "v1", Amount: gc.Amount{Blobs: 3, Bytes: 12}, Only: gc.Amount{Blobs: 2, Bytes: 6}},
		{Name: "v2", Amount: gc.Amount{Blobs: 3, Bytes: 16}, Only: gc.Amount{Blobs: 2, Bytes: 10}},
	}
	if !slices.Equal(plan.Releases, want) {
		t.Errorf("got %v, want %v", plan.Releases, want)
	}
}

// What is pinned after the plan, or was linked by someone who has left since,
// stays.
func TestPinnedAfterThePlan(t *testing.T) {
	f := setup(t)
	v1 := f.release("v1")
	defer v1.Close()
	f.put("found", "linked", "layer", "garbage")
	time.Sleep(20 * time.Millisecond)
	run := f.collector(0).Begin()
	_, err := run.Plan(t.Context())
	ok(t, err)
	stays := f.Blobs.NewPins("stays")
	defer stays.Release()
	_, err = stays.Stat(dg("found"))
	ok(t, err)
	leaves := f.Blobs.NewPins("leaves")
	leaves.Add(dg("linked"))
	leaves.Add(dg("layer"))
	ok(t, v1.LinkManifest("a", dg("linked"), index.Facts{dg("linked"): facts("layer")}))
	leaves.Release()
	_, err = run.Sweep(t.Context(), func(gc.Amount) {})
	ok(t, err)
	run.End()
	f.remain("swept", "found", "linked", "layer")
	f.collect(0)
	f.remain("swept again", "found", "linked", "layer")
}

// What names a blob goes before the blob, whatever stops the run.
func TestUnlinkFailureStopsTheSweep(t *testing.T) {
	f := setup(t)
	v1 := f.release("v1")
	defer v1.Close()
	f.put("garbage")
	ok(t, v1.LinkLayer("a", dg("garbage")))
	time.Sleep(20 * time.Millisecond)
	c := f.collector(0)
	fault := errors.New("fault put there by a test")
	c.Unlink = func(pairs []index.Pair) error {
		if len(pairs) != 1 || pairs[0].Repository != "a" {
			t.Errorf("pairs: %v", pairs)
		}
		return fault
	}
	run := c.Begin()
	_, err := run.Plan(t.Context())
	ok(t, err)
	if _, err := run.Sweep(t.Context(), func(gc.Amount) {}); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
	run.End()
	f.remain("stopped", "garbage")
	if state := v1.Layer("a", dg("garbage")).State; state != index.Linked {
		t.Errorf("the link is %v", state)
	}
	f.collect(0)
	f.remain("run again")
	if state := v1.Layer("a", dg("garbage")).State; state != index.Absent {
		t.Errorf("the link is %v, and its blob gone", state)
	}
}

func TestInterrupted(t *testing.T) {
	f := setup(t)
	for i := range 300 {
		f.put(fmt.Sprint(i))
	}
	time.Sleep(20 * time.Millisecond)
	run := f.collector(0).Begin()
	_, err := run.Plan(t.Context())
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	gone, err := run.Sweep(ctx, func(gc.Amount) { cancel() })
	run.End()
	if !errors.Is(err, context.Canceled) || gone.Blobs == 0 || gone.Blobs == 300 {
		t.Errorf("gone %v, %v", gone, err)
	}
	if plan := f.collect(0); plan.Remove.Blobs != 300-gone.Blobs {
		t.Errorf("the next run removes %v", plan.Remove)
	}
	f.remain("run again")
}

// The index says that a manifest is linked, the store has it, and what it needs
// is not known.
func TestDoubt(t *testing.T) {
	f := setup(t)
	v1 := f.release("v1")
	defer v1.Close()
	ok(t, v1.LinkManifest("a", dg("image"), nil))
	f.put("garbage")
	f.collect(0) // a manifest that is not there may need anything, and is no doubt
	f.put("image", "layer")
	run := f.collector(0).Begin()
	defer run.End()
	var doubt *gc.DoubtError
	if _, err := run.Plan(t.Context()); !errors.As(err, &doubt) {
		t.Errorf("got %v", err)
	}
	f.remain("in doubt", "image", "layer")
}

// TestModel does at random what users do, and holds what is left after each
// collection against what a model says.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { testModel(t, seed) })
	}
}

type model struct {
	images map[string][]string        // manifest → layers
	stored map[string]bool            // blobs
	linked map[[3]string]bool         // release, repository, manifest
	claims map[[3]string]bool         // release, repository or "", blob
	hidden map[[2]string]bool         // release, blob
	pins   map[string]map[string]bool // set → blobs
}

// needed are the blobs that releases need.
func (m *model) needed() map[string]bool {
	all := map[string]bool{}
	for l := range m.linked {
		all[l[2]] = true
		for _, layer := range m.images[l[2]] {
			all[layer] = true
		}
	}
	return all
}

func (m *model) collect(grace bool) {
	keep := m.needed()
	for c := range m.claims {
		if grace && !m.hidden[[2]string{c[0], c[2]}] {
			keep[c[2]] = true
		}
	}
	for _, set := range m.pins {
		maps.Copy(keep, set)
	}
	for b := range m.stored {
		if !keep[b] {
			delete(m.stored, b)
			maps.DeleteFunc(m.claims, func(c [3]string, _ bool) bool { return c[2] == b })
		}
	}
}

func testModel(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	f := setup(t)
	m := model{
		images: map[string][]string{}, stored: map[string]bool{}, linked: map[[3]string]bool{},
		claims: map[[3]string]bool{}, hidden: map[[2]string]bool{}, pins: map[string]map[string]bool{},
	}
	names, repos := []string{"v1", "v2", "v3"}, []string{"a", "b/c"}
	var layers, images []string
	for i := range 12 {
		layers = append(layers, fmt.Sprint("layer ", i))
	}
	for i := range 8 {
		image := fmt.Sprint("image ", i)
		images = append(images, image)
		m.images[image] = []string{layers[i], layers[(i+1)%12], layers[(i+5)%12]}
	}
	all := append(slices.Clone(layers), images...)
	releases, pins := map[string]*index.Release{}, map[string]*cas.Pins{}
	open := func(name string) *index.Release {
		if releases[name] == nil {
			releases[name] = f.release(name)
		}
		return releases[name]
	}
	bring := func(name string) {
		f.put(name)
		m.stored[name] = true
	}
	for range 400 {
		name, repo, blob, image := pick(names), pick(repos), pick(all), pick(images)
		switch random.IntN(13) {
		case 0, 1: // an upload
			bring(blob)
			ok(t, open(name).AddBlob(dg(blob)))
			m.claims[[3]string{name, "", blob}] = true
			delete(m.hidden, [2]string{name, blob})
		case 2, 3: // a layer's link
			bring(blob)
			ok(t, open(name).LinkLayer(repo, dg(blob)))
			m.claims[[3]string{name, repo, blob}] = true
			if !m.hidden[[2]string{name, blob}] {
				m.claims[[3]string{name, "", blob}] = true
			}
		case 4, 5: // an image
			for _, b := range append(m.images[image], image) {
				bring(b)
			}
			ok(t, open(name).LinkManifest(repo, dg(image), index.Facts{dg(image): facts(m.images[image]...)}))
			m.linked[[3]string{name, repo, image}] = true
		case 6, 7:
			ok(t, open(name).UnlinkManifest(repo, dg(image)))
			delete(m.linked, [3]string{name, repo, image})
		case 8:
			ok(t, open(name).HideBlob(dg(blob)))
			m.hidden[[2]string{name, blob}] = true
			delete(m.claims, [3]string{name, "", blob})
		case 9:
			if m.stored[blob] {
				if pins[name] == nil {
					pins[name], m.pins[name] = f.Blobs.NewPins(name), map[string]bool{}
				}
				_, err := pins[name].Stat(dg(blob))
				ok(t, err)
				m.pins[name][blob] = true
			}
		case 10:
			if pins[name] != nil {
				pins[name].Release()
				delete(pins, name)
				delete(m.pins, name)
			}
		case 11: // the release goes, if it is there
			open(name).Close()
			delete(releases, name)
			if random.IntN(3) > 0 {
				continue
			}
			ok(t, f.Index.RemoveRelease(t.Context(), name, func() error { return nil }))
			maps.DeleteFunc(m.linked, func(l [3]string, _ bool) bool { return l[0] == name })
			maps.DeleteFunc(m.claims, func(c [3]string, _ bool) bool { return c[0] == name })
			maps.DeleteFunc(m.hidden, func(h [2]string, _ bool) bool { return h[0] == name })
		case 12:
			time.Sleep(10 * time.Millisecond) // else the youngest is new
			grace := random.IntN(2) == 0
			f.collect(map[bool]time.Duration{true: time.Hour, false: 0}[grace])
			m.collect(grace)
			f.remain("after a collection", slices.Collect(maps.Keys(m.stored))...)
			for _, b := range all {
				for _, name := range names {
					r := open(name)
					nothing := !m.stored[b] && r.Blob(dg(b)).State == index.Linked
					for _, repo := range repos {
						nothing = nothing || !m.stored[b] && r.Layer(repo, dg(b)).State == index.Linked
					}
					if nothing {
						t.Errorf("%s says that it has %s, which is gone", name, b)
					}
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	ok(t, f.Index.Verify(t.Context()))
	for _, r := range releases {
		r.Close()
	}
	for _, p := range pins {
		p.Release()
	}
	f.reopen()
	f.collect(0)
	m.pins = nil
	m.collect(false)
	f.remain("in the end", slices.Collect(maps.Keys(m.stored))...)
}

// A blob that cannot come to its place, as on a full disk, is no reason to
// leave the others.
func TestBlobThatCannotBePlaced(t *testing.T) {
	f := setup(t)
	fan := filepath.Join(f.Dir, filepath.Dir(filepath.Dir(layout.BlobDataPath(dg("stuck")))))
	f.put("garbage", "stuck") // and they are pending for a while
	ok(t, os.MkdirAll(filepath.Dir(fan), 0o755))
	ok(t, os.WriteFile(fan, nil, 0o600))
	if plan := f.collect(0); plan.Remove.Blobs != 1 {
		t.Errorf("plan: %+v", plan)
	}
	ok(t, os.Remove(fan))
	f.remain("when it can be", "stuck")
	f.collect(0)
	f.remain("in the next run")
}
