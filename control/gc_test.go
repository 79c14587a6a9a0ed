package control

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/gc"
	"github.com/regfs/regfs/index"
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

// What the index does not say may be needed. One that is an old copy, or lacks
// the end of its log, is whole in itself; what is written down beside the
// releases knows better.
func TestGCWithAnIndexInDoubt(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(dir, old string)
		says   string
	}{
		{"an old copy", func(dir, old string) {
			ok(t, os.RemoveAll(dir))
			ok(t, os.Rename(old, dir))
		}, "v3: not in the index"},
		{"a byte is flipped", func(dir, _ string) {
			tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
			ok(t, err)
			data, err := os.ReadFile(tables[0])
			ok(t, err)
			data[20] ^= 1
			ok(t, os.WriteFile(tables[0], data, 0o600))
		}, "a table's block"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newStore(t)
			at, old := filepath.Join(dir, "index"), filepath.Join(t.TempDir(), "old")
			create(t, dir, "v1")
			ok(t, os.CopyFS(old, os.DirFS(at)))
			create(t, dir, "v2")
			create(t, dir, "v3")
			litter(t, dir, 3)
			c.damage(at, old)
			client := dial(t, dir)
			err := client.GC(t.Context(), GCRequest{Keep: &Retention{}}, func(news GCNews) error {
				t.Errorf("goes on: %+v", news)
				return nil
			})
			wantError(t, err, index.ErrDamaged, c.says)
			ok(t, client.Close())
			s, err := store.Open(dir, quiet)
			ok(t, err)
			defer s.Close()
			if _, err := s.Index.Open("v1"); err != nil {
				t.Errorf("release v1: %v", err)
			}
			n := 0
			for _, err := range s.Blobs.All() {
				ok(t, err)
				n++
			}
			if n != 3 {
				t.Errorf("%d blobs are left", n)
			}
		})
	}
}

// create makes a release, in a process of its own, as it were.
func create(t *testing.T, dir, name string) {
	t.Helper()
	c := dial(t, dir)
	ok(t, c.CreateRelease(t.Context(), name))
	ok(t, c.Close())
}
