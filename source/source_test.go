package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
)

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func gzipped(s string) string {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write([]byte(s))
	w.Close()
	return buf.String()
}

// Names are understood as the tools that write them mean them.
func TestNames(t *testing.T) {
	for _, c := range []struct{ in, dropped, kept string }{
		{"nginx", "library/nginx:latest", "docker.io/library/nginx:latest"},
		{"nginx:1.24", "library/nginx:1.24", "docker.io/library/nginx:1.24"},
		{"docker.io/nginx:1.24", "library/nginx:1.24", "docker.io/library/nginx:1.24"},
		{"team/app:2", "team/app:2", "docker.io/team/app:2"},
		{"quay.io/team/app:2", "team/app:2", "quay.io/team/app:2"},
		{"localhost:5000/app:2", "app:2", "localhost:5000/app:2"},
		{"localhost/app:2", "app:2", "localhost/app:2"},
		{"a/../b", "", ""}, {"", "", ""}, {"-x", "", ""}, {"a:b:c", "", ""},
	} {
		for keep, want := range map[bool]string{false: c.dropped, true: c.kept} {
			o := Options{KeepHost: keep}
			n, err := o.parseReference(c.in)
			if got := n.repository + ":" + n.tag; err == nil && got != want || err != nil && want != "" {
				t.Errorf("reference %q: %q, %v, want %q", c.in, got, err, want)
			}
		}
	}
	for _, c := range []struct{ in, dropped, kept string }{
		{"nginx:1.24", "nginx:1.24", "nginx:1.24"},
		{"nginx", "nginx:latest", "nginx:latest"},
		{"team/app:2", "team/app:2", "team/app:2"},
		{"quay.io/team/app:2", "team/app:2", "quay.io/team/app:2"},
		{"localhost:5000/team/app:2", "team/app:2", "localhost:5000/team/app:2"},
		{"a/b c:1", "", ""}, {"a:-", "", ""}, {"a@sha256:12", "", ""},
	} {
		for keep, want := range map[bool]string{false: c.dropped, true: c.kept} {
			o := Options{KeepHost: keep}
			n, err := o.parsePath(c.in)
			if got := n.repository + ":" + n.tag; err == nil && got != want || err != nil && want != "" {
				t.Errorf("path %q: %q, %v, want %q", c.in, got, err, want)
			}
		}
	}
}

// One image in all forms, as directory, tar and compressed tar, is the same.
func TestForms(t *testing.T) {
	index := group(paint("amd64"), paint("arm64"))
	layout := inLayout(map[string]*picture{"quay.io/team/app:1": index})
	forms := map[Format]tree{
		Registry: index.inRegistry("team/app", "1", slices.Collect(maps.Keys(index.blobs))...),
		Dir:      index.inDir("quay.io/team/app:1"),
		OCI:      layout,
	}
	for format, files := range forms {
		tar := files.tar(t)
		dotted := filepath.Join(t.TempDir(), "dotted.tar")
		run(t, "tar", "-cf", dotted, "-C", files.dir(t), ".")
		for _, name := range []string{files.dir(t), tar, zipped(t, tar), dotted} {
			s, err := Open(t.Context(), name, Options{})
			ok(t, err)
			if s.Format != format || len(s.Images) != 1 || s.Images[0].Name() != "team/app:1" || s.Images[0].Digest != index.top ||
				len(s.Images[0].Blobs) != len(index.blobs) || len(s.Images[0].Manifests) != 3 || len(s.Refused)+len(s.Notes) > 0 {
				t.Errorf("%s %s: %+v, refused %v, notes %v", s.Format, name, s.Images, s.Refused, s.Notes)
			}
			s.Close()
			bring(t, name, Options{Format: format}).says(t)
		}
	}
}

// A registry of years: what is whole comes in, the rest is named.
func TestOldRegistry(t *testing.T) {
	whole, sparse, broken, moved, loose := paint("whole"), group(paint("there"), paint("not there")), group(paint("x"), paint("y")), paint("moved"), paint("loose")
	gone := paint("not there")
	f := whole.inRegistry("team/whole", "1")
	f = f.with(sparse.inRegistry("team/sparse", "1", paint("there").top)).without(layout.BlobDataPath(gone.top))
	f = f.with(broken.inRegistry("team/broken", "1", paint("x").top, paint("y").top)).without(layout.BlobDataPath(paint("y").layer))
	f = f.with(moved.inRegistry("team/whole", "2")).with(tree{
		layout.TagIndexLinkPath("team/whole", "2", whole.top):                      whole.top.String(),
		layout.TagIndexLinkPath("team/whole", "2", digest.FromString("collected")): digest.FromString("collected").String(),
		layout.LayerLinkPath("team/whole", digest.FromString("dangling")):          digest.FromString("dangling").String(),
		layout.Root + "/repositories/team/whole/_uploads/1234/data":                "half",
		layout.Root + "/repositories/team/whole/_uploads/1234/startedat":           "now",
		layout.Root + "/repositories/README":                                       "?",
		"scheduler-state.json":                                                     "{}",
	})
	f = f.with(loose.inRegistry("team/loose", "1")).without(layout.TagCurrentLinkPath("team/loose", "1"), layout.TagIndexLinkPath("team/loose", "1", loose.top))
	schema1 := `{"schemaVersion":1,"name":"old","fsLayers":[{"blobSum":"` + whole.layer.String() + `"}],"history":[{"v1Compatibility":"{}"}]}`
	f = f.with(registryOf("team/schema1", schema1))
	s, err := Open(t.Context(), f.dir(t), Options{})
	ok(t, err)
	defer s.Close()
	var names []string
	for _, image := range s.Images {
		names = append(names, image.Name())
	}
	same(t, "images", names, []string{"team/loose@" + loose.top.String(), "team/schema1:1", "team/sparse:1", "team/whole:1", "team/whole:2"})
	same(t, "history", s.Images[4].History, []TagLink{{"2", whole.top}})
	r := bring(t, f.dir(t), Options{})
	r.says(t, "team/broken:1|layer "+paint("y").layer.String()+" is missing")
	if notes := strings.Join(r.notes, "\n"); !strings.Contains(notes, "1 uploads") || !strings.Contains(notes, "README") {
		t.Errorf("notes: %s", notes)
	}
}

// An index that another repository's manifest would complete, though that is
// not whole, does without it.
func TestUnlinkedChildThatIsBroken(t *testing.T) {
	there, broken := paint("there"), paint("broken")
	f := group(there, broken).inRegistry("team/app", "1", there.top)
	r := bring(t, f.without(layout.BlobDataPath(broken.layer)).dir(t), Options{})
	r.says(t)
	same(t, "images", r.whole, []string{"team/app:1"})
}

// A blob that is damaged in one directory is taken from another.
func TestDamagedInOnePlace(t *testing.T) {
	one, two := paint("one"), paint("two")
	shared := digest.FromString("layer of all").Encoded()
	f := one.inDir("one:1").with(two.inDir("two:1")).with(tree{"one:1/" + shared: "layer of ALL"})
	r := bring(t, f.dir(t), Options{})
	r.says(t)
	same(t, "images", r.whole, []string{"one:1", "two:1"})
	r = bring(t, f.with(tree{"two:1/" + shared: "damaged"}).dir(t), Options{})
	r.says(t, "one:1|bad content", "two:1|bad content")
}

func TestLayoutNames(t *testing.T) {
	a, b := paint("a"), paint("b")
	t.Run("nested", func(t *testing.T) {
		within := inLayout(map[string]*picture{"quay.io/team/a:1": a, "team/b:1": b})
		p := &picture{blobs: maps.Clone(a.blobs)}
		maps.Copy(p.blobs, b.blobs)
		var index v1.Index
		ok(t, json.Unmarshal([]byte(within["index.json"]), &index))
		index.MediaType = v1.MediaTypeImageIndex
		p.top = p.addJSON(index).Digest
		r := bring(t, inLayout(map[string]*picture{"nameless": p}).dir(t), Options{})
		r.says(t)
		same(t, "images", r.whole, []string{"team/a:1", "team/b:1"})
	})
	t.Run("containerd", func(t *testing.T) {
		f := inLayout(map[string]*picture{"1.24": a})
		f["index.json"] = strings.Replace(f["index.json"], `"org.opencontainers.image.ref.name":"1.24"`,
			`"org.opencontainers.image.ref.name":"1.24","io.containerd.image.name":"docker.io/library/nginx:1.24"`, 1)
		same(t, "images", bring(t, f.dir(t), Options{}).whole, []string{"library/nginx:1.24"})
	})
	t.Run("none", func(t *testing.T) {
		dir := inLayout(map[string]*picture{"nameless": a}).dir(t)
		bring(t, dir, Options{}).says(t, a.top.String()+"|--name")
		same(t, "images", bring(t, dir, Options{Name: "team/x"}).whole, []string{"team/x:latest"})
		bring(t, inLayout(map[string]*picture{"nameless 1": a, "nameless 2": b}).dir(t), Options{Name: "x"}).says(t, "not the only one", "not the only one")
	})
	t.Run("only a tag", func(t *testing.T) {
		dir := inLayout(map[string]*picture{"1": a, "2": b}).dir(t)
		bring(t, dir, Options{}).says(t, "1|only the tag", "2|only the tag")
		same(t, "images", bring(t, dir, Options{Name: "team/x"}).whole, []string{"team/x:1", "team/x:2"})
		same(t, "images", bring(t, dir, Options{Name: "team/x:9", Ref: "2"}).whole, []string{"team/x:9"})
	})
	t.Run("two with one name", func(t *testing.T) {
		dir := inLayout(map[string]*picture{"quay.io/x/y:1": a, "docker.io/x/y:1": b, "z/z:1": a}).dir(t)
		r := bring(t, dir, Options{})
		r.says(t, "x/y:1|--keep-host")
		same(t, "images", r.whole, []string{"z/z:1"})
		same(t, "images", bring(t, dir, Options{KeepHost: true}).whole, []string{"docker.io/x/y:1", "docker.io/z/z:1", "quay.io/x/y:1"})
	})
	t.Run("referrer", func(t *testing.T) {
		p := &picture{blobs: maps.Clone(a.blobs)}
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: v1.DescriptorEmptyJSON, ArtifactType: "x/y",
			Subject: &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: a.top, Size: 1}}
		m.SchemaVersion = 2
		m.Layers = []v1.Descriptor{p.add("signature")}
		m.Layers[0].MediaType = "text/plain"
		p.add("{}")
		p.top = p.addJSON(m).Digest
		r := bring(t, inLayout(map[string]*picture{"team/a:1": a, "nameless": p}).dir(t), Options{})
		r.says(t)
		same(t, "images", r.whole, []string{"team/a:1", "team/a@" + p.top.String()})
	})
	t.Run("not there", func(t *testing.T) {
		if _, err := Open(t.Context(), inLayout(map[string]*picture{"a/a:1": a}).dir(t), Options{Ref: "a/a:2"}); !errors.Is(err, ErrName) {
			t.Errorf("Open: %v", err)
		}
	})
}

func TestDockerArchive(t *testing.T) {
	f := inDocker("nginx:1.24", "quay.io/team/app:2")
	r := bring(t, f.tar(t), Options{})
	r.says(t)
	same(t, "images", r.whole, []string{"library/nginx:1.24", "team/app:2"})
	same(t, "one image", bring(t, f.tar(t), Options{Ref: "nginx:1.24"}).whole, []string{"library/nginx:1.24"})

	t.Run("the same manifest each time", func(t *testing.T) {
		s, err := Open(t.Context(), f.tar(t), Options{})
		ok(t, err)
		defer s.Close()
		again, err := Open(t.Context(), zipped(t, f.tar(t)), Options{})
		ok(t, err)
		defer again.Close()
		if s.Images[0].Digest != again.Images[0].Digest {
			t.Errorf("%s and %s", s.Images[0].Digest, again.Images[0].Digest)
		}
	})
	t.Run("layers that are not the config's", func(t *testing.T) {
		spoiled := maps.Clone(f)
		for name := range spoiled {
			if spoiled[name] == "tar of nginx:1.24" {
				spoiled[name] = "tar of something"
			}
		}
		r := bring(t, spoiled.tar(t), Options{})
		r.says(t, "library/nginx:1.24|bad content")
		same(t, "images", r.whole, []string{"team/app:2"})
	})
	t.Run("compressed layers", func(t *testing.T) {
		packed := maps.Clone(f)
		for name := range packed {
			if strings.HasSuffix(name, "layer.tar") {
				packed[name] = gzipped(packed[name])
			}
		}
		for _, file := range []string{packed.tar(t), zipped(t, packed.tar(t))} {
			r := bring(t, file, Options{})
			r.says(t)
			same(t, "images", r.whole, []string{"library/nginx:1.24", "team/app:2"})
		}
	})
	for name, edit := range map[string]func(m *savedImage){
		"config that leads out":  func(m *savedImage) { m.Config = "../../etc/passwd" },
		"config that is missing": func(m *savedImage) { m.Config = "none.json" },
		"layer that leads out":   func(m *savedImage) { m.Layers[0] = "/etc/passwd" },
		"layers too few":         func(m *savedImage) { m.Layers = nil },
		"name that is none":      func(m *savedImage) { m.RepoTags = []string{"../evil:1"} },
	} {
		t.Run(name, func(t *testing.T) {
			var all []savedImage
			ok(t, json.Unmarshal([]byte(f["manifest.json"]), &all))
			edit(&all[0])
			data, err := json.Marshal(all)
			ok(t, err)
			r := bring(t, f.with(tree{"manifest.json": string(data)}).tar(t), Options{})
			if len(r.refused) != 1 {
				t.Errorf("refused: %q", r.refused)
			}
			same(t, "images", r.whole, []string{"team/app:2"})
		})
	}
}

// A patch lacks what its base has: blobs, links, and the tags that did not move.
func TestPatch(t *testing.T) {
	old, new := paint("old"), paint("new")
	base := old.inRegistry("team/old", "1")
	full := base.with(new.inRegistry("team/new", "1"))
	sums, f := "", tree{}
	for name, content := range full {
		if base[name] == content {
			if strings.HasSuffix(name, "link") || strings.HasSuffix(name, "data") {
				sums += digest.FromString(content).Encoded() + "  " + name + "\n"
			}
			continue
		}
		f[name] = content
	}
	f["regfs/v2/patch.json"], f["regfs/v2/requires.sha256"] = `{"patch":1,"release":"v2"}`, sums
	store := func(d digest.Digest) (fs.File, error) {
		return os.DirFS(base.dir(t)).Open(layout.BlobDataPath(d))
	}
	for _, file := range []string{f.tar(t), zipped(t, f.tar(t))} {
		s, err := Open(t.Context(), file, Options{Base: store})
		ok(t, err)
		var names []string
		for _, image := range s.Images {
			names = append(names, image.Name())
			for _, b := range image.Blobs {
				if _, there := base[layout.BlobDataPath(b.Digest)]; there != (b.Size < 0) {
					t.Errorf("%s: blob %s has size %d", image.Name(), b.Digest, b.Size)
				}
			}
		}
		same(t, "images", names, []string{"team/new:1", "team/old:1"})
		same(t, "refused", s.Refused, nil)
		s.Close()

		s, err = Open(t.Context(), file, Options{}) // without its base
		ok(t, err)
		if len(s.Images) != 0 || len(s.Refused) != 2 {
			t.Errorf("without base: %v, %v", s.Images, s.Refused)
		}
		s.Close()
	}
	directory := full.with(tree{"regfs/v2/patch.json": f["regfs/v2/patch.json"], "regfs/v2/requires.sha256": sums})
	after := directory.with(tree{"regfs/v3/patch.json": f["regfs/v2/patch.json"]})
	for _, file := range []string{directory.tar(t), after.tar(t)} { // over which a patch was put, and another one
		same(t, "images", bring(t, file, Options{}).whole, []string{"team/new:1", "team/old:1"})
	}
	gone := layout.BlobDataPath(old.layer)
	bring(t, directory.without(gone).tar(t), Options{}).says(t, "team/old:1|layer "+old.layer.String()+" is missing")

	f["regfs/v2/patch.json"] = `{"patch":99}`
	if _, err := Open(t.Context(), f.tar(t), Options{Base: store}); !errors.Is(err, ErrFormat) {
		t.Errorf("a patch of the future: %v", err)
	}
}

// FuzzOpen: whatever a tar holds, Open ends with images that are whole, and
// nothing outside of the archive is touched.
func FuzzOpen(f *testing.F) {
	p := group(paint("a"), paint("b"))
	for _, files := range []tree{p.inRegistry("t/a", "1"), p.inDir("a:1"), inLayout(map[string]*picture{"a/a:1": p}), inDocker("a:1")} {
		var buf bytes.Buffer
		ok(f, files.write(&buf))
		f.Add(buf.Bytes())
		f.Add([]byte(gzipped(buf.String())))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x.tar")
		ok(t, os.WriteFile(name, data, 0o600))
		s, err := Open(t.Context(), name, Options{})
		if err != nil {
			return
		}
		defer s.Close()
		for _, image := range s.Images {
			if !layout.ValidRepository(image.Repository) || image.Digest.Validate() != nil {
				t.Errorf("image %+v", image)
			}
			for _, tag := range image.Tags {
				if !layout.ValidTag(tag) {
					t.Errorf("tag %q", tag)
				}
			}
			for _, b := range image.Blobs {
				if b.Digest.Validate() != nil || b.Size < 0 {
					t.Errorf("blob %+v", b)
				}
			}
		}
	})
}

// FuzzForms does the same one level higher: the metadata of each form.
func FuzzForms(f *testing.F) {
	f.Add(`[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`, `{"rootfs":{"diff_ids":["sha256:aa"]}}`, "a/b:c")
	f.Add(`{"manifests":[{"digest":"sha256:aa","annotations":{"org.opencontainers.image.ref.name":"x"}}]}`, "{}", "x@sha256:y")
	f.Fuzz(func(t *testing.T, list, other, name string) {
		if strings.ContainsAny(name, "\x00") || len(name) > 90 {
			return
		}
		for _, files := range []tree{
			{"manifest.json": list, "c": other, "l": other},
			{"index.json": list, "oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "blobs/sha256/" + digest.FromString(other).Encoded(): other},
			{path.Join("x", path.Clean("/"+name), "manifest.json"): list},
			{layout.Root + "/repositories/" + path.Clean("/" + name)[1:] + "/_manifests/tags/1/current/link": other},
		} {
			s, err := Open(t.Context(), files.tar(t), Options{})
			if err == nil {
				s.Close()
			}
		}
	})
}
