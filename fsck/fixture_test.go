package fsck

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/store"
)

// A fixture is a store to which a test pushes as a registry would.
type fixture struct {
	*testing.T
	*store.Store
}

func setup(t *testing.T) *fixture {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	f := &fixture{T: t}
	f.must(store.Init(dir))
	f.open(dir)
	t.Cleanup(func() {
		if f.Store != nil {
			f.Store.Close()
		}
	})
	f.must(f.Index.Create("v1"))
	return f
}

func (f *fixture) open(dir string) {
	f.Helper()
	st, err := store.Open(dir, slog.New(slog.DiscardHandler))
	f.must(err)
	f.Store = st
}

// shut closes the store, so that its files can be changed behind its back.
func (f *fixture) shut() (dir string) {
	f.Helper()
	dir = f.Dir
	f.must(f.Store.Close())
	f.Store = nil
	return dir
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) put(content string) v1.Descriptor {
	f.Helper()
	w, err := f.Blobs.NewWriter()
	f.must(err)
	defer w.Close()
	_, err = w.File().WriteString(content)
	f.must(err)
	d := describe(content)
	_, err = w.Commit(d.Digest)
	f.must(err)
	f.must(f.Blobs.Settle())
	return d
}

func describe(content string) v1.Descriptor {
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}
}

// in gives a release's intake, until the test ends.
func (f *fixture) in(release string) intake.Intake {
	f.Helper()
	r, err := f.Index.Open(release)
	f.must(err)
	f.Cleanup(r.Close)
	return intake.Intake{Blobs: f.Blobs, Pins: f.Blobs.NewPins("test"), Index: f.Index, Release: r, Log: slog.New(slog.DiscardHandler),
		Finds: func(d digest.Digest) error { _, err := f.Blobs.Stat(d); return err }}
}

// push pushes an image of layers with these contents and a tag, and returns
// its manifest's digest.
func (f *fixture) push(release, repo, tag string, layers ...string) digest.Digest {
	f.Helper()
	config := f.put("config of " + strings.Join(layers, " "))
	config.MediaType = v1.MediaTypeImageConfig
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config}
	for _, l := range layers {
		m.Layers = append(m.Layers, f.put(l))
	}
	return f.pushManifest(release, repo, tag, m)
}

func (f *fixture) pushManifest(release, repo, tag string, m any) digest.Digest {
	f.Helper()
	data, err := json.Marshal(m)
	f.must(err)
	d := f.put(string(data)).Digest
	in := f.in(release)
	if image, ok := m.(v1.Manifest); ok {
		for _, l := range append(slices.Clone(image.Layers), image.Config) {
			if _, err := f.Blobs.Stat(l.Digest); err == nil {
				f.must(in.Blob(l.Digest))
				f.must(in.Link(layout.Path{Kind: layout.LayerLink, Repository: repo, Digest: l.Digest}, l.Digest))
			}
		}
	}
	f.must(in.Blob(d))
	f.must(in.Link(layout.Path{Kind: layout.RevisionLink, Repository: repo, Digest: d}, d))
	if tag != "" {
		f.must(in.Link(layout.Path{Kind: layout.TagIndexLink, Repository: repo, Tag: tag, Digest: d}, d))
		f.must(in.Link(layout.Path{Kind: layout.TagCurrentLink, Repository: repo, Tag: tag, Digest: d}, d))
	}
	return d
}

// blob is the path of a blob's file.
func (f *fixture) blob(d digest.Digest) string { return filepath.Join(f.Dir, layout.BlobDataPath(d)) }

// flip changes one byte of a file, behind everybody's back.
func (f *fixture) flip(path string) {
	f.Helper()
	data, err := os.ReadFile(path)
	f.must(err)
	data[len(data)/2] ^= 1
	f.overwrite(path, string(data))
}

func (f *fixture) overwrite(path, content string) {
	f.Helper()
	f.must(os.Remove(path))
	f.must(os.WriteFile(path, []byte(content), 0o444))
}

func (f *fixture) check() *Report {
	f.Helper()
	r, err := Check(f.Context(), f.Store)
	f.must(err)
	return r
}

func (f *fixture) clean() {
	f.Helper()
	if r := f.check(); len(r.Findings) > 0 {
		f.Errorf("not clean: %v", r.Findings)
	}
}

// finds expects one finding of a kind about an object.
func (f *fixture) finds(r *Report, kind Kind, object, problem string, images ...string) Finding {
	f.Helper()
	for _, found := range r.Findings {
		if found.Kind != kind || found.Object != object || !strings.Contains(found.Problem, problem) {
			continue
		}
		var got []string
		for _, a := range found.Affected {
			for _, i := range a.Images {
				got = append(got, a.Release+" "+i)
			}
		}
		if !slices.Equal(got, images) {
			f.Errorf("%s: %s affects %q, and should %q", kind, object, got, images)
		}
		return found
	}
	f.Fatalf("no %s: %s: %q is found, but %v", kind, object, problem, r.Findings)
	return Finding{}
}

func (f *fixture) size(d digest.Digest) int64 {
	f.Helper()
	info, err := f.Blobs.Stat(d)
	f.must(err)
	return info.Size
}
