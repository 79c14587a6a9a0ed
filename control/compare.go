package control

import (
	"context"
	"net/http"
	"net/url"

	"github.com/regfs/regfs/compare"
	"github.com/regfs/regfs/index"
)

func (s *Server) compare(r *http.Request) (any, error) {
	return withRelease(s, r, func(before *index.Release) (*compare.Diff, error) {
		after, err := s.store.Index.Open(r.PathValue("other"))
		if err != nil {
			return nil, err
		}
		defer after.Close()
		if _, err := s.settle(after.Name); err != nil {
			return nil, err
		}
		return compare.Releases(before, after), nil
	})
}

// Diff says how a release differs from an earlier one, see [compare.Releases].
func (c *Client) Diff(ctx context.Context, before, after string) (*compare.Diff, error) {
	if err := index.ValidRelease(after); err != nil {
		return nil, err
	}
	diff := new(compare.Diff)
	return diff, c.ask(ctx, before, "diff/"+url.PathEscape(after), diff)
}
