package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
)

// forkRequest is the body of POST /v1/releases/NAME/fork and .../rename.
type forkRequest struct {
	Name string `json:"name"` // the new one
}

// fork makes an open release of what another one has. That may be mounted.
func (s *Server) fork(r *http.Request) (any, error) {
	var req forkRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	// Until the new release is there, only these keep what it needs, should it go
	// from the old one meanwhile.
	pins := s.store.Blobs.NewPins("being forked: " + r.PathValue("name"))
	defer pins.Release()
	return withRelease(s, r, func(release *index.Release) (any, error) {
		if _, err := export.TakePart(release, s.store.Blobs, pins, export.Selection{}); err != nil {
			return nil, err
		}
		if err := release.Fork(req.Name); err != nil {
			return nil, fmt.Errorf("fork %s: %w", release.Name, err)
		}
		s.snapshot(req.Name)
		return struct{}{}, nil
	})
}

// rename gives a release that nobody has mounted another name.
func (s *Server) rename(r *http.Request) (any, error) {
	var req forkRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	old := r.PathValue("name")
	if err := errors.Join(index.ValidRelease(old), index.ValidRelease(req.Name)); err != nil {
		return nil, err
	}
	unclaim, err := s.claimBoth(old, req.Name)
	if err != nil {
		return nil, err
	}
	defer unclaim()
	if err := s.beginRenaming(); err != nil {
		return nil, fmt.Errorf("rename %s: %w", old, err)
	}
	defer s.endRenaming()
	if err := s.checkFree(req.Name); err != nil {
		return nil, fmt.Errorf("rename %s: %w", old, err)
	}
	if err := s.store.Index.Rename(old, req.Name, s.moveRelease); err != nil {
		return nil, fmt.Errorf("rename %s: %w", old, err)
	}
	s.forgetOverlay(old)
	s.snapshot(req.Name)
	s.log.Info("renamed", "release", old, "to", req.Name)
	return struct{}{}, nil
}

// beginRenaming keeps a collection from beginning: it goes by the names that
// releases have.
func (s *Server) beginRenaming() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collecting {
		return fmt.Errorf("garbage is being collected; wait for its end: %w", syscall.EBUSY)
	}
	s.renaming++
	return nil
}

func (s *Server) endRenaming() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renaming--
}

// checkFree refuses a name under which something lies in the store that is no
// release's.
func (s *Server) checkFree(name string) error {
	all, err := s.store.Index.Releases()
	if err != nil {
		return err
	}
	_, err = os.Lstat(filepath.Join(s.store.Dir, store.ReleaseDir(name)))
	if err != nil || slices.ContainsFunc(all, func(r index.Info) bool { return r.Name == name }) {
		return nil // the index says that it is taken
	}
	return fmt.Errorf("STORE/%s is there, and belongs to no release; move it away: %w", store.ReleaseDir(name), fs.ErrExist)
}

// claimBoth claims a release and the name that it is to have.
func (s *Server) claimBoth(old, name string) (unclaim func(), err error) {
	one, err := s.claim(old, "rename")
	if err != nil {
		return nil, err
	}
	other, err := s.claim(name, "rename to")
	if err != nil {
		one()
		return nil, err
	}
	return func() { other(); one() }, nil
}

// moveRelease moves what a release has outside of the index. What was moved
// before is no error.
func (s *Server) moveRelease(old, name string) error {
	from, to := filepath.Join(s.store.Dir, store.ReleaseDir(old)), filepath.Join(s.store.Dir, store.ReleaseDir(name))
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return store.SyncDir(filepath.Dir(to))
}

// forgetOverlay: what is known of a release's overlay is known by its name.
func (s *Server) forgetOverlay(release string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.overlays, release)
}

// tidy finishes what processes that were killed have left half done.
func (s *Server) tidy() {
	if err := s.store.Index.Tidy(s.moveRelease); err != nil {
		s.log.Error("a release is half made or half renamed", "err", err)
	}
}

// Fork makes an open release of what another one has.
func (c *Client) Fork(ctx context.Context, release, name string) error {
	return c.toName(ctx, release, "fork", name)
}

// Rename gives a release another name.
func (c *Client) Rename(ctx context.Context, release, name string) error {
	return c.toName(ctx, release, "rename", name)
}

func (c *Client) toName(ctx context.Context, release, what, name string) error {
	if err := errors.Join(index.ValidRelease(release), index.ValidRelease(name)); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/"+what, forkRequest{name}, nil)
}
