package compose

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
)

// A fixture is a store to which a test pushes as a registry does.
type fixture struct {
	testing.TB
	dir   string
	blobs *cas.Store
	db    *index.DB
}

var quiet = slog.New(slog.DiscardHandler)

func setup(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{TB: t, dir: t.TempDir()}
	var err error
	f.blobs, err = cas.Open(f.dir)
	f.must(err)
	t.Cleanup(func() { f.blobs.Close() })
	f.db, err = index.Open(filepath.Join(f.dir, "index"), quiet)
	f.must(err)
	t.Cleanup(func() { f.db.Close() })
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// on calls do with the intake of a release, which is made if need be.
func (f *fixture) on(release string, do func(intake.Intake)) {
	f.Helper()
	if err := f.db.Create(release); err != nil && !errors.Is(err, fs.ErrExist) {
		f.Fatal(err)
	}
	r, err := f.db.Open(release)
	f.must(err)
	defer r.Close()
	do(intake.Intake{
		Blobs: f.blobs, Pins: f.blobs.NewPins("test"), Index: f.db, Release: r, Log: quiet,
		Finds: func(d digest.Digest) error { _, err := f.blobs.Stat(d); return err },
	})
}

// put uploads a blob to a release, and describes it.
func (f *fixture) put(in intake.Intake, mediaType string, content []byte) v1.Descriptor {
	f.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	w, err := f.blobs.NewWriter()
	f.must(err)
	defer w.Close()
	_, err = w.File().Write(content)
	f.must(err)
	_, err = w.Commit(d.Digest)
	f.must(err)
	f.must(in.Blob(d.Digest))
	return d
}

// manifest writes the manifest of an image whose layers are there, or foreign.
func (f *fixture) manifest(in intake.Intake, subject *v1.Descriptor, layers ...v1.Descriptor) v1.Descriptor {
	f.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Subject: subject, Layers: layers}
	m.SchemaVersion = 2
	m.Config = f.put(in, v1.MediaTypeImageConfig, []byte("{}"))
	return f.put(in, m.MediaType, encode(m))
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func (f *fixture) layers(in intake.Intake, names ...string) (all []v1.Descriptor) {
	for _, name := range names {
		all = append(all, f.put(in, v1.MediaTypeImageLayerGzip, []byte("layer "+name)))
	}
	return all
}

// link links a manifest, and tags it unless the tag is empty.
func (f *fixture) link(in intake.Intake, repo, tag string, d digest.Digest) {
	f.Helper()
	f.must(in.Link(layout.Path{Kind: layout.RevisionLink, Repository: repo}, d))
	if tag != "" {
		f.must(in.Link(layout.Path{Kind: layout.TagIndexLink, Repository: repo, Tag: tag}, d))
		f.must(in.Link(layout.Path{Kind: layout.TagCurrentLink, Repository: repo, Tag: tag}, d))
	}
}

// push brings an image of some layers into a release.
func (f *fixture) push(release, repo, tag string, layers ...string) (d digest.Digest) {
	f.Helper()
	f.on(release, func(in intake.Intake) {
		d = f.manifest(in, nil, f.layers(in, layers...)...).Digest
		f.link(in, repo, tag, d)
	})
	return d
}

func (f *fixture) list(lines ...string) (refs []imagelist.Reference) {
	f.Helper()
	for _, line := range lines {
		ref, err := imagelist.Parse(line)
		f.must(err)
		refs = append(refs, ref)
	}
	return refs
}

func (f *fixture) compose(name string, req Request) *Report {
	f.Helper()
	report, err := Compose(f.blobs, f.db, quiet, name, req)
	f.must(err)
	return report
}

// lose removes a blob from the store behind its back.
func (f *fixture) lose(d digest.Digest) {
	f.Helper()
	f.must(os.Remove(filepath.Join(f.dir, layout.BlobDataPath(d))))
}

// tag says what a tag of a release points at.
func (f *fixture) tag(release, repo, tag string) (d digest.Digest) {
	f.on(release, func(in intake.Intake) {
		link, _ := in.Release.TagLink(repo, tag)
		d = link.Digest
	})
	return d
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
