package imagetest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A remote is one repository of a registry.
type remote struct {
	ctx    context.Context
	client *http.Client
	base   string // the registry's URL
	repo   string
}

// A request is what is sent; its body has so many bytes.
type request struct {
	method, url string
	header      http.Header
	body        io.Reader
	size        int64
}

// open sends a request and returns the answer if its status is among those
// wanted. The caller closes the answer's body.
func (r remote) open(q request, want ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.ctx, q.method, q.url, q.body)
	if err != nil {
		return nil, err
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	req.ContentLength = q.size
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if slices.Contains(want, resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	return nil, fmt.Errorf("%s %s: %s %s", q.method, q.url, resp.Status, text)
}

// send is open for an answer of which only the header matters.
func (r remote) send(q request, want ...int) (*http.Response, error) {
	resp, err := r.open(q, want...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body) // or the connection is not used again
	return resp, err
}

func (r remote) url(kind, name string) string {
	return r.base + "/v2/" + r.repo + "/" + kind + "/" + name
}

// hasBlob asks whether the blob is in the repository.
func (r remote) hasBlob(d digest.Digest) (bool, error) {
	q := request{method: http.MethodHead, url: r.url("blobs", d.String())}
	resp, err := r.send(q, http.StatusOK, http.StatusNotFound)
	return err == nil && resp.StatusCode == http.StatusOK, err
}

// putBlob uploads a file by POST, one PATCH and PUT, as clients do.
func (r remote) putBlob(d digest.Digest, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	upload, err := r.step(request{method: http.MethodPost, url: r.url("blobs", "uploads/")})
	if err != nil {
		return err
	}
	binary := http.Header{"Content-Type": {"application/octet-stream"}}
	upload, err = r.step(request{http.MethodPatch, upload.String(), binary, f, info.Size()})
	if err != nil {
		return err
	}
	_, err = r.send(request{method: http.MethodPut, url: withDigest(*upload, d)}, http.StatusCreated)
	return err
}

// step is one step of an upload; it returns the URL of the next.
func (r remote) step(q request) (*url.URL, error) {
	resp, err := r.send(q, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	return resp.Location()
}

func withDigest(u url.URL, d digest.Digest) string {
	query := u.Query()
	query.Set("digest", d.String())
	u.RawQuery = query.Encode()
	return u.String()
}

// getBlob returns a blob's content, to be closed.
func (r remote) getBlob(d digest.Digest) (io.ReadCloser, error) {
	resp, err := r.open(request{method: http.MethodGet, url: r.url("blobs", d.String())}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// accepted is every kind of manifest that a release may have.
var accepted = http.Header{"Accept": {
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerManifestList,
}}

// manifestDigest asks which manifest a tag or digest names; empty if none.
func (r remote) manifestDigest(ref string) (digest.Digest, error) {
	q := request{method: http.MethodHead, url: r.url("manifests", ref), header: accepted}
	resp, err := r.send(q, http.StatusOK, http.StatusNotFound)
	if err != nil || resp.StatusCode == http.StatusNotFound {
		return "", err
	}
	return digest.Digest(resp.Header.Get("Docker-Content-Digest")), nil
}

// putManifest stores a manifest under a tag or its digest.
func (r remote) putManifest(ref, mediaType string, body io.Reader, size int64) error {
	header := http.Header{"Content-Type": {mediaType}}
	_, err := r.send(request{http.MethodPut, r.url("manifests", ref), header, body, size}, http.StatusCreated)
	return err
}

// getManifest returns a manifest and its media type.
func (r remote) getManifest(ref string) (body []byte, mediaType string, err error) {
	q := request{method: http.MethodGet, url: r.url("manifests", ref), header: accepted}
	resp, err := r.open(q, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.Header.Get("Content-Type"), err
}
