package bench

import (
	"context"
	"fmt"
	"os"

	"github.com/regfs/regfs/registry"
)

// A site is a storage directory with a stock registry on it.
type site struct {
	root   string
	server *registry.Server
	client *client
}

// serve starts a registry on a directory. Its configuration lies beside.
func (b *bench) serve(ctx context.Context, root string) (*site, error) {
	dir, err := os.MkdirTemp(b.dir, "registry-")
	if err != nil {
		return nil, err
	}
	server, err := registry.New(b.Registry, dir, root)
	if err != nil {
		return nil, err
	}
	if err := server.Start(ctx, b.client.http); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return &site{root: root, server: server, client: b.client}, nil
}

// Close stops the registry; twice does no harm, and neither does a site that
// never was.
func (s *site) Close() error {
	if s == nil {
		return nil
	}
	s.client.close() // or the next request to the same port would use a dead connection
	if err := s.server.Stop(); err != nil {
		return fmt.Errorf("registry on %s: %w", s.root, err)
	}
	return nil
}
