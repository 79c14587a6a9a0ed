package control

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/regfs/regfs/compose"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/overlay"
)

func (s *Server) compose(r *http.Request) (any, error) {
	var req compose.Request
	if err := decodeUpTo(maxSelection, r, &req); err != nil {
		return nil, err
	}
	if err := s.settleSources(req.From); err != nil {
		return nil, err
	}
	report, err := compose.Compose(s.store.Blobs, s.store.Index, s.log, r.PathValue("name"), req)
	if err == nil && report.Made {
		s.snapshot(report.Release)
	}
	return report, err
}

// settleSources brings in what was written to some releases by overlayfs;
// without names, to all.
func (s *Server) settleSources(names []string) error {
	pending, err := overlay.Pending(s.store)
	if err != nil {
		return err
	}
	for _, name := range pending {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		if _, err := s.settle(name); err != nil {
			return err
		}
	}
	return nil
}

// Compose makes a release of images that others have, see [compose.Compose].
func (c *Client) Compose(ctx context.Context, release string, req compose.Request) (*compose.Report, error) {
	if err := index.ValidRelease(release); err != nil {
		return nil, err
	}
	report := new(compose.Report)
	return report, c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/compose", req, report)
}
