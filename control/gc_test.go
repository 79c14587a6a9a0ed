package control

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/gc"
	"github.com/regfs/regfs/store"
)

// litter puts blobs into a store that nobody needs.
func litter(t *testing.T, dir string, n int) {
	t.Helper()
	s, err := store.Open(dir, quiet)
	ok(t, err)
	for i := range n {
		content := []byte{byte(i), byte(i >> 8)}
		w, err := s.Blobs.NewWriter()
		ok(t, err)
		_, err = w.File().Write(content)
		ok(t, err)
		_, err = w.Commit(digest.FromBytes(content))
		ok(t, err)
	}
	ok(t, s.Close())
}

// collect collects garbage and returns the plan and what has gone.
func collect(t *testing.T, c *Client, req GCRequest) (plan *GCPlan, gone gc.Amount) {
	t.Helper()
	ok(t, c.GC(t.Context(), req, func(news GCNews) error {
		if news.Plan != nil {
			plan = news.Plan
		}
		if news.End != nil {
			gone = news.End.Gone
		}
		return nil
	}))
	return plan, gone
}

func TestGC(t *testing.T) {
	for _, server := range []bool{false, true} {
		t.Run(map[bool]string{false: "in process", true: "server"}[server], func(t *testing.T) {
			dir := newStore(t)
			litter(t, dir, 400)
			if server {
				startServer(t, dir, quiet)
			}
			c := dial(t, dir)
			for _, name := range []string{"v1", "v2", "v3"} {
				ok(t, c.CreateRelease(t.Context(), name))
			}
			nothing := func(GCNews) error { return nil }
			wantError(t, c.GC(t.Context(), GCRequest{Grace: -1}, nothing), ErrUsage)
			wantError(t, c.GC(t.Context(), GCRequest{Keep: &Retention{Last: -1}}, nothing), ErrUsage)
			wantError(t, c.GC(t.Context(), GCRequest{Keep: &Retention{Names: []string{"v9"}}}, nothing), ErrUsage, "v9")

			plan, gone := collect(t, c, GCRequest{DryRun: true, Keep: &Retention{Last: 1, Names: []string{"v1"}}})
			if plan.Remove.Blobs != 400 || gone.Blobs != 0 || len(plan.RemoveReleases) != 1 || plan.RemoveReleases[0] != "v2" {
				t.Errorf("plan: %+v, gone: %v", plan, gone)
			}

			// The caller goes after the first batch, and another one cannot run
			// while it runs.
			ctx, cancel := context.WithCancel(t.Context())
			err := c.GC(ctx, GCRequest{}, func(news GCNews) error {
				if news.Plan != nil {
					wantError(t, c.GC(t.Context(), GCRequest{}, nothing), syscall.EBUSY, "another one is running")
				}
				if news.Gone != nil {
					cancel()
				}
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: %v", err)
			}
			for err = syscall.EBUSY; errors.Is(err, syscall.EBUSY); { // until the server has noticed
				err = c.GC(t.Context(), GCRequest{}, nothing)
			}
			ok(t, err)
			if plan, _ := collect(t, c, GCRequest{}); plan.Remove.Blobs != 0 {
				t.Errorf("left: %v", plan.Remove)
			}

			ok(t, c.RemoveRelease(t.Context(), "v1", true))
			ok(t, c.RemoveRelease(t.Context(), "v1", false))
			wantError(t, c.RemoveRelease(t.Context(), "v1", false), fs.ErrNotExist, "v1")
		})
	}
}
