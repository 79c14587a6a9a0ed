package control

import (
	"context"
	"net/http"

	"github.com/regfs/regfs/fsck"
)

func (s *Server) fsck(r *http.Request) (any, error) {
	return fsck.Check(r.Context(), s.store)
}

// Check holds the index against the store, see [fsck.Check].
func (c *Client) Check(ctx context.Context) (*fsck.Report, error) {
	report := new(fsck.Report)
	return report, c.call(ctx, http.MethodGet, "/v1/fsck", nil, report)
}
