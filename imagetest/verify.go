package imagetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verify pulls every image of a release from a registry, with all that it
// needs, and compares it with the release's layout: manifests byte for byte,
// blobs by their digests. It returns all images that are not served so.
func Verify(ctx context.Context, client *http.Client, baseURL string, r Release) error {
	return parallel(imagesAtOnce, r.Images, func(_ int, image Image) error {
		v := verifier{remote{ctx, client, baseURL, image.Repository}, r.Dir}
		desc := ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest}
		if err := v.manifest(desc, image.Tag); err != nil {
			return fmt.Errorf("verify %s: %w", image.Ref(), err)
		}
		return nil
	})
}

// A verifier compares a repository with a layout.
type verifier struct {
	remote
	dir string
}

// manifest compares what a tag or digest names with the layout's manifest,
// and all that it needs.
func (v verifier) manifest(desc ocispec.Descriptor, ref string) error {
	want, c, err := readManifest(v.dir, desc.Digest)
	if err != nil {
		return err
	}
	got, mediaType, err := v.getManifest(ref)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) || mediaType != desc.MediaType {
		return fmt.Errorf("manifest %s: not %s of type %s, but of type %s:\n%s", ref, desc.Digest, desc.MediaType, mediaType, got)
	}
	for _, blob := range c.blobs() {
		if err := v.blob(blob); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Digest, err)
		}
	}
	for _, child := range c.Manifests {
		if err := v.manifest(child, child.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

// blob compares a blob with the digest that it has in the layout.
func (v verifier) blob(desc ocispec.Descriptor) error {
	content, err := v.getBlob(desc.Digest)
	if err != nil {
		return err
	}
	defer content.Close()
	check := desc.Digest.Verifier()
	n, err := io.Copy(check, content)
	if err != nil {
		return err
	}
	if n != desc.Size || !check.Verified() {
		return fmt.Errorf("other content, %d bytes instead of %d", n, desc.Size)
	}
	return nil
}
