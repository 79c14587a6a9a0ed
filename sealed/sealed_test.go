package sealed

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/verify"
)

// A fixture is a store with a release, to which a test pushes as a registry
// would.
type fixture struct {
	*testing.T
	*store.Store
	release *index.Release
	pins    *cas.Pins
}

func setup(t *testing.T) *fixture {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	f := &fixture{T: t}
	f.must(store.Init(dir))
	f.open(dir, true)
	t.Cleanup(func() { f.release.Close(); f.Store.Close() })
	return f
}

func (f *fixture) open(dir string, create bool) {
	f.Helper()
	st, err := store.Open(dir, slog.New(slog.DiscardHandler))
	f.must(err)
	f.Store = st
	if create {
		f.must(f.Index.Create("v1"))
	}
	f.pins = f.Blobs.NewPins("a test")
	f.release, err = f.Index.Open("v1")
	f.must(err)
}

// reopen is what the next process sees.
func (f *fixture) reopen() {
	f.Helper()
	f.release.Close()
	f.must(f.Store.Close())
	f.open(f.Dir, false)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) put(content, mediaType string) v1.Descriptor {
	f.Helper()
	w, err := f.Blobs.NewWriter()
	f.must(err)
	defer w.Close()
	_, err = w.File().WriteString(content)
	f.must(err)
	d := digest.FromString(content)
	_, err = w.Commit(d)
	f.must(err)
	f.must(f.Blobs.Settle()) // tests look for it at its place
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (f *fixture) in() intake.Intake {
	return intake.Intake{Blobs: f.Blobs, Pins: f.pins, Index: f.Index, Release: f.release, Log: slog.New(slog.DiscardHandler),
		Finds: func(d digest.Digest) error { _, err := f.Blobs.Stat(d); return err }}
}

// push pushes an image of layers with these contents, and returns its manifest.
func (f *fixture) push(repo, tag string, layers ...string) v1.Descriptor {
	f.Helper()
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: f.put(`{"of":"`+strings.Join(layers, " ")+`"}`, v1.MediaTypeImageConfig)}
	for _, l := range layers {
		m.Layers = append(m.Layers, f.put(l, v1.MediaTypeImageLayer))
	}
	for _, d := range append(slices.Clone(m.Layers), m.Config) {
		f.must(f.in().Blob(d.Digest))
		f.must(f.in().Link(layout.Path{Kind: layout.LayerLink, Repository: repo, Digest: d.Digest}, d.Digest))
	}
	return f.link(repo, tag, m)
}

// list pushes an index.
func (f *fixture) list(repo, tag string, children ...v1.Descriptor) v1.Descriptor {
	f.Helper()
	return f.link(repo, tag, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: children})
}

func (f *fixture) link(repo, tag string, m any) v1.Descriptor {
	f.Helper()
	data, err := json.Marshal(m)
	f.must(err)
	d := f.put(string(data), v1.MediaTypeImageManifest)
	f.must(f.in().Blob(d.Digest))
	f.must(f.in().Link(layout.Path{Kind: layout.RevisionLink, Repository: repo, Digest: d.Digest}, d.Digest))
	if tag != "" {
		f.must(f.in().Link(layout.Path{Kind: layout.TagCurrentLink, Repository: repo, Tag: tag, Digest: d.Digest}, d.Digest))
	}
	return d
}

func lost(content string) v1.Descriptor {
	return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
}

func (f *fixture) seal() digest.Digest {
	f.Helper()
	d, err := Seal(f.Store, f.release)
	f.must(err)
	f.must(f.Blobs.Settle())
	return d
}

// refuses expects that sealing says what is wrong, and leaves the release open.
func (f *fixture) refuses(says ...string) {
	f.Helper()
	_, err := Seal(f.Store, f.release)
	var incomplete *IncompleteError
	if !errors.As(err, &incomplete) {
		f.Errorf("sealing: %v", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			f.Errorf("does not say %q: %v", s, err)
		}
	}
	if f.release.Sealed() != "" {
		f.Error("it is sealed")
	}
	f.must(f.release.AddDir("docker")) // changes are taken again
}

func (f *fixture) blob(d digest.Digest) string { return filepath.Join(f.Dir, layout.BlobDataPath(d)) }

func TestSealedIsAnotherWordForUnchanging(t *testing.T) {
	f := setup(t)
	app := f.push("app", "1", "base", "one")
	amd := f.push("multi", "", "amd64")
	f.list("multi", "1", amd, lost("arm64"))
	d := f.seal()
	for what, change := range map[string]func() error{
		"tag":      func() error { return f.release.Tag("app", "2", app.Digest) },
		"untag":    func() error { return f.release.Untag("app", "1") },
		"history":  func() error { return f.release.AddHistory("app", "1", app.Digest) },
		"forget":   func() error { return f.release.RemoveHistory("app", "1", app.Digest) },
		"manifest": func() error { return f.release.LinkManifest("other", app.Digest, nil) },
		"unlink":   func() error { return f.release.UnlinkManifest("app", app.Digest) },
		"layer":    func() error { return f.release.LinkLayer("app", digest.FromString("base")) },
		"hide":     func() error { return f.release.HideLayer("app", digest.FromString("base")) },
		"blob":     func() error { return f.release.AddBlob(digest.FromString("arm64")) },
		"remove":   func() error { return f.release.HideBlob(digest.FromString("base")) },
		"facts":    func() error { return f.release.AddFacts(digest.FromString("arm64"), nil) },
		"mkdir":    func() error { return f.release.AddDir("docker") },
		"rmdir":    func() error { return f.release.RemoveDir("docker") },
	} {
		if err := change(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	f.put("arm64", v1.MediaTypeImageManifest) // comes to the store by another release
	f.reopen()
	if got := f.release.Sealed(); got != d {
		t.Errorf("opened again it is sealed as %q", got)
	}
	if again := f.seal(); again != d {
		t.Errorf("sealed again it is %s, not %s", again, d)
	}
	reading, err := Read(f.Store, f.release)
	f.must(err)
	f.must(reading.Err("v1"))
	if digest.FromBytes(reading.Document) != d {
		t.Error("another document")
	}
	r, err := verify.Release(t.Context(), reading.Document, f.Blobs, verify.Options{})
	f.must(err)
	f.must(r.Err())
	if r.Tags != 2 || r.Blobs != 8 {
		t.Errorf("%+v", r)
	}
	f.must(f.Index.Verify(t.Context()))
}

// The digest is the content's: neither the order of pushes nor what else the
// store has makes another one.
func TestSameContentSameDigest(t *testing.T) {
	push := []func(*fixture){
		func(f *fixture) { f.push("app", "1", "base", "one") },
		func(f *fixture) { f.push("b/c", "latest", "base", "two"); f.push("b/c", "also", "base", "two") },
		func(f *fixture) { f.list("multi", "1", f.push("multi", "", "amd64"), lost("arm64")) },
	}
	one, two := setup(t), setup(t)
	two.put("arm64", v1.MediaTypeImageManifest)
	for i := range push {
		push[i](one)
		push[len(push)-1-i](two)
	}
	if a, b := one.seal(), two.seal(); a != b {
		t.Errorf("%s and %s", a, b)
	}
	three := setup(t)
	push[0](three)
	if three.seal() == one.release.Sealed() {
		t.Error("less content has the same digest")
	}
}

func TestWhatIsNotWholeIsNotSealed(t *testing.T) {
	t.Run("nothing", func(t *testing.T) { setup(t).refuses("it has no image") })
	t.Run("a lost layer and a lost manifest", func(t *testing.T) {
		f := setup(t)
		app := f.push("app", "1", "base")
		other := f.push("other", "1", "more")
		f.must(os.Remove(f.blob(digest.FromString("base"))))
		f.must(os.Remove(f.blob(other.Digest)))
		f.refuses(digest.FromString("base").String(), "needed by app:1", other.Digest.String())
		f.put("base", "")
		f.refuses(other.Digest.String())
		if _, err := f.Blobs.Stat(app.Digest); err != nil {
			t.Error(err)
		}
	})
	t.Run("a layer of another size", func(t *testing.T) {
		f := setup(t)
		f.push("app", "1", "base")
		f.must(os.Chmod(f.blob(digest.FromString("base")), 0o600))
		f.must(os.Truncate(f.blob(digest.FromString("base")), 2))
		f.refuses("damaged", "app:1")
	})
	t.Run("a tag that points at nothing", func(t *testing.T) {
		f := setup(t)
		app := f.push("app", "1", "base")
		f.push("app", "2", "other")
		f.must(f.release.UnlinkManifest("app", app.Digest))
		f.refuses("app:1", "not linked")
		f.must(f.release.AddHistory("app", "1", app.Digest))
		f.must(f.release.Untag("app", "1"))
		f.refuses("app:1", "points at nothing")
	})
	t.Run("a layer's link that was removed", func(t *testing.T) {
		f := setup(t)
		f.push("app", "1", "base")
		f.must(f.release.HideLayer("app", digest.FromString("base")))
		f.refuses("the link of layer", "removed from app")
	})
	t.Run("a platform that has gone", func(t *testing.T) {
		f := setup(t)
		amd := f.push("multi", "", "amd64")
		f.list("multi", "1", amd)
		f.must(f.release.UnlinkManifest("multi", amd.Digest))
		f.must(os.Remove(f.blob(amd.Digest)))
		f.refuses(amd.Digest.String(), "not in the store any more", "multi:1")
	})
}

// A crash after the document, and before the record: the release is open, and
// sealing it again is the same.
func TestCrashBetweenDocumentAndRecord(t *testing.T) {
	f := setup(t)
	f.push("app", "1", "base")
	document, err := Compose(f.Store, f.release)
	f.must(err)
	_, err = keep(f.Blobs, f.Blobs.NewPins("a test"), document)
	f.must(err)
	f.reopen()
	if f.release.Sealed() != "" {
		t.Error("it is sealed")
	}
	f.push("app", "2", "more") // it is open
	f.must(f.release.Untag("app", "2"))
	if d := f.seal(); d == digest.FromBytes(document) {
		t.Error("the manifest that stayed is not in the document")
	}
}

// What rots of a document comes back by sealing again, and what is in its place
// is never taken for it.
func TestDocumentComesBack(t *testing.T) {
	for what, spoil := range map[string]func(string) error{
		"lost":    os.Remove,
		"cut":     func(name string) error { return os.Truncate(name, 10) },
		"garbled": func(name string) error { return os.WriteFile(name, []byte("{}"), 0o600) },
		"flipped": func(name string) error {
			data, err := os.ReadFile(name)
			data[len(data)/2] ^= 1
			return errors.Join(err, os.WriteFile(name, data, 0o600))
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := setup(t)
			f.push("app", "1", "base")
			d := f.seal()
			f.must(os.Chmod(f.blob(d), 0o600))
			f.must(spoil(f.blob(d)))
			reading, err := Read(f.Store, f.release)
			f.must(err)
			if len(reading.Problems) != 1 || digest.FromBytes(reading.Document) != d {
				t.Errorf("%+v", reading)
			}
			if again := f.seal(); again != d {
				t.Errorf("sealed again as %s", again)
			}
			reading, err = Read(f.Store, f.release)
			f.must(err)
			f.must(reading.Err("v1"))
		})
	}
}

// Pushes and sealing at once: each push is in the document, or refused.
func TestSealWhileSomebodyPushes(t *testing.T) {
	f := setup(t)
	f.push("app", "0", "base")
	var pushes sync.WaitGroup
	app := f.push("app", "1", "one").Digest
	taken := make([]bool, 50)
	for i := range taken {
		pushes.Go(func() {
			err := f.release.Tag("app", "t"+string(rune('a'+i/26))+string(rune('a'+i%26)), app)
			if err != nil && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EBUSY) {
				t.Error(err)
			}
			taken[i] = err == nil
		})
	}
	f.seal()
	pushes.Wait()
	reading, err := Read(f.Store, f.release)
	f.must(err)
	f.must(reading.Err("v1"))
	names, err := seal.Decode(reading.Document)
	f.must(err)
	n := 2
	for _, yes := range taken {
		if yes {
			n++
		}
	}
	if len(names) != n {
		t.Errorf("%d names in the document, and %d were acknowledged", len(names), n)
	}
}
