package source

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// A tree is files by name.
type tree map[string]string

func (f tree) with(more tree) tree {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

func (f tree) without(names ...string) tree {
	all := maps.Clone(f)
	for _, name := range names {
		if _, there := all[name]; !there {
			panic("no file " + name)
		}
		delete(all, name)
	}
	return all
}

// dir writes the tree as a directory.
func (f tree) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		name = filepath.Join(dir, name)
		ok(t, os.MkdirAll(filepath.Dir(name), 0o755))
		ok(t, os.WriteFile(name, []byte(content), 0o644))
	}
	return dir
}

// tar writes the tree as a tar, and after it whatever is odd.
func (f tree) tar(t testing.TB, odd ...tar.Header) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "source.tar")
	file, err := os.Create(name)
	ok(t, err)
	defer file.Close()
	ok(t, f.write(file, odd...))
	return name
}

func (f tree) write(to io.Writer, odd ...tar.Header) error {
	w := tar.NewWriter(to)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f[name]))}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		io.WriteString(w, f[name])
	}
	for _, h := range odd {
		content := h.Uname // where there is a place for it
		h.Uname, h.Mode = "", 0o644
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		io.WriteString(w, content)
	}
	return w.Close()
}

// zipped compresses a file.
func zipped(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	ok(t, err)
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err = w.Write(data)
	ok(t, err)
	ok(t, w.Close())
	ok(t, os.WriteFile(name+".gz", buf.Bytes(), 0o644))
	return name + ".gz"
}

// A picture is an image that tests make.
type picture struct {
	blobs map[digest.Digest]string
	top   digest.Digest
	layer digest.Digest // the first
}

func (p *picture) add(content string) v1.Descriptor {
	d := digest.FromString(content)
	p.blobs[d] = content
	return v1.Descriptor{Digest: d, Size: int64(len(content))}
}

func (p *picture) addJSON(v any) v1.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return p.add(string(data))
}

// paint makes an image of one layer of its own, and one that all have.
func paint(name string) *picture {
	p := &picture{blobs: make(map[digest.Digest]string)}
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = p.addJSON(v1.Image{Author: name, RootFS: v1.RootFS{Type: "layers"}})
	m.Config.MediaType = v1.MediaTypeImageConfig
	for _, content := range []string{"layer of " + name, "layer of all"} {
		l := p.add(content)
		l.MediaType = v1.MediaTypeImageLayerGzip
		m.Layers = append(m.Layers, l)
	}
	p.layer = m.Layers[0].Digest
	p.top = p.addJSON(m).Digest
	return p
}

// group makes an index of images.
func group(all ...*picture) *picture {
	p := &picture{blobs: make(map[digest.Digest]string)}
	index := v1.Index{MediaType: v1.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, one := range all {
		maps.Copy(p.blobs, one.blobs)
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest, Digest: one.top, Size: int64(len(one.blobs[one.top]))})
	}
	p.top = p.addJSON(index).Digest
	return p
}

// inRegistry is the image in a registry's storage.
func (p *picture) inRegistry(repo, tag string, more ...digest.Digest) tree {
	f := tree{
		layout.TagCurrentLinkPath(repo, tag):      p.top.String(),
		layout.TagIndexLinkPath(repo, tag, p.top): p.top.String(),
	}
	for _, d := range append(more, p.top) {
		f[layout.RevisionLinkPath(repo, d)] = d.String()
	}
	for d, content := range p.blobs {
		f[layout.BlobDataPath(d)] = content
		f[layout.LayerLinkPath(repo, d)] = d.String()
	}
	return f
}

// inDir is the image as skopeo writes it.
func (p *picture) inDir(dir string) tree {
	f := tree{path.Join(dir, "version"): "Directory Transport Version: 1.1\n"}
	for d, content := range p.blobs {
		f[path.Join(dir, d.Encoded())] = content
	}
	f[path.Join(dir, "manifest.json")] = p.blobs[p.top]
	delete(f, path.Join(dir, p.top.Encoded()))
	return f
}

// inLayout is images by name in an OCI layout.
func inLayout(all map[string]*picture) tree {
	f := tree{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	var index v1.Index
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		for d, content := range p.blobs {
			f["blobs/sha256/"+d.Encoded()] = content
		}
		desc := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: p.top, Size: int64(len(p.blobs[p.top]))}
		if strings.Contains(p.blobs[p.top], v1.MediaTypeImageIndex) {
			desc.MediaType = v1.MediaTypeImageIndex
		}
		if !strings.HasPrefix(name, "nameless") {
			desc.Annotations = map[string]string{v1.AnnotationRefName: name}
		}
		index.Manifests = append(index.Manifests, desc)
	}
	data, _ := json.Marshal(index)
	f["index.json"] = string(data)
	return f
}

// inDocker is what docker save writes of old: the layers are directories.
func inDocker(names ...string) tree {
	f := tree{}
	var all []savedImage
	for _, name := range names {
		layer := "tar of " + name
		config, _ := json.Marshal(v1.Image{Author: name, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(layer)}}})
		id, dir := digest.FromBytes(config).Encoded(), digest.FromString("v1 "+name).Encoded()
		f[id+".json"], f[dir+"/VERSION"], f[dir+"/json"], f[dir+"/layer.tar"] = string(config), "1.0", "{}", layer
		all = append(all, savedImage{Config: id + ".json", RepoTags: []string{name}, Layers: []string{dir + "/layer.tar"}})
	}
	data, _ := json.Marshal(all)
	f["manifest.json"], f["repositories"] = string(data), "{}"
	return f
}

// A sink takes blobs, and checks them as a store does.
type sink struct {
	t    testing.TB
	dir  string
	mu   sync.Mutex
	have map[digest.Digest]string
}

func (s *sink) Take(d digest.Digest, fill Fill) error {
	f, err := os.Create(filepath.Join(s.dir, d.Encoded()))
	if err != nil {
		return err
	}
	defer f.Close()
	return fill(f)
}

func (s *sink) Commit(d digest.Digest) error {
	data, err := os.ReadFile(filepath.Join(s.dir, d.Encoded()))
	if err != nil {
		return err
	}
	if got := digest.FromBytes(data); got != d {
		return fmt.Errorf("content has digest %s: %w", got, ErrContent)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[d] = string(data)
	return nil
}

// A result is what came of a source, as text.
type result struct {
	whole   []string // images, by name
	refused []string // "image: reason"
	notes   []string
}

// bring opens a source and takes all that its images need.
func bring(t testing.TB, name string, o Options) result {
	t.Helper()
	s, err := Open(t.Context(), name, o)
	ok(t, err)
	defer s.Close()
	r := result{notes: s.Notes}
	var want []digest.Digest
	for _, image := range s.Images {
		for _, b := range image.Blobs {
			want = append(want, b.Digest)
		}
	}
	slices.Sort(want)
	to := &sink{t: t, dir: t.TempDir(), have: make(map[digest.Digest]string)}
	failed, err := s.Copy(t.Context(), slices.Compact(want), 4, to)
	ok(t, err)
	for _, image := range s.Images {
		lost := ""
		for _, b := range image.Blobs {
			if err := failed[b.Digest]; err != nil {
				lost = fmt.Sprintf("%s: blob %s: %v", image.Name(), b.Digest, err)
			} else if content, there := to.have[b.Digest]; !there || b.Size != int64(len(content)) {
				t.Errorf("%s: blob %s of %d bytes is not there, and no error says so", image.Name(), b.Digest, b.Size)
			}
		}
		if lost != "" {
			r.refused = append(r.refused, lost)
			continue
		}
		for _, tag := range image.Tags {
			r.whole = append(r.whole, image.Repository+":"+tag)
		}
		if len(image.Tags) == 0 {
			r.whole = append(r.whole, image.Name())
		}
	}
	for _, one := range s.Refused {
		r.refused = append(r.refused, one.Image+": "+one.Reason)
	}
	slices.Sort(r.whole)
	slices.Sort(r.refused)
	return r
}

// says checks what was refused: as many things, each with its words.
func (r result) says(t testing.TB, words ...string) {
	t.Helper()
	if len(r.refused) != len(words) {
		t.Errorf("%d refused, want %d: %q", len(r.refused), len(words), r.refused)
		return
	}
	for i, all := range words {
		for word := range strings.SplitSeq(all, "|") {
			if !strings.Contains(r.refused[i], word) {
				t.Errorf("the refusal does not say %q: %s", word, r.refused[i])
			}
		}
	}
}
