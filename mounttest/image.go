package mounttest

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
)

// An image is a manifest with its config and layers, or an index with images.
type image struct {
	manifest []byte
	config   []byte
	layers   [][]byte
	children []image
}

// newImage makes an image that no other seed makes; layers of its own come
// before those given.
func newImage(seed string, own int, shared ...[]byte) image {
	img := image{config: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":%q}`, seed)}
	for i := range own {
		img.layers = append(img.layers, noise(fmt.Sprint(seed, i), 2000+i))
	}
	img.layers = append(img.layers, shared...)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    descriptor(v1.MediaTypeImageConfig, img.config),
	}
	for _, l := range img.layers {
		m.Layers = append(m.Layers, descriptor(v1.MediaTypeImageLayerGzip, l))
	}
	img.manifest = encode(m)
	return img
}

func newIndex(seed string, children ...image) image {
	m := v1.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageIndex,
		Annotations: map[string]string{"seed": seed},
	}
	for _, c := range children {
		kind := v1.MediaTypeImageManifest
		if c.config == nil {
			kind = v1.MediaTypeImageIndex
		}
		m.Manifests = append(m.Manifests, descriptor(kind, c.manifest))
	}
	return image{manifest: encode(m), children: children}
}

func descriptor(mediaType string, content []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of the tests' own values
	}
	return b
}

func (i image) digest() digest.Digest { return digest.FromBytes(i.manifest) }

// blobs are the image's layers and config, those of its children included.
func (i image) blobs() [][]byte {
	all := i.layers
	if i.config != nil {
		all = append(all[:len(all):len(all)], i.config)
	}
	for _, c := range i.children {
		all = append(all[:len(all):len(all)], c.blobs()...)
	}
	return all
}

// manifests are the image's own and its children's, the lowest first.
func (i image) manifests() [][]byte {
	var all [][]byte
	for _, c := range i.children {
		all = append(all, c.manifests()...)
	}
	return append(all, i.manifest)
}

// pushImage pushes everything, as a client does that is told that nothing is
// there.
func (r registry) pushImage(repo, tag string, img image) error {
	for _, b := range img.blobs() {
		if err := r.push(repo, b); err != nil {
			return err
		}
	}
	return r.pushManifests(repo, tag, img)
}

// pushManifests pushes as a client does that is told that all blobs are there.
func (r registry) pushManifests(repo, tag string, img image) error {
	all := img.manifests()
	for i, m := range all {
		name := ""
		if i == len(all)-1 {
			name = tag
		}
		if err := r.pushManifest(repo, name, m); err != nil {
			return err
		}
	}
	return nil
}

// files are the paths that a release has for an image under a tag: M3.
func (i image) files(repo, tag string) []string {
	var all []string
	for _, b := range i.blobs() {
		d := digest.FromBytes(b)
		all = append(all, layout.BlobDataPath(d), layout.LayerLinkPath(repo, d))
	}
	for _, m := range i.manifests() {
		d := digest.FromBytes(m)
		all = append(all, layout.BlobDataPath(d), layout.RevisionLinkPath(repo, d))
	}
	if tag != "" {
		all = append(all, layout.TagCurrentLinkPath(repo, tag), layout.TagIndexLinkPath(repo, tag, i.digest()))
	}
	return all
}

// union merges lists of paths, each path once.
func union(lists ...[]string) []string {
	seen := make(map[string]bool)
	var all []string
	for _, list := range lists {
		for _, p := range list {
			if !seen[p] {
				seen[p] = true
				all = append(all, p)
			}
		}
	}
	return all
}
