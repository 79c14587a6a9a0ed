package compose

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/store"
)

// The store of a team: 100 releases of 300 images of 13 layers, of which a tenth
// is new in each release. REGFS_COMPOSE_STORE keeps it there, for the command.
const (
	benchReleases = 100
	benchImages   = 300
	benchLayers   = 13
)

// BenchmarkCompose makes a release of 200 images: of the newest release, of as
// many different releases as can be, and of which a tenth is in none.
func BenchmarkCompose(b *testing.B) {
	dir := os.Getenv("REGFS_COMPOSE_STORE")
	if dir == "" {
		dir = filepath.Join(b.TempDir(), "store")
	}
	first, last := fillBench(b, dir)
	s, err := store.Open(dir, slog.New(slog.DiscardHandler))
	must(b, err)
	defer s.Close()
	var all []string // but those that are made here
	for n := range benchReleases {
		all = append(all, fmt.Sprintf("v1.%d", benchReleases-1-n))
	}
	for name, list := range map[string][]string{
		"newest": last[:200], "a tenth missing": append(missing(20), last[:180]...), "spread": spread(first, last),
	} {
		refs := parse(b, list)
		writeList(b, dir+"."+name, list)
		n := 0
		for _, from := range [][]string{all, {"v1.99", "v1.0"}} {
			b.Run(fmt.Sprintf("%s, from %d", name, len(from)), func(b *testing.B) {
				for b.Loop() {
					n++
					r, err := Compose(s.Blobs, s.Index, slog.New(slog.DiscardHandler), fmt.Sprintf("%s%d", name[:1], n), Request{From: from, Images: refs})
					must(b, err)
					if len(r.Images)+len(r.Missing) != 200 {
						b.Fatalf("%d images and %d missing", len(r.Images), len(r.Missing))
					}
				}
			})
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func missing(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("docker.io/none/image%d:1", i))
	}
	return list
}

// spread are images whose tag only one release has, of many releases.
func spread(first, last []string) (list []string) {
	for i := range 200 {
		list = append(list, first[i%len(first)])
	}
	return list
}

func parse(b *testing.B, list []string) (refs []imagelist.Reference) {
	for _, line := range list {
		ref, err := imagelist.Parse(line)
		must(b, err)
		refs = append(refs, ref)
	}
	return refs
}

func writeList(b *testing.B, name string, list []string) {
	text := ""
	for _, line := range list {
		text += line + "\n"
	}
	if os.Getenv("REGFS_COMPOSE_STORE") != "" {
		must(b, os.WriteFile(name, []byte(text), 0o644))
	}
}

// fillBench returns tags that came in different releases, and those of the last.
func fillBench(b *testing.B, dir string) (first, last []string) {
	b.Helper()
	must(b, store.Init(dir))
	s, err := store.Open(dir, slog.New(slog.DiscardHandler))
	must(b, err)
	defer func() { must(b, s.Close()) }()
	generation := make([]int, benchImages)
	for n := range benchReleases {
		release, err := s.Index.Begin(fmt.Sprintf("v1.%d", n))
		must(b, err)
		var entries []*index.Entry
		last = nil
		for i := range generation {
			if n > 0 && (i+n)%10 == 0 {
				generation[i]++
			}
			e, ref := benchImage(b, dir, i, generation[i])
			entries = append(entries, e)
			if last = append(last, ref); generation[i] > 0 && (i+n)%10 == 0 {
				first = append(first, ref)
			}
		}
		must(b, release.Enter(entries))
		release.Close()
	}
	// A tag that came in one release is in the nine after it, too: every 30th
	// image of what is new is of another release.
	var some []string
	for i := 0; i < len(first); i += 14 {
		some = append(some, first[i])
	}
	return some, last
}

func benchImage(b *testing.B, dir string, i, generation int) (*index.Entry, string) {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: write(b, dir, v1.MediaTypeImageConfig, fmt.Sprint("config ", i, generation))}
	m.SchemaVersion = 2
	for l := range benchLayers {
		name := fmt.Sprint("own ", i, l)
		switch {
		case l < 5:
			name = fmt.Sprint("base ", i%5, l)
		case l == benchLayers-1:
			name = fmt.Sprint("top ", i, generation)
		}
		m.Layers = append(m.Layers, write(b, dir, v1.MediaTypeImageLayerGzip, name))
	}
	body := encode(m)
	d := write(b, dir, m.MediaType, string(body)).Digest
	facts, err := manifest.Parse(body)
	must(b, err)
	repo, tag := fmt.Sprintf("product/group%d/app%d", i%10, i%100), fmt.Sprintf("1.%d.%d", i/100, generation)
	e := index.NewEntry(repo)
	must(b, e.Manifest(d, index.Facts{d: facts}))
	e.History(index.TagLink{Tag: tag, Digest: d})
	e.Tag(index.TagLink{Tag: tag, Digest: d})
	return e, repo + ":" + tag
}

var written = make(map[digest.Digest]bool)

// write puts a blob where it is found. Nobody syncs it: the store does not
// outlive the run.
func write(b *testing.B, dir, mediaType, content string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	if written[d.Digest] {
		return d
	}
	written[d.Digest] = true
	path := filepath.Join(dir, layout.BlobDataPath(d.Digest))
	must(b, os.MkdirAll(filepath.Dir(path), 0o755))
	must(b, os.WriteFile(path, []byte(content), 0o444))
	return d
}
