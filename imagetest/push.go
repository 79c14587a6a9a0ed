package imagetest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imagesAtOnce is how many images are pushed or verified at a time, as many
// as clients move blobs.
const imagesAtOnce = 4

// Push brings one image of a layout to a registry, as repo:tag, whatever kind
// of manifest it has. Like other clients it asks for each blob and manifest
// first, sends what is missing, and the manifests last.
func Push(ctx context.Context, client *http.Client, baseURL, layout, ref, repo, tag string) error {
	desc, err := find(layout, ref)
	if err != nil {
		return err
	}
	p := pusher{remote{ctx, client, baseURL, repo}, layout}
	if err := p.manifest(desc, tag); err != nil {
		return fmt.Errorf("push %s:%s: %w", repo, tag, err)
	}
	return nil
}

// PushRelease brings all images of a release to a registry under their own
// names, four at a time, and returns all errors.
func PushRelease(ctx context.Context, client *http.Client, baseURL string, r Release) error {
	return parallel(imagesAtOnce, r.Images, func(_ int, image Image) error {
		return Push(ctx, client, baseURL, r.Dir, image.Ref(), image.Repository, image.Tag)
	})
}

// A pusher brings images from a layout to a repository.
type pusher struct {
	remote
	dir string
}

// manifest pushes a manifest under a tag or its digest, after all that it
// needs. Its subject it does not need.
func (p pusher) manifest(desc ocispec.Descriptor, ref string) error {
	there, err := p.manifestDigest(ref)
	if err != nil || there == desc.Digest {
		return err
	}
	body, c, err := readManifest(p.dir, desc.Digest)
	if err != nil {
		return err
	}
	for _, blob := range c.blobs() {
		if err := p.blob(blob); err != nil {
			return err
		}
	}
	for _, child := range c.Manifests {
		if err := p.manifest(child, child.Digest.String()); err != nil {
			return err
		}
	}
	return p.putManifest(ref, desc.MediaType, bytes.NewReader(body), int64(len(body)))
}

func (p pusher) blob(desc ocispec.Descriptor) error {
	there, err := p.hasBlob(desc.Digest)
	if err != nil || there {
		return err
	}
	return p.putBlob(desc.Digest, blobPath(p.dir, desc.Digest))
}
