package registrytest

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// An API speaks the distribution protocol, one request a method where the
// protocol has it so. Methods return the status that the registry answered,
// whatever it is; only a request without an answer fails the test.
type API struct {
	t      TB
	client *http.Client
	base   string // scheme and host
}

// NewAPI returns the protocol of the registry at base, such as
// "http://127.0.0.1:5000".
func NewAPI(t TB, client *http.Client, base string) *API {
	return &API{t: t, client: client, base: base}
}

// An answer is a response whose body has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends one request. The path is absolute, or a whole URL as registries
// return them for uploads.
func (a *API) do(method, path string, header http.Header, body []byte) answer {
	a.t.Helper()
	req, err := http.NewRequest(method, a.absolute(path), bytes.NewReader(body))
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, text}
}

func (a *API) absolute(path string) string {
	if strings.HasPrefix(path, "/") {
		return a.base + path
	}
	return path
}

// withQuery adds a parameter to a URL that may have some.
func withQuery(target, name, value string) string {
	sep := "?"
	if strings.Contains(target, "?") {
		sep = "&"
	}
	return target + sep + name + "=" + url.QueryEscape(value)
}

func blobPath(repo string, d digest.Digest) string { return "/v2/" + repo + "/blobs/" + d.String() }

// HeadBlob asks for a blob's size.
func (a *API) HeadBlob(repo string, d digest.Digest) (size int64, status int) {
	a.t.Helper()
	ans := a.do(http.MethodHead, blobPath(repo, d), nil, nil)
	size, _ = strconv.ParseInt(ans.header.Get("Content-Length"), 10, 64)
	return size, ans.status
}

// GetBlob reads a blob; its content is not checked.
func (a *API) GetBlob(repo string, d digest.Digest) (content []byte, status int) {
	a.t.Helper()
	ans := a.do(http.MethodGet, blobPath(repo, d), nil, nil)
	return ans.body, ans.status
}

// DeleteBlob removes a blob from a repository.
func (a *API) DeleteBlob(repo string, d digest.Digest) (status int) {
	a.t.Helper()
	return a.do(http.MethodDelete, blobPath(repo, d), nil, nil).status
}
