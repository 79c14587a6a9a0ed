package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/layout"
)

// A plain subject is a directory. With another release, prepare takes the same
// one without its _manifests: clients find the blobs and send the manifests. To
// ship it takes a new one each time, since what it ships is all it has.
type plain struct {
	bench *bench
	dir   string
	root  string
	n     int // releases shipped
	site  *site
}

func openPlain(_ context.Context, b *bench, dir string) (subject, error) {
	return &plain{bench: b, dir: dir}, nil
}

func (p *plain) prepare(context.Context) (string, error) {
	if p.root != "" {
		return p.root, dropManifests(p.root)
	}
	dirs, err := makeDirs(p.dir, "data")
	if err != nil {
		return "", err
	}
	p.root = dirs[0]
	return p.root, nil
}

// prepareNew takes a new directory, for a release that is shipped.
func (p *plain) prepareNew(context.Context) error {
	p.n++
	dirs, err := makeDirs(p.dir, fmt.Sprint("data", p.n))
	if err != nil {
		return err
	}
	p.root = dirs[0]
	return nil
}

// leave keeps the directory for the next push, unless it has been shipped.
func (p *plain) leave(context.Context) error {
	if err := p.site.Close(); err != nil || p.n == 0 {
		return err
	}
	return os.RemoveAll(p.root)
}

func (p *plain) steps(r imagetest.Release, tar string) []step {
	return []step{
		{"prepare", p.prepareNew},
		{"start", func(ctx context.Context) (err error) { p.site, err = p.bench.serve(ctx, p.root); return err }},
		{"push", func(ctx context.Context) error { return p.bench.client.push(ctx, p.site.server.URL, r) }},
		{"export", func(ctx context.Context) error { return gnuTar(ctx, p.root, tar) }},
	}
}

// dropManifests removes every _manifests: what is left are blobs and layer
// links, and not one tag. It enters no directory in which none can be.
func dropManifests(root string) error {
	top := filepath.Join(root, layout.Root, "repositories")
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if path == top && os.IsNotExist(err) {
			return filepath.SkipAll
		}
		if err != nil || !e.IsDir() {
			return err
		}
		if e.Name() == "_manifests" {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		if strings.HasPrefix(e.Name(), "_") {
			return filepath.SkipDir
		}
		return nil
	})
}

// gnuTar packs a registry's storage directory, as shell scripts do.
func gnuTar(ctx context.Context, root, tar string) error {
	if err := run(ctx, nil, "tar", "-cf", tar, "-C", root, "docker"); err != nil {
		return fmt.Errorf("pack %s: %w", root, err)
	}
	return nil
}
