package control

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
)

// removeRelease removes a release. Its blobs are for the next collection.
func (s *Server) removeRelease(r *http.Request) (any, error) {
	var req removeRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := index.ValidRelease(name); err != nil {
		return nil, err
	}
	ctx, cancel := s.untilLeaving(r.Context())
	defer cancel()
	return struct{}{}, s.eliminate(ctx, name, req.DryRun)
}

// eliminate removes a release with all that is its own, or says only what
// stands in the way.
func (s *Server) eliminate(ctx context.Context, name string, dryRun bool) error {
	if err := s.reserveRemoval(name); err != nil {
		return fmt.Errorf("remove release %s: %w", name, err)
	}
	defer s.unclaim(name)
	if dryRun {
		return s.store.Index.CheckRemovable(name)
	}
	err := s.store.Index.RemoveRelease(ctx, name, func() error {
		return os.RemoveAll(filepath.Join(s.store.Dir, store.ReleaseDir(name)))
	})
	if err == nil {
		s.log.Info("removed", "release", name)
	}
	return err
}

// reserveRemoval claims a release for its removal, if it has nothing that was
// not read back.
func (s *Server) reserveRemoval(name string) error {
	if err := s.enterClaim(name, "release rm"); err != nil {
		return err
	}
	if s.overlay(name).Pending() {
		s.unclaim(name)
		return fmt.Errorf("what was written to it by overlayfs is not read back; \"regfs sync %s\" does that: %w", name, syscall.EBUSY)
	}
	return nil
}

// untilLeaving ends a context also when the server is about to leave.
func (s *Server) untilLeaving(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.leaving:
			cancel(ErrLeaving)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
