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
