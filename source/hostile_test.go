package source

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// Each hostile source has one good image, team/good:1, which comes in, and
// something else that is refused by name.
func TestHostileTars(t *testing.T) {
	good, bad := paint("good"), paint("bad")
	both := good.inRegistry("team/good", "1").with(bad.inRegistry("team/bad", "1"))
	layer := layout.BlobDataPath(bad.layer)
	top := layout.BlobDataPath(bad.top)
	current := layout.TagCurrentLinkPath("team/bad", "1")
	for name, c := range map[string]struct {
		files tree
		odd   []tar.Header
		says  []string
	}{
		"path that leads out":      {both, []tar.Header{{Name: "../../etc/cron.d/evil", Uname: "x"}}, []string{"../../etc/cron.d/evil|leads out"}},
		"absolute path":            {both, []tar.Header{{Name: "/etc/passwd", Uname: "x"}}, []string{"/etc/passwd|absolute"}},
		"path that leads out late": {both, []tar.Header{{Name: "docker/registry/../../../x", Uname: "x"}}, []string{"leads out"}},
		"path of many directories": {both, []tar.Header{{Name: strings.Repeat("a/", 200_000) + "x", Uname: "x"}}, []string{"a/a/a/|more than 4096 bytes"}},
		"missing layer":            {both.without(layer), nil, []string{"team/bad:1|layer " + bad.layer.String() + " is missing"}},
		"missing manifest":         {both.without(top), nil, []string{"team/bad:1|manifest " + bad.top.String() + " is missing"}},
		"layer with other content": {both.with(tree{layer: "layer of evil"}), nil, []string{"team/bad:1|" + bad.layer.String() + "|bad content"}},
		"manifest with other content": {both.with(tree{top: strings.Replace(both[top], "2", "3", 1)}), nil,
			[]string{"team/bad:1|manifest|its content has digest"}},
		"tag that points nowhere": {both.with(tree{current: digest.FromString("nowhere").String()}), nil,
			[]string{"team/bad:1|points at|which the repository has not"}},
		"tag without a link":      {both.without(current), nil, []string{"team/bad:1|points nowhere"}},
		"link that is none":       {both.with(tree{current: "../../../etc/passwd"}), nil, []string{current + "|bad link", "team/bad:1|points nowhere"}},
		"link of many bytes":      {both.with(tree{current: strings.Repeat("a", 5000)}), nil, []string{"bad link|more than 1024 bytes", "points nowhere"}},
		"link that names another": {both.with(tree{layout.RevisionLinkPath("team/bad", bad.top): good.top.String()}), nil, []string{"bad link|it names", "team/bad:1|has not"}},
		"symbolic link out":       {both.without(layer), []tar.Header{{Name: layer, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, []string{"team/bad:1|is missing"}},
		"hard link out":           {both.without(layer), []tar.Header{{Name: layer, Typeflag: tar.TypeLink, Linkname: "../etc/passwd"}}, []string{"team/bad:1|is missing"}},
		"link to itself":          {both.without(layer), []tar.Header{{Name: layer, Typeflag: tar.TypeLink, Linkname: layer}}, []string{"team/bad:1|is missing"}},
		"link for a manifest":     {both.without(top), []tar.Header{{Name: top, Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../etc/passwd"}}, []string{"team/bad:1|a link out"}},
		"device":                  {both.without(layer), []tar.Header{{Name: layer, Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}}, []string{"team/bad:1|is missing"}},
		"FIFO":                    {both.without(layer), []tar.Header{{Name: layer, Typeflag: tar.TypeFifo}}, []string{"team/bad:1|is missing"}},
		"two contents of a tag":   {both, []tar.Header{{Name: current, Uname: good.top.String()}}, []string{current + "|more than once", "points nowhere"}},
		"two contents of a layer": {both, []tar.Header{{Name: layer, Uname: "another content"}}, []string{"team/bad:1|is missing"}},
		"tag that is no name":     {both.with(tree{layout.Root + "/repositories/team/bad/_manifests/tags/..x/current/link": bad.top.String()}), nil, nil},
		"repository that is no name": {both.with(tree{layout.Root + "/repositories/Team/Bad/_manifests/tags/1/current/link": bad.top.String()}), nil,
			[]string{"Team/Bad|not a repository's name"}},
		"manifest too large":  {both.with(bigManifest("team/big")), nil, []string{"team/big:1|more than"}},
		"manifest of garbage": {both.with(registryOf("team/odd", `{"layers":7}`)), nil, []string{"team/odd:1|parse manifest"}},
	} {
		t.Run(name, func(t *testing.T) {
			plainTar := c.files.tar(t, c.odd...)
			for _, file := range []string{plainTar, zipped(t, plainTar)} {
				r := bring(t, file, Options{})
				r.says(t, c.says...)
				if !strings.Contains(strings.Join(r.whole, " "), "team/good:1") {
					t.Errorf("the good image is not there: %v", r.whole)
				}
			}
		})
	}
}

// registryOf is a manifest in a registry's storage, whatever it says.
func registryOf(repo, content string) tree {
	p := &picture{blobs: map[digest.Digest]string{}}
	p.top = p.add(content).Digest
	return p.inRegistry(repo, "1")
}

func bigManifest(repo string) tree {
	return registryOf(repo, `{"layers":[]`+strings.Repeat(" ", manifest.MaxSize)+`}`)
}

// What a tar gives two names is one content.
func TestTarWithLinksInside(t *testing.T) {
	p := paint("linked")
	f := p.inRegistry("team/linked", "1")
	layer, elsewhere := layout.BlobDataPath(p.layer), "elsewhere/content"
	f[elsewhere] = f[layer]
	for kind, h := range map[string]tar.Header{
		"hard":     {Name: layer, Typeflag: tar.TypeLink, Linkname: elsewhere},
		"symbolic": {Name: layer, Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("../", 7) + elsewhere},
	} {
		t.Run(kind, func(t *testing.T) {
			file := f.without(layer).tar(t, h)
			for _, file := range []string{file, zipped(t, file)} {
				r := bring(t, file, Options{})
				r.says(t)
				same(t, "images", r.whole, []string{"team/linked:1"})
			}
		})
	}
}

// A tar in compressed pieces, cut between two of them, ends well for whoever
// decompresses it.
func TestTarCutBetweenPieces(t *testing.T) {
	whole := paint("first").inDir("a:1").tar(t)
	data, err := os.ReadFile(whole)
	ok(t, err)
	ok(t, os.WriteFile(whole, data[:len(data)-1024], 0o644)) // as far as the end
	for _, file := range []string{whole, zipped(t, whole)} {
		r := bring(t, file, Options{})
		r.says(t, "archive|its end is missing")
		same(t, "images", r.whole, []string{"a:1"})
	}
}

// One config, and one layer, that many images name are read once and looked for
// once, also if they are damaged.
func TestManyImagesOfOneConfig(t *testing.T) {
	f := inDocker("a:0")
	var all []savedImage
	ok(t, json.Unmarshal([]byte(f["manifest.json"]), &all))
	for n := range 50 {
		all = append(all, savedImage{Config: all[0].Config, RepoTags: []string{fmt.Sprint("b:", n)}, Layers: all[0].Layers})
	}
	data, err := json.Marshal(all)
	ok(t, err)
	f["manifest.json"] = string(data)
	file := f.tar(t)
	same(t, "images", []int{len(bring(t, zipped(t, file), Options{}).whole)}, []int{51})
	s, err := Open(t.Context(), file, Options{})
	ok(t, err)
	defer s.Close()
	for _, blob := range s.Images[0].Blobs {
		if n := len(s.places(blob.Digest)); n != 1 {
			t.Errorf("%s is in %d places", blob.Digest, n)
		}
	}
	for _, p := range s.places(s.Images[0].Blobs[0].Digest) {
		if p.made != nil {
			t.Error("the config is kept in memory")
		}
	}
}

// Lists of lists, each of which lists the next one many times.
func TestListsOfLists(t *testing.T) {
	f := tree{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	list := func(d v1.Descriptor) string {
		data, err := json.Marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: slices.Repeat([]v1.Descriptor{d}, 300)})
		ok(t, err)
		return string(data)
	}
	d := v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromString("nothing")}
	for range maxNested {
		text := list(d)
		d.Digest = digest.FromString(text)
		f["blobs/sha256/"+d.Digest.Encoded()] = text
	}
	f["index.json"] = list(d)
	r := bring(t, f.dir(t), Options{})
	if len(r.whole) > 0 || len(r.refused) == 0 {
		t.Errorf("%v, %v", r.whole, r.refused)
	}
}

// What is kept of manifests is bounded, however small they are when compressed.
func TestManifestsOfManyReferences(t *testing.T) {
	p := paint("last")
	s, err := Open(t.Context(), p.inRegistry("team/last", "1").tar(t), Options{})
	ok(t, err)
	defer s.Close()
	clear(s.parsed)
	s.refs = maxAllRefs - 1
	if got := s.manifest(p.top); got.manifest != nil || got.err == nil {
		t.Errorf("%+v", got)
	}
}

// What names take of memory is bounded, also where they are short.
func TestTarOfNames(t *testing.T) {
	a := &archive{members: make(map[string]*member), dirs: map[string]map[string]kind{".": {}}}
	for n := range 10 {
		a.enter(fmt.Sprint(n)+"/"+strings.Repeat("a/", 2000)+"x", file)
	}
	if of := 10 * 2000 * 2000; a.names < of {
		t.Errorf("the names of 20000 directories in directories have %d bytes, less than %d", a.names, of)
	}
}

// Who brings in what unpacks to a thousand times its size need not wait for it.
func TestReadingIsInterrupted(t *testing.T) {
	big := tree{"blob": strings.Repeat("\x00", 64<<20)}.tar(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	n := 0
	_, err := Open(ctx, zipped(t, big), Options{Progress: func(int64, int64) {
		if n++; n == 1 {
			cancel(why)
		}
	}})
	if !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

// A tar that is cut short has what was in it until then.
func TestTarCutShort(t *testing.T) {
	first, last := paint("first"), paint("last")
	var f = first.inDir("a:1").with(last.inDir("b:1"))
	whole := f.tar(t)
	data, err := os.ReadFile(whole)
	ok(t, err)
	for _, file := range []string{whole, zipped(t, whole)} {
		data, err = os.ReadFile(file)
		ok(t, err)
		cut := filepath.Join(t.TempDir(), "cut"+filepath.Ext(file))
		for n := len(data) - 1; n > 0; n -= len(data)/20 + 1 {
			ok(t, os.WriteFile(cut, data[:n], 0o644))
			s, err := Open(t.Context(), cut, Options{})
			if errors.Is(err, ErrFormat) {
				continue // nothing is left that would say what it is
			}
			ok(t, err)
			s.Close()
			r := bring(t, cut, Options{})
			if len(r.whole) < 2 && len(r.refused) == 0 {
				t.Errorf("%s cut at %d of %d: %v came in, and nothing is said", file, n, len(data), r.whole)
			}
		}
	}
}

// A file that claims more than there is, or is mostly holes, is not read.
func TestTarBombs(t *testing.T) {
	p := paint("good")
	f := p.inRegistry("team/good", "1")
	sparse := tar.Header{Name: "holes", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"comment": "x"}}
	file := f.tar(t, sparse)
	r := bring(t, file, Options{})
	same(t, "images", r.whole, []string{"team/good:1"})

	t.Run("GNU sparse", func(t *testing.T) {
		dir := t.TempDir()
		holes := filepath.Join(dir, "holes")
		ok(t, os.WriteFile(holes, nil, 0o644))
		ok(t, os.Truncate(holes, 1<<40))
		bomb := filepath.Join(dir, "bomb.tar")
		run(t, "tar", "-C", f.dir(t), "-cf", bomb, ".")
		run(t, "tar", "-C", dir, "--sparse", "-rf", bomb, "holes")
		r := bring(t, bomb, Options{})
		same(t, "images", r.whole, []string{"team/good:1"})
	})
	t.Run("endless gzip", func(t *testing.T) {
		layers := inDocker("team/bomb:1", "team/good:1")
		for name := range layers {
			if strings.HasSuffix(name, "layer.tar") && layers[name] == "tar of team/bomb:1" {
				layers[name] = gzipped(strings.Repeat("\x00", 32<<20))
			}
		}
		r := bring(t, layers.tar(t), Options{})
		r.says(t, "team/bomb:1|its content has digest")
		same(t, "images", r.whole, []string{"team/good:1"})
	})
}

// Links in a directory are not followed, wherever they lead.
func TestHostileDirectories(t *testing.T) {
	good, bad := paint("good"), paint("bad")
	files := good.inRegistry("team/good", "1").with(bad.inRegistry("team/bad", "1"))
	layer := layout.BlobDataPath(bad.layer)
	replace := func(t *testing.T, dir, name, target string) {
		t.Helper()
		ok(t, os.RemoveAll(filepath.Join(dir, name)))
		ok(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	outside := filepath.Join(t.TempDir(), "secret")
	ok(t, os.WriteFile(outside, []byte(bad.blobs[bad.layer]), 0o600))
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		says  []string
	}{
		"link for a blob": {func(t *testing.T, dir string) { replace(t, dir, layer, outside) }, []string{"team/bad:1|is missing"}},
		"link for a blob's directory": {func(t *testing.T, dir string) {
			replace(t, dir, filepath.Dir(layer), filepath.Dir(outside))
		}, []string{"team/bad:1|is missing"}},
		"link for a repository": {func(t *testing.T, dir string) {
			replace(t, dir, layout.Root+"/repositories/team/bad", "/")
		}, nil},
		"link for a tag": {func(t *testing.T, dir string) {
			replace(t, dir, layout.TagCurrentLinkPath("team/bad", "1"), outside)
		}, []string{"bad link|symbolic", "team/bad:1|points nowhere"}},
		"FIFO for a manifest": {func(t *testing.T, dir string) {
			name := filepath.Join(dir, layout.BlobDataPath(bad.top))
			ok(t, os.Remove(name))
			ok(t, unix.Mkfifo(name, 0o644))
		}, []string{"team/bad:1|not a regular file"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files.dir(t)
			c.spoil(t, dir)
			r := bring(t, dir, Options{})
			r.says(t, c.says...)
			if !slices.Contains(r.whole, "team/good:1") || slices.Contains(r.whole, "team/bad:1") {
				t.Errorf("images: %v", r.whole)
			}
		})
	}
}

// What is no source says so, and what could hang does not.
func TestNoSource(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	ok(t, unix.Mkfifo(fifo, 0o644))
	text := filepath.Join(t.TempDir(), "text")
	ok(t, os.WriteFile(text, []byte(strings.Repeat("no tar ", 1000)), 0o644))
	empty := filepath.Join(t.TempDir(), "empty")
	ok(t, os.WriteFile(empty, nil, 0o644))
	xz := filepath.Join(t.TempDir(), "xz")
	ok(t, os.WriteFile(xz, []byte("\xfd7zXZ\x00 and so on"), 0o644))
	half := filepath.Join(t.TempDir(), "half.gz")
	ok(t, os.WriteFile(half, []byte("\x1f\x8b\x08"), 0o644))
	for name, words := range map[string]string{
		fifo: "save it to a file", "/dev/null": "not a file", text: "not a tar", empty: "neither a registry", xz: "decompress", half: "not a known source",
		t.TempDir(): "neither a registry", tree{"readme": "x"}.tar(t): "neither a registry",
		tree{"oci-layout": "{}"}.dir(t):                                       "version",
		tree{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}.dir(t):           "index.json",
		tree{"repositories": "{}", "x/json": "{}", "x/VERSION": "1.0"}.tar(t): "Docker 1.9",
		tree{"manifest.json": `[{"Config":7}]`}.tar(t):                        "manifest.json",
	} {
		_, err := Open(t.Context(), name, Options{})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), words) {
			t.Errorf("Open: %v, want %q", err, words)
		}
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}
