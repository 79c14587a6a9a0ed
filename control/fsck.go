package control

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fsck"
)

// blobsRequest is the body of requests about some blobs.
type blobsRequest struct {
	Blobs []digest.Digest `json:"blobs"`
}

// maxBlobs is how many digests fit into a request, the longest ones too.
const maxBlobs = 400

func (s *Server) fsck(r *http.Request) (any, error) {
	return fsck.Check(r.Context(), s.store)
}

// Check holds the index against the store, see [fsck.Check].
func (c *Client) Check(ctx context.Context) (*fsck.Report, error) {
	report := new(fsck.Report)
	return report, c.call(ctx, http.MethodGet, "/v1/fsck", nil, report)
}

func (s *Server) affects(r *http.Request) (any, error) {
	var req blobsRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return fsck.Affects(r.Context(), s.store, req.Blobs)
}

// Affects says which images need blobs, see [fsck.Affects].
func (c *Client) Affects(ctx context.Context, blobs []digest.Digest) (map[digest.Digest][]fsck.Affected, error) {
	all := make(map[digest.Digest][]fsck.Affected)
	for part := range slices.Chunk(blobs, maxBlobs) {
		some := make(map[digest.Digest][]fsck.Affected)
		if err := c.call(ctx, http.MethodPost, "/v1/fsck/affects", blobsRequest{part}, &some); err != nil {
			return nil, err
		}
		maps.Copy(all, some)
	}
	return all, nil
}

func (s *Server) repair(r *http.Request) (any, error) {
	return fsck.Repair(r.Context(), s.store, s.log)
}

// Repair is Check, and mends what it can, see [fsck.Repair].
func (c *Client) Repair(ctx context.Context) (*fsck.Report, error) {
	report := new(fsck.Report)
	return report, c.call(ctx, http.MethodPost, "/v1/fsck/repair", nil, report)
}

func (s *Server) quarantine(r *http.Request) (any, error) {
	var req blobsRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return fsck.Quarantine(r.Context(), s.store, req.Blobs)
}

// Quarantine puts damaged blobs aside, see [fsck.Quarantine].
func (c *Client) Quarantine(ctx context.Context, blobs []digest.Digest) (map[digest.Digest]fsck.Outcome, error) {
	all := make(map[digest.Digest]fsck.Outcome)
	for part := range slices.Chunk(blobs, maxBlobs) {
		some := make(map[digest.Digest]fsck.Outcome)
		if err := c.call(ctx, http.MethodPost, "/v1/fsck/quarantine", blobsRequest{part}, &some); err != nil {
			return nil, err
		}
		maps.Copy(all, some)
	}
	return all, nil
}
