package imagetest

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image is one entry of a release's list.
type Image struct {
	Repository string
	Tag        string
	Digest     digest.Digest // of the manifest or index that the tag names
	MediaType  string        // of the same
}

// Ref returns the image's name, which is its name in the layout too.
func (i Image) Ref() string { return i.Repository + ":" + i.Tag }

// Needs returns the image's config and layers, those of all its platforms. The
// layout dir is its release's.
func (i Image) Needs(dir string) (needs []digest.Digest, err error) {
	return needed(dir, i.Digest)
}

func needed(dir string, d digest.Digest) (needs []digest.Digest, err error) {
	_, c, err := readManifest(dir, d)
	if err != nil {
		return nil, err
	}
	for _, blob := range c.blobs() {
		needs = append(needs, blob.Digest)
	}
	for _, child := range c.Manifests {
		below, err := needed(dir, child.Digest)
		if err != nil {
			return nil, err
		}
		needs = append(needs, below...)
	}
	return needs, nil
}

// SkopeoReads says whether skopeo finds the image in the layout: Debian 12's
// looks for OCI manifests only. [Push] takes any.
func (i Image) SkopeoReads() bool {
	return i.MediaType != dockerManifest && i.MediaType != dockerManifestList
}

// A Release is a list of images and the layout that holds them.
type Release struct {
	Name   string // v1.0, v1.1, ...
	Dir    string // an OCI image layout: oci-layout, index.json, blobs
	Images []Image
}

// Blobs returns every blob of the release with its size, the manifests among
// them.
func (r Release) Blobs() (map[digest.Digest]int64, error) {
	sizes := make(map[digest.Digest]int64)
	for _, image := range r.Images {
		all, err := allBlobs(r.Dir, ocispec.Descriptor{Digest: image.Digest})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", image.Ref(), err)
		}
		for _, d := range all {
			info, err := os.Stat(blobPath(r.Dir, d))
			if err != nil {
				return nil, err
			}
			sizes[d] = info.Size()
		}
	}
	return sizes, nil
}

// releaseName returns the name of the n-th release, counted from 0.
func releaseName(n int) string { return fmt.Sprintf("v1.%d", n) }
