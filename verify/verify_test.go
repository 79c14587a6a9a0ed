package verify

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/patch"
)

// A tree is the files of a registry: path → content.
type tree map[string]string

func (t tree) blob(content, mediaType string) v1.Descriptor {
	d := digest.FromString(content)
	t[layout.BlobDataPath(d)] = content
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (t tree) link(path string, d digest.Digest) { t[path] = d.String() }

// push makes an image as a registry has it, and returns its manifest.
func (t tree) push(repo, tag string, layers ...string) digest.Digest {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = t.blob(`{"architecture":"amd64","config":{},"of":"`+repo+tag+`"}`, v1.MediaTypeImageConfig)
	t.link(layout.LayerLinkPath(repo, m.Config.Digest), m.Config.Digest)
	for _, content := range layers {
		l := t.blob(content, v1.MediaTypeImageLayer)
		m.Layers = append(m.Layers, l)
		t.link(layout.LayerLinkPath(repo, l.Digest), l.Digest)
	}
	return t.manifest(repo, tag, m)
}

func (t tree) manifest(repo, tag string, m any) digest.Digest {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	d := t.blob(string(text), "").Digest
	t.link(layout.RevisionLinkPath(repo, d), d)
	if tag != "" {
		t.link(layout.TagIndexLinkPath(repo, tag, d), d)
		t.link(layout.TagCurrentLinkPath(repo, tag), d)
	}
	return d
}

// sound is a tree with a bit of everything, and nothing wrong.
func sound() (t tree, app digest.Digest) {
	t = make(tree)
	app = t.push("library/app", "1", "base", "app")
	amd := t.push("multi", "", "amd")
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	index.Manifests = []v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: amd, Size: 3},
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("sparse"), Size: 3},
	}
	t.manifest("multi", "1", index)
	t["scheduler-state.json"] = "{}"
	return t, app
}

func (t tree) write(tb testing.TB, dir string) {
	tb.Helper()
	for path, content := range t {
		file := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
			tb.Fatal(err)
		}
	}
}

func (t tree) tar(tb testing.TB) []byte {
	tb.Helper()
	var all archive.Archive
	for _, path := range slices.Sorted(maps.Keys(t)) {
		all = append(all, archive.Member{Path: path, Size: int64(len(t[path])), Text: t[path]})
	}
	var out bytes.Buffer
	if err := all.WriteTar(tb.Context(), &out, nil, archive.Options{}); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// onBoth checks a tree as a directory and as a tar.
func onBoth(t *testing.T, files tree, check func(t *testing.T, r *Report)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		files.write(t, dir)
		r, err := Dir(t.Context(), dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
	})
	t.Run("tar", func(t *testing.T) {
		r, err := Tar(t.Context(), bytes.NewReader(files.tar(t)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
	})
}

func TestSound(t *testing.T) {
	files, _ := sound()
	onBoth(t, files, func(t *testing.T, r *Report) {
		if r.Err() != nil || r.Tags != 2 || r.Manifests != 3 || r.Blobs != 8 {
			t.Errorf("%+v", r)
		}
	})
}

func TestDamage(t *testing.T) {
	base := digest.FromString("base")
	for name, c := range map[string]struct {
		spoil func(t tree, app digest.Digest)
		says  []string
	}{
		"blob flipped":   {func(t tree, _ digest.Digest) { t[layout.BlobDataPath(base)] = "bale" }, []string{"damaged", base.String()}},
		"blob cut":       {func(t tree, _ digest.Digest) { t[layout.BlobDataPath(base)] = "" }, []string{"damaged"}},
		"layer missing":  {func(t tree, _ digest.Digest) { delete(t, layout.BlobDataPath(base)) }, []string{"library/app@", base.String(), "not there"}},
		"layer unlinked": {func(t tree, _ digest.Digest) { delete(t, layout.LayerLinkPath("library/app", base)) }, []string{"library/app@", "not linked"}},
		"manifest gone":  {func(t tree, app digest.Digest) { delete(t, layout.BlobDataPath(app)) }, []string{"the manifest is not there"}},
		"no manifest":    {func(t tree, _ digest.Digest) { t.link(layout.RevisionLinkPath("x", base), base) }, []string{"is none"}},
		"link elsewhere": {func(t tree, app digest.Digest) { t.link(layout.RevisionLinkPath("library/app", app), base) },
			[]string{"points at " + base.String()}},
		"link is no digest": {func(t tree, app digest.Digest) { t[layout.LayerLinkPath("library/app", base)] = "../../x" }, []string{"link"}},
		"tag to nowhere":    {func(t tree, _ digest.Digest) { t.link(layout.TagCurrentLinkPath("library/app", "1"), base) }, []string{"library/app:1", base.String()}},
	} {
		t.Run(name, func(t *testing.T) {
			files, app := sound()
			c.spoil(files, app)
			onBoth(t, files, func(t *testing.T, r *Report) {
				var damage *DamageError
				if !errors.As(r.Err(), &damage) {
					t.Fatalf("found nothing: %+v", r)
				}
				for _, word := range c.says {
					if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.String(), word) }) {
						t.Errorf("no problem says %q: %v", word, r.Problems)
					}
				}
			})
		})
	}
}

func TestCompressed(t *testing.T) {
	files, _ := sound()
	var z, g bytes.Buffer
	zw, _ := zstd.NewWriter(&z)
	gw := gzip.NewWriter(&g)
	for _, w := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{zw, gw} {
		if _, err := w.Write(files.tar(t)); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
	}
	for _, data := range [][]byte{z.Bytes(), g.Bytes()} {
		if r, err := Tar(t.Context(), bytes.NewReader(data), Options{}); err != nil || r.Err() != nil {
			t.Errorf("%v, %+v", err, r)
		}
		if r, err := Tar(t.Context(), bytes.NewReader(data[:len(data)-3]), Options{}); err == nil {
			t.Errorf("cut, and nothing said: %+v", r)
		}
	}
}

// What would make a file elsewhere, or is no file, is named; it makes none
// here in any case.
func TestHostileMembers(t *testing.T) {
	blob := layout.BlobDataPath(digest.FromString("x"))
	for name, headers := range map[string][]tar.Header{
		"climbs":     {{Name: "../../etc/passwd", Typeflag: tar.TypeReg}},
		"absolute":   {{Name: "/etc/passwd", Typeflag: tar.TypeReg}},
		"within":     {{Name: "docker/../../x", Typeflag: tar.TypeReg}},
		"symlink":    {{Name: "docker", Typeflag: tar.TypeSymlink, Linkname: "/etc"}},
		"hard link":  {{Name: blob, Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"device":     {{Name: blob, Typeflag: tar.TypeChar}},
		"duplicates": {{Name: blob, Typeflag: tar.TypeReg}, {Name: "./" + blob, Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := tar.NewWriter(&out)
			for _, h := range headers {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			r, err := Tar(t.Context(), &out, Options{})
			if err != nil || r.Err() == nil {
				t.Errorf("%v, %+v", err, r)
			}
		})
	}
}

func TestNoTar(t *testing.T) {
	for _, text := range []string{"", "hello", strings.Repeat("x", 2000), "\x1f\x8bnope"} {
		if r, err := Tar(t.Context(), strings.NewReader(text), Options{}); err == nil {
			t.Errorf("%.20q: %+v", text, r)
		}
	}
	if _, err := Dir(t.Context(), t.TempDir(), Options{}); err == nil {
		t.Error("an empty directory is a registry's storage")
	}
}

// A tar that was cut between two members has less, and is not whole.
func TestCutBetweenMembers(t *testing.T) {
	files, _ := sound()
	data := files.tar(t)
	for _, cut := range []int{1024, 1024 + 512} {
		if r, err := Tar(t.Context(), bytes.NewReader(data[:len(data)-cut]), Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes less: %v, %+v", cut, err, r)
		}
	}
}

// A tar of something else is not good for want of anything bad.
func TestTarOfSomethingElse(t *testing.T) {
	files, _ := sound()
	elsewhere := make(tree)
	for name, text := range files {
		elsewhere["registry/"+name] = text
	}
	if r, err := Tar(t.Context(), bytes.NewReader(elsewhere.tar(t)), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %+v", err, r)
	}
}

// The tar of a directory over which a patch was put has the patch's documents,
// and those of others: of it all must be there, and its tags may have moved on.
func TestTarOfAPatchedDirectory(t *testing.T) {
	whole, _ := sound()
	_, data := patched(t)
	documents := tar.NewReader(bytes.NewReader(data))
	for h, err := documents.Next(); err == nil; h, err = documents.Next() {
		if strings.HasPrefix(h.Name, "regfs/") && h.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(documents)
			if err != nil {
				t.Fatal(err)
			}
			whole[h.Name] = string(text)
		}
	}
	whole.push("library/app", "1", "base", "later")
	whole["regfs/v3/SHA256SUMS"] = ""
	r, err := Tar(t.Context(), bytes.NewReader(whole.tar(t)), Options{})
	if err != nil || r.Err() != nil || r.Patch != nil {
		t.Errorf("%v, %+v", err, r)
	}
	delete(whole, layout.BlobDataPath(digest.FromString("base")))
	if r, err = Tar(t.Context(), bytes.NewReader(whole.tar(t)), Options{}); err != nil || r.Err() == nil {
		t.Errorf("a layer that the patch requires is gone: %v, %+v", err, r)
	}
}

// What a patch requires counts as there. So it must be a patch, and say how
// much that is: else a tar of nothing is a whole release.
func TestRequiredWithoutAPatch(t *testing.T) {
	files, _, d := sealedTree(t)
	var required archive.Archive
	for path, text := range files {
		switch p := layout.Parse(path); {
		case p.Kind == layout.BlobData:
			required = append(required, archive.Member{Path: path, Size: int64(len(text)), Blob: p.Digest})
		case p.Kind.IsLink():
			required = append(required, archive.Member{Path: path, Size: int64(len(text)), Text: text})
		}
	}
	docs, err := patch.Documents(patch.Document{Release: "v1"}, nil, required)
	if err != nil {
		t.Fatal(err)
	}
	empty := tree{"regfs/v1/release.json": files["regfs/v1/release.json"]}
	for _, m := range docs {
		empty[m.Path] = m.Text
	}
	check := func(files tree, words ...string) {
		t.Helper()
		r, err := Tar(t.Context(), bytes.NewReader(files.tar(t)), Options{Digest: d})
		if err != nil || len(words) == 0 && r.Err() != nil {
			t.Fatalf("%v, %+v", err, r)
		}
		says(t, r, words...)
	}
	check(empty) // a patch for who has all
	lies := maps.Clone(empty)
	lies["regfs/v1/patch.json"] = `{"patch":1,"release":"v1"}`
	check(lies, "patch.json: says that 0 blobs and 0 links are required, and the lists have")
	delete(lies, "regfs/v1/patch.json")
	check(lies, "patch.json: is not there")
}

func TestSymlinksInADirectory(t *testing.T) {
	files, _ := sound()
	dir, elsewhere := t.TempDir(), t.TempDir()
	files.write(t, dir)
	base := filepath.Join(dir, layout.BlobDataPath(digest.FromString("base")))
	target := filepath.Join(elsewhere, "data")
	if err := errors.Join(os.Rename(base, target), os.Symlink(target, base)); err != nil {
		t.Fatal(err)
	}
	r, err := Dir(t.Context(), dir, Options{})
	if err != nil || r.Err() == nil {
		t.Errorf("%v, %+v", err, r)
	}
}

// patched is a patch of the sound tree over one without the app's own layer.
func patched(t *testing.T) (base tree, patchTar []byte) {
	t.Helper()
	whole, _ := sound()
	base = make(tree)
	var adds, required archive.Archive
	own := digest.FromString("app")
	for _, path := range slices.Sorted(maps.Keys(whole)) {
		p := layout.Parse(path)
		m := archive.Member{Path: path, Size: int64(len(whole[path])), Text: whole[path]}
		if p.Kind == layout.BlobData {
			m.Blob, m.Text = p.Digest, ""
		}
		switch {
		case p.Kind == layout.Other:
		case p.Digest == own:
			adds = append(adds, m)
		default:
			required = append(required, m)
			base[path] = whole[path]
		}
	}
	docs, err := patch.Documents(patch.Document{Release: "v2", Over: []string{"v1"}}, adds, required)
	if err != nil {
		t.Fatal(err)
	}
	files := make(tree)
	for _, m := range docs {
		files[m.Path] = m.Text
	}
	for _, m := range adds {
		files[m.Path] = whole[m.Path]
	}
	return base, files.tar(t)
}

func TestPatch(t *testing.T) {
	base, data := patched(t)
	for name, c := range map[string]struct {
		spoil func(tree)
		says  string
	}{
		"right base":    {func(tree) {}, ""},
		"blob missing":  {func(b tree) { delete(b, layout.BlobDataPath(digest.FromString("base"))) }, "requires it"},
		"blob damaged":  {func(b tree) { b[layout.BlobDataPath(digest.FromString("base"))] = "bad" }, "damaged"},
		"tag elsewhere": {func(b tree) { b[layout.TagCurrentLinkPath("multi", "1")] = digest.FromString("x").String() }, "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			had := maps.Clone(base)
			c.spoil(had)
			dir := t.TempDir()
			had.write(t, dir)
			r, err := Tar(t.Context(), bytes.NewReader(data), Options{})
			if err != nil || r.Err() != nil || r.Patch == nil || r.Patch.Release != "v2" {
				t.Fatalf("the patch itself: %v, %+v", err, r)
			}
			if err := Against(t.Context(), dir, r, Options{}); err != nil {
				t.Fatal(err)
			}
			if (r.Err() == nil) != (c.says == "") || r.Err() != nil && !strings.Contains(r.Problems[0].What, c.says) {
				t.Errorf("problems %v, want %q", r.Problems, c.says)
			}
		})
	}
	t.Run("no patch", func(t *testing.T) {
		whole, _ := sound()
		r, err := Tar(t.Context(), bytes.NewReader(whole.tar(t)), Options{})
		if err != nil || Against(t.Context(), t.TempDir(), r, Options{}) == nil {
			t.Errorf("a full tar was taken for a patch: %v", err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	files, _ := sound()
	dir := t.TempDir()
	files.write(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dir(ctx, dir, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dir: %v", err)
	}
	if _, err := Tar(ctx, bytes.NewReader(files.tar(t)), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Tar: %v", err)
	}
}
