package tree_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
)

// nested makes an image below as many indexes as are asked for, and returns
// the uppermost. Nothing is linked.
func (b *bench) nested(seed string, indexes int) digest.Digest {
	b.t.Helper()
	config, layer := b.putBlob([]byte("config "+seed)), b.putBlob([]byte("layer "+seed))
	top, kind := b.putBlob([]byte(imageOf(config, layer))), imageType
	for range indexes {
		top, kind = b.putBlob([]byte(indexOf(top, kind))), indexType
	}
	return top
}

// TestRefused: what is refused changes nothing, now or after the index is
// opened again.
func TestRefused(t *testing.T) {
	b := newBench(t)
	config, layer := b.putBlob([]byte("config")), b.putBlob([]byte("layer"))
	good := b.putBlob([]byte(imageOf(config, layer)))
	b.ok(inPlace(b, layout.RevisionLinkPath("repo", good), []byte(good)))
	b.ok(inPlace(b, layout.TagCurrentLinkPath("repo", "v1"), []byte(good)))
	other := digest.FromString("never there")
	broken := b.putBlob([]byte(`{"schemaVersion":2,"layers":`))
	text := b.putBlob([]byte("hello"))
	huge := b.putBlob([]byte(strings.Replace(imageOf(config, layer), `{"schema`,
		`{"annotations":{"x":"`+strings.Repeat("x", manifest.MaxSize)+`"},"schema`, 1)))
	deep := b.nested("deep", index.MaxDepth)

	link := func(d digest.Digest) (string, string) { return layout.RevisionLinkPath("repo", d), string(d) }
	tests := map[string]struct {
		path, content string
		want          error
	}{
		"blob of another digest":        {layout.BlobDataPath(other), "something else", new(cas.CorruptError)},
		"empty blob of another digest":  {layout.BlobDataPath(other), "", new(cas.CorruptError)},
		"layer link without a digest":   {layout.LayerLinkPath("repo", other), "hello", syscall.EINVAL},
		"layer link that is empty":      {layout.LayerLinkPath("repo", other), "", syscall.EINVAL},
		"layer link, another's digest":  {layout.LayerLinkPath("repo", other), string(layer), syscall.EINVAL},
		"revision, another's digest":    {layout.RevisionLinkPath("repo", other), string(good), syscall.EINVAL},
		"tag's link without a digest":   {layout.TagCurrentLinkPath("repo", "v1"), "v2", syscall.EINVAL},
		"tag's link, short digest":      {layout.TagCurrentLinkPath("repo", "v1"), string(good)[:70], syscall.EINVAL},
		"tag's link, unknown algorithm": {layout.TagCurrentLinkPath("repo", "v1"), "md5:d41d8cd98f00b204e9800998ecf8427e", syscall.EINVAL},
		"tag's link, very long":         {layout.TagCurrentLinkPath("repo", "v1"), string(good) + strings.Repeat("0", 1<<20), syscall.EINVAL},
		"history, another's digest":     {layout.TagIndexLinkPath("repo", "v1", other), string(good), syscall.EINVAL},
	}
	for name, d := range map[string]digest.Digest{
		"manifest that is cut off": broken, "manifest that is none": text, "manifest of 4 MiB": huge, "manifest too deep": deep,
	} {
		p, content := link(d)
		tests[name] = struct {
			path, content string
			want          error
		}{p, content, syscall.EINVAL}
	}
	before := files(b.dump())
	for name, test := range tests {
		for by, write := range ways {
			t.Run(name+" "+by, func(t *testing.T) {
				err := write(b, test.path, []byte(test.content))
				var corrupt *cas.CorruptError
				switch {
				case err == nil:
					t.Error("no error")
				case errors.As(test.want, &corrupt) && !errors.As(err, &corrupt), corrupt == nil && !errors.Is(err, test.want):
					t.Errorf("error %v, want %v", err, test.want)
				}
			})
		}
	}
	b.same("after refusals", files(b.dump()), before)
	b.reopen()
	b.same("after refusals, opened again", files(b.dump()), before)
}

// TestDepth: the deepest nesting that is taken is all listed.
func TestDepth(t *testing.T) {
	b := newBench(t)
	top := b.nested("as deep as may be", index.MaxDepth-1)
	b.ok(byTemp(b, layout.RevisionLinkPath("repo", top), []byte(top)))
	if _, there := b.dump()[layout.LayerLinkPath("repo", digest.FromString("layer as deep as may be"))]; !there {
		t.Error("the layer's link does not follow")
	}
}

// TestWays: all lead to the same.
func TestWays(t *testing.T) {
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			config, layer := []byte("config"), []byte("layer")
			image := imageOf(digest.FromBytes(config), digest.FromBytes(layer))
			d := digest.FromString(image)
			for range 2 {
				for _, content := range [][]byte{config, layer, []byte(image)} {
					b.ok(write(b, layout.BlobDataPath(digest.FromBytes(content)), content))
				}
				for _, p := range []string{
					layout.RevisionLinkPath("a/b", d), layout.TagCurrentLinkPath("a/b", "v1"), layout.TagIndexLinkPath("a/b", "v1", d),
				} {
					b.ok(write(b, p, []byte(d+"\n")))
				}
			}
			want := map[string]string{
				layout.BlobDataPath(digest.FromBytes(config)): string(config),
				layout.BlobDataPath(digest.FromBytes(layer)):  string(layer),
				layout.BlobDataPath(d):                        image,

				layout.LayerLinkPath("a/b", digest.FromBytes(config)): digest.FromBytes(config).String(),
				layout.LayerLinkPath("a/b", digest.FromBytes(layer)):  digest.FromBytes(layer).String(),

				layout.RevisionLinkPath("a/b", d):       d.String(),
				layout.TagCurrentLinkPath("a/b", "v1"):  d.String(),
				layout.TagIndexLinkPath("a/b", "v1", d): d.String(),
			}
			b.same("release", files(b.dump()), want)
			b.reopen()
			b.same("release, opened again", files(b.dump()), want)
		})
	}
}
