package imagetest

import (
	"fmt"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const debianReleases = 3

// Debian builds three releases of more than twenty images, each in an OCI
// layout under dir, from Debian packages that are downloaded into cache once
// (by default $REGFS_CACHE/debs, or .cache/debs of the module). Among them are
// gzip and zstd layers, Docker and OCI images, an index and a list of several
// platforms, an artifact and a signature. Digests differ between machines as
// the packages' versions do.
func Debian(dir, cache string) ([]Release, error) {
	debs, err := openDebs(cache, allPackages())
	if err != nil {
		return nil, err
	}
	layers := &layerCache{debs: debs, made: map[layerKey]layer{}}
	var releases []Release
	for n := range debianReleases {
		release, err := buildDebian(dir, layers, n)
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", releaseName(n), err)
		}
		releases = append(releases, release)
	}
	return releases, nil
}

func buildDebian(dir string, layers *layerCache, n int) (Release, error) {
	l, err := newLayout(filepath.Join(dir, releaseName(n)))
	if err != nil {
		return Release{}, err
	}
	b := &builder{layout: l, layers: layers, release: n}
	for _, r := range recipes {
		if err := b.build(r); err != nil {
			return Release{}, fmt.Errorf("image %s: %w", r.repository, err)
		}
	}
	return l.close(releaseName(n))
}

// A builder writes one release.
type builder struct {
	*layout
	layers  *layerCache
	release int
}

// build writes one image under its tag, and what belongs to it.
func (b *builder) build(r recipe) error {
	if b.release < r.since {
		return nil
	}
	make := r.make
	if make == nil {
		make = gzipImage
	}
	packages, tag := r.at(b.release)
	desc, err := make(b, packages)
	if err != nil {
		return err
	}
	b.tag(r.repository, tag, desc)
	switch r.repository {
	case signedImage:
		return b.sign(r.repository, desc)
	case attachedImage:
		return b.attach(r.repository, tag, desc)
	}
	return nil
}

func gzipImage(b *builder, packages []string) (descriptor, error) {
	return b.imageOf(ociFormat, native, packages)
}

func zstdImage(b *builder, packages []string) (descriptor, error) {
	return b.imageOf(zstdFormat, native, packages)
}

func dockerImage(b *builder, packages []string) (descriptor, error) {
	return b.imageOf(dockerFormat, native, packages)
}

// imageOf writes an image with a layer for each package.
func (b *builder) imageOf(f format, p ocispec.Platform, packages []string) (descriptor, error) {
	var layers []layer
	for _, name := range packages {
		layer, err := b.layers.get(f, name)
		if err != nil {
			return descriptor{}, err
		}
		layers = append(layers, layer)
	}
	return b.image(f, p, layers)
}

// A layerCache makes each package's layer once.
type layerCache struct {
	debs debs
	made map[layerKey]layer
}

type layerKey struct{ mediaType, name string }

func (c *layerCache) get(f format, name string) (layer, error) {
	key := layerKey{f.layer, name}
	if layer, ok := c.made[key]; ok {
		return layer, nil
	}
	files, err := c.debs.files(name)
	if err != nil {
		return layer{}, err
	}
	made, err := f.compress(files)
	c.made[key] = made
	return made, err
}
