package imagetest

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is what any manifest names, of whichever kind it is.
type content struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// blobs returns the config and the layers.
func (c content) blobs() []ocispec.Descriptor {
	if c.Config == nil {
		return c.Layers
	}
	return append([]ocispec.Descriptor{*c.Config}, c.Layers...)
}

// readManifest reads a manifest of the layout dir.
func readManifest(dir string, d digest.Digest) (body []byte, c content, err error) {
	if body, err = os.ReadFile(blobPath(dir, d)); err != nil {
		return nil, c, err
	}
	if err = json.Unmarshal(body, &c); err != nil {
		return nil, c, fmt.Errorf("manifest %s: %w", d, err)
	}
	return body, c, nil
}

// allBlobs returns every blob under a manifest, itself included.
func allBlobs(dir string, desc ocispec.Descriptor) ([]digest.Digest, error) {
	_, c, err := readManifest(dir, desc.Digest)
	if err != nil {
		return nil, err
	}
	all := []digest.Digest{desc.Digest}
	for _, blob := range c.blobs() {
		all = append(all, blob.Digest)
	}
	for _, child := range c.Manifests {
		under, err := allBlobs(dir, child)
		if err != nil {
			return nil, err
		}
		all = append(all, under...)
	}
	return all, nil
}
