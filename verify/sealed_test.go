package verify

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/seal"
)

const imageType = v1.MediaTypeImageManifest

// sealedTree is a sound tree with its document, as an export of a sealed release
// has it.
func sealedTree(t *testing.T) (files tree, names []seal.Name, d digest.Digest) {
	t.Helper()
	files, app := sound()
	files.link(layout.TagCurrentLinkPath("library/app", "also"), app)
	size := func(d digest.Digest) int64 { return int64(len(files[layout.BlobDataPath(d)])) }
	amd := files.push("multi", "", "amd")
	index := tagOf(files, "multi", "1")
	names = []seal.Name{
		{Repository: "library/app", Tag: "1", Digest: app, MediaType: imageType, Size: size(app)},
		{Repository: "library/app", Tag: "also", Digest: app, MediaType: imageType, Size: size(app)},
		{Repository: "multi", Digest: amd, MediaType: imageType, Size: size(amd)},
		{Repository: "multi", Tag: "1", Digest: index, MediaType: v1.MediaTypeImageIndex, Size: size(index),
			Absent: []digest.Digest{digest.FromString("sparse")}},
	}
	document, err := seal.Encode(names)
	if err != nil {
		t.Fatal(err)
	}
	files["regfs/v1/release.json"] = string(document)
	return files, names, digest.FromBytes(document)
}

func tagOf(files tree, repo, tag string) digest.Digest {
	return digest.Digest(files[layout.TagCurrentLinkPath(repo, tag)])
}

// hold checks a tree, as a directory and as a tar, against a digest.
func hold(t *testing.T, files tree, o Options, check func(t *testing.T, r *Report)) {
	t.Helper()
	dir := t.TempDir()
	files.write(t, dir)
	r, err := Dir(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("directory", func(t *testing.T) { check(t, r) })
	r, err = Tar(t.Context(), bytes.NewReader(files.tar(t)), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("tar", func(t *testing.T) { check(t, r) })
}

func says(t *testing.T, r *Report, words ...string) {
	t.Helper()
	for _, word := range words {
		if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.String(), word) }) {
			t.Errorf("no problem says %q: %v", word, r.Problems)
		}
	}
}

func TestHeldAgainstADigest(t *testing.T) {
	files, _, d := sealedTree(t)
	good := func(t *testing.T, r *Report) {
		if len(r.Problems) > 0 || r.Release != d || len(r.Extra) > 0 {
			t.Errorf("%+v", r)
		}
	}
	t.Run("as it came", func(t *testing.T) { hold(t, files, Options{Digest: d, Exact: true}, good) })
	t.Run("without its document", func(t *testing.T) {
		bare := maps.Clone(files)
		delete(bare, "regfs/v1/release.json")
		hold(t, bare, Options{Digest: d, Exact: true}, good)
		bare["regfs/v1/release.json"] = "{}" // somebody else's
		hold(t, bare, Options{Digest: d}, good)
	})
	t.Run("another digest", func(t *testing.T) {
		hold(t, files, Options{Digest: digest.FromString("other")}, func(t *testing.T, r *Report) { says(t, r, "make another one: "+d.String()) })
	})
	t.Run("no digest", func(t *testing.T) {
		odd := maps.Clone(files)
		odd["regfs/v2/release.json"] = "no document"
		hold(t, odd, Options{}, func(t *testing.T, r *Report) {
			if len(r.Problems) > 0 || r.Release != "" {
				t.Errorf("%+v", r)
			}
		})
	})
}

// Beside its release a directory may have what came before.
func TestMoreThanTheRelease(t *testing.T) {
	files, _, d := sealedTree(t)
	old := files.push("library/app", "0", "base", "old")
	var before digest.Digest
	before = files.push("multi", "", "before")
	hold(t, files, Options{Digest: d}, func(t *testing.T, r *Report) {
		if len(r.Problems) > 0 || !slices.Equal(r.Extra, []string{"library/app:0", "library/app@" + old.String(), "multi@" + before.String()}) {
			t.Errorf("%+v", r)
		}
	})
	hold(t, files, Options{Digest: d, Exact: true}, func(t *testing.T, r *Report) { says(t, r, "library/app:0: is no part of the release") })
}

func TestLessThanTheRelease(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(files tree, app digest.Digest)
		says  string
	}{
		"a tag is gone":     {func(f tree, _ digest.Digest) { delete(f, layout.TagCurrentLinkPath("library/app", "also")) }, "library/app:also: the tag is not there"},
		"a manifest's link": {func(f tree, app digest.Digest) { delete(f, layout.RevisionLinkPath("library/app", app)) }, "is not linked in its repository"},
		"a manifest":        {func(f tree, app digest.Digest) { delete(f, layout.BlobDataPath(app)) }, "the manifest is not there"},
		"a layer":           {func(f tree, _ digest.Digest) { delete(f, layout.BlobDataPath(digest.FromString("base"))) }, "layer " + digest.FromString("base").String() + " is not there"},
		"a layer's link": {func(f tree, _ digest.Digest) {
			delete(f, layout.LayerLinkPath("library/app", digest.FromString("app")))
		}, "is not linked in the repository"},
		"a byte":            {func(f tree, _ digest.Digest) { f[layout.BlobDataPath(digest.FromString("base"))] = "bbse" }, "damaged"},
		"a platform's link": {func(f tree, _ digest.Digest) { delete(f, layout.RevisionLinkPath("multi", childOf(f))) }, "manifest " + "sha256"},
		"a platform": {func(f tree, _ digest.Digest) {
			d := childOf(f)
			delete(f, layout.RevisionLinkPath("multi", d))
			delete(f, layout.BlobDataPath(d))
		}, "is not there, and the release has it"},
		"a tag that moved":   {func(f tree, _ digest.Digest) { f.push("library/app", "1", "evil") }, "library/app:1: points at"},
		"a document of lies": {func(f tree, _ digest.Digest) { f["regfs/v1/release.json"] += "\n"; f.push("more", "1", "more") }, "make another one"},
	} {
		t.Run(what, func(t *testing.T) {
			files, names, d := sealedTree(t)
			c.spoil(files, names[0].Digest)
			hold(t, files, Options{Digest: d}, func(t *testing.T, r *Report) { says(t, r, c.says) })
		})
	}
}

// childOf is the platform that the tree's index has.
func childOf(f tree) digest.Digest {
	m := parse([]byte(f[layout.BlobDataPath(tagOf(f, "multi", "1"))]))
	return m.Refs[0].Digest
}

// A document that has the digest, and is not what regfs writes.
func TestHostileDocuments(t *testing.T) {
	for what, text := range map[string]string{
		"no JSON":        "\x00",
		"another index":  `{"schemaVersion":2,"manifests":[]}`,
		"a name to flee": `{"schemaVersion":2,"mediaType":"` + seal.MediaType + `","artifactType":"` + seal.ArtifactType + `","manifests":[{"mediaType":"a/b","digest":"` + digest.FromString("x").String() + `","size":1,"annotations":{"vnd.regfs.repository":"../../etc"}}]}`,
	} {
		t.Run(what, func(t *testing.T) {
			files, _ := sound()
			files["regfs/v1/release.json"] = text
			hold(t, files, Options{Digest: digest.FromString(text)}, func(t *testing.T, r *Report) { says(t, r, "release document") })
		})
	}
}

// store has blobs, and is no directory of a registry.
type blobStore string

func (s blobStore) Open(d digest.Digest) (*os.File, error) {
	return os.Open(string(s) + "/" + layout.BlobDataPath(d))
}

// A release in a store is followed from its document, with no link to go by.
func TestReleaseFromItsDocument(t *testing.T) {
	files, names, d := sealedTree(t)
	inner := files.manifest("multi", "", v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{MediaType: imageType, Digest: childOf(files), Size: 3}}})
	names = append(names, seal.Name{Repository: "nested", Tag: "1", Digest: inner, MediaType: v1.MediaTypeImageIndex, Size: int64(len(files[layout.BlobDataPath(inner)]))})
	document, err := seal.Encode(names)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		spoil func(files tree)
		says  string
	}{
		"whole":           {func(tree) {}, ""},
		"a layer is gone": {func(f tree) { delete(f, layout.BlobDataPath(digest.FromString("amd"))) }, "not in the store, needed by multi@"},
		"a byte":          {func(f tree) { f[layout.BlobDataPath(digest.FromString("base"))] = "bbse" }, "damaged: content has digest " + digest.FromString("bbse").String() + ", needed by library/app:1, library/app:also"},
		"a manifest":      {func(f tree) { f[layout.BlobDataPath(inner)] += " " }, "needed by nested:1"},
	} {
		t.Run(what, func(t *testing.T) {
			dir, copied := t.TempDir(), maps.Clone(files)
			c.spoil(copied)
			copied.write(t, dir)
			r, err := Release(t.Context(), document, blobStore(dir), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if c.says != "" {
				says(t, r, c.says)
			} else if len(r.Problems) > 0 || r.Tags != 4 || r.Release == d {
				t.Errorf("%+v", r)
			}
		})
	}
}
