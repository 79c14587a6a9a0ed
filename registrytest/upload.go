package registrytest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// An Upload is one in progress. Every request returns it anew: its URL
// changes with each.
type Upload struct {
	URL    string
	UUID   string
	Offset int64 // bytes that the registry has
}

// StartUpload begins an upload: 202.
func (a *API) StartUpload(repo string) (Upload, int) {
	a.t.Helper()
	return a.upload(Upload{}, a.do(http.MethodPost, uploadsPath(repo), nil, nil))
}

// PatchUpload appends a chunk: 202. If the registry has more or less than u
// says, 3.x answers 416; 2.8 does not look, and appends.
func (a *API) PatchUpload(u Upload, chunk []byte) (Upload, int) {
	a.t.Helper()
	header := http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.Offset, u.Offset+int64(len(chunk))-1)},
	}
	return a.upload(u, a.do(http.MethodPatch, u.URL, header, chunk))
}

// GetUploadStatus asks how far the upload is: 204.
func (a *API) GetUploadStatus(u Upload) (Upload, int) {
	a.t.Helper()
	return a.upload(u, a.do(http.MethodGet, u.URL, nil, nil))
}

// FinishUpload appends the rest, which may be empty, and commits the whole as
// d: 201.
func (a *API) FinishUpload(u Upload, d digest.Digest, rest []byte) (status int) {
	a.t.Helper()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	return a.do(http.MethodPut, withQuery(u.URL, "digest", d.String()), header, rest).status
}

// CancelUpload discards the upload: 204.
func (a *API) CancelUpload(u Upload) (status int) {
	a.t.Helper()
	return a.do(http.MethodDelete, u.URL, nil, nil).status
}

// PushBlobMonolithic uploads a blob by one POST and one PUT: 201.
func (a *API) PushBlobMonolithic(repo string, content []byte) (digest.Digest, int) {
	a.t.Helper()
	d := digest.FromBytes(content)
	u, status := a.StartUpload(repo)
	if status != http.StatusAccepted {
		return d, status
	}
	return d, a.FinishUpload(u, d, content)
}

// PushBlobChunked uploads a blob by n PATCHes and an empty PUT: 201. It stops
// at the first status that is not the protocol's.
func (a *API) PushBlobChunked(repo string, content []byte, n int) (digest.Digest, int) {
	a.t.Helper()
	d := digest.FromBytes(content)
	u, status := a.StartUpload(repo)
	for i := 0; i < n && status == http.StatusAccepted; i++ {
		u, status = a.PatchUpload(u, content[len(content)*i/n:len(content)*(i+1)/n])
	}
	if status != http.StatusAccepted {
		return d, status
	}
	return d, a.FinishUpload(u, d, nil)
}

// MountBlob asks for a blob of another repository: 201 if it is mounted, 202
// if the upload returned has begun instead.
func (a *API) MountBlob(repo string, d digest.Digest, from string) (Upload, int) {
	a.t.Helper()
	path := withQuery(withQuery(uploadsPath(repo), "mount", d.String()), "from", from)
	return a.upload(Upload{}, a.do(http.MethodPost, path, nil, nil))
}

func uploadsPath(repo string) string { return "/v2/" + repo + "/blobs/uploads/" }

// upload is u as an answer leaves it.
func (a *API) upload(u Upload, ans answer) (Upload, int) {
	if location := ans.header.Get("Location"); location != "" {
		u.URL = location
	}
	if uuid := ans.header.Get("Docker-Upload-Uuid"); uuid != "" {
		u.UUID = uuid
	}
	if span := ans.header.Get("Range"); span != "" {
		u.Offset = endOf(span)
	}
	return u, ans.status
}

// endOf returns how many bytes the span "0-99" says. Registries say "0-0" of
// an empty upload, and of one that has a single byte too.
func endOf(span string) int64 {
	_, end, _ := strings.Cut(span, "-")
	last, err := strconv.ParseInt(end, 10, 64)
	if err != nil || last <= 0 {
		return 0
	}
	return last + 1
}
