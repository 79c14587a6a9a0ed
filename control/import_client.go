package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
)

// An Import is an import into one release under way. Its methods may be called
// from many goroutines, except for Close.
type Import struct {
	// Dir is where to put files that are to become blobs, relative to the
	// store's directory.
	Dir string

	client *Client
	path   string
	stay   io.ReadCloser
}

// Import begins an import. Until Close nobody can mount the release.
func (c *Client) Import(ctx context.Context, release string) (*Import, error) {
	if err := index.ValidRelease(release); err != nil {
		return nil, err
	}
	body, err := c.send(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/import", struct{}{})
	if err != nil {
		return nil, err
	}
	var started importStarted
	if err := json.NewDecoder(body).Decode(&started); err != nil {
		body.Close()
		return nil, fmt.Errorf("answer of the server: %w", err)
	}
	// The many requests that follow share a few connections.
	often := &Client{http: http.Client{Transport: &http.Transport{
		DialContext: c.dial, MaxIdleConnsPerHost: importConns, IdleConnTimeout: readPatience / 2,
	}}}
	return &Import{Dir: started.Dir, client: often, path: "/v1/imports/" + started.ID + "/", stay: body}, nil
}

const importConns = 64

// Have says which blobs the store has, and how large they are. They stay until
// Close.
func (i *Import) Have(ctx context.Context, digests []digest.Digest) (map[digest.Digest]int64, error) {
	all := make(map[digest.Digest]int64)
	for len(digests) > 0 {
		n := min(len(digests), 1000)
		if err := i.client.call(ctx, http.MethodPost, i.path+"have", haveRequest{digests[:n]}, &all); err != nil {
			return nil, err
		}
		digests = digests[n:]
	}
	return all, nil
}

// Blob makes a file in Dir a blob. Nobody may have it open for writing. Content
// that is not what the digest says is [ErrCorrupt]; the file is gone then, too.
func (i *Import) Blob(ctx context.Context, name string, d digest.Digest) error {
	return i.client.call(ctx, http.MethodPost, i.path+"blob", blobRequest{name, d}, nil)
}

// Images enters images whose blobs are in the store. It returns why each was
// refused, or "".
func (i *Import) Images(ctx context.Context, images []intake.Image) ([]string, error) {
	var reasons []string
	err := i.client.call(ctx, http.MethodPost, i.path+"images", imagesRequest{images}, &reasons)
	if err == nil && len(reasons) != len(images) {
		err = fmt.Errorf("answer of the server: %d reasons for %d images", len(reasons), len(images))
	}
	return reasons, err
}

// Close ends the import. What has come in stays.
func (i *Import) Close() error {
	err := i.client.call(context.Background(), http.MethodPost, i.path+"end", nil, nil)
	if errors.Is(err, ErrLeaving) {
		err = nil // and with the server, the import
	}
	i.client.http.CloseIdleConnections()
	return errors.Join(err, i.stay.Close())
}
