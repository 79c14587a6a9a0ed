package imagetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// PullRelease reads every image of a release from a registry, with all that it
// needs, four images at a time, and keeps nothing. It does not look at what it
// reads, as measurements want it; [Verify] does.
func PullRelease(ctx context.Context, client *http.Client, baseURL string, r Release) error {
	return parallel(imagesAtOnce, r.Images, func(_ int, image Image) error {
		if err := pull(remote{ctx, client, baseURL, image.Repository}, image.Tag); err != nil {
			return fmt.Errorf("pull %s: %w", image.Ref(), err)
		}
		return nil
	})
}

// pull reads what a tag or digest names, and all below it.
func pull(r remote, ref string) error {
	body, _, err := r.getManifest(ref)
	if err != nil {
		return err
	}
	var c content
	if err := json.Unmarshal(body, &c); err != nil {
		return err
	}
	for _, desc := range c.blobs() {
		blob, err := r.getBlob(desc.Digest)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, blob)
		blob.Close()
		if err == nil && n != desc.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("blob %s: %d of %d bytes: %w", desc.Digest, n, desc.Size, err)
		}
	}
	for _, child := range c.Manifests {
		if err := pull(r, child.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}
