package registrytest

import (
	"net/http"

	"github.com/opencontainers/go-digest"
)

// A Manifest is one as the registry gave it. Its digest is the header's.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Body      []byte // nil after HeadManifest
}

// manifestTypes is what a client that can read everything accepts.
var manifestTypes = []string{
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
}

// PutManifest stores a manifest under a tag or its digest: 201.
func (a *API) PutManifest(repo, ref, mediaType string, body []byte) (digest.Digest, int) {
	a.t.Helper()
	header := http.Header{"Content-Type": {mediaType}}
	ans := a.do(http.MethodPut, manifestPath(repo, ref), header, body)
	return digest.Digest(ans.header.Get("Docker-Content-Digest")), ans.status
}

// GetManifest reads a manifest by tag or digest.
func (a *API) GetManifest(repo, ref string) (Manifest, int) {
	a.t.Helper()
	return a.manifest(http.MethodGet, repo, ref)
}

// HeadManifest is [API.GetManifest] without the body.
func (a *API) HeadManifest(repo, ref string) (Manifest, int) {
	a.t.Helper()
	m, status := a.manifest(http.MethodHead, repo, ref)
	m.Body = nil
	return m, status
}

// DeleteManifest removes a manifest by digest, or a tag where the registry can
// (3.x): 202.
func (a *API) DeleteManifest(repo, ref string) (status int) {
	a.t.Helper()
	return a.do(http.MethodDelete, manifestPath(repo, ref), nil, nil).status
}

func (a *API) manifest(method, repo, ref string) (Manifest, int) {
	a.t.Helper()
	ans := a.do(method, manifestPath(repo, ref), http.Header{"Accept": manifestTypes}, nil)
	return Manifest{
		MediaType: ans.header.Get("Content-Type"),
		Digest:    digest.Digest(ans.header.Get("Docker-Content-Digest")),
		Body:      ans.body,
	}, ans.status
}

func manifestPath(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }
