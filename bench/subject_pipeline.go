package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/layout"
)

// A pipeline is how releases are cut without regfs: a registry holds all of
// history, and each release is a kernel overlay over its storage. What a shell
// script does by find and rm is done in Go here, and faster.
//
// Its registry of history runs all the time; the overlay is mounted only while
// nobody writes below it.
type pipeline struct {
	bench                      *bench
	dir                        string
	lower, upper, work, merged string
	history                    *site
	site                       *site // on merged
	mounted                    string
}

func openPipeline(ctx context.Context, b *bench, dir string) (subject, error) {
	dirs, err := makeDirs(dir, "lower")
	if err != nil {
		return nil, err
	}
	p := &pipeline{bench: b, dir: dir, lower: dirs[0]}
	p.history, err = b.serve(ctx, p.lower)
	return p, err
}

func (p *pipeline) steps(r imagetest.Release, tar string) []step {
	return []step{
		{"sync", func(ctx context.Context) error { return p.bench.client.push(ctx, p.history.server.URL, r) }},
		{"prepare", func(ctx context.Context) error {
			_, err := p.prepare(ctx)
			return err
		}},
		{"start", func(ctx context.Context) (err error) { p.site, err = p.bench.serve(ctx, p.merged); return err }},
		{"push", func(ctx context.Context) error { return p.bench.client.push(ctx, p.site.server.URL, r) }},
		{"collect", p.collect},
		{"export", func(ctx context.Context) error { return gnuTar(ctx, p.merged, tar) }},
	}
}

// prepare drops the release before, mounts an overlay, and takes history's
// tags out of it.
func (p *pipeline) prepare(context.Context) (string, error) {
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.RemoveAll(filepath.Join(p.dir, name)); err != nil {
			return "", err
		}
	}
	dirs, err := makeDirs(p.dir, "upper", "work", "merged")
	if err != nil {
		return "", err
	}
	p.upper, p.work, p.merged = dirs[0], dirs[1], dirs[2]
	if err := mountOverlay(p.lower, p.upper, p.work, p.merged); err != nil {
		return "", err
	}
	p.mounted = p.merged
	return p.merged, dropManifests(p.merged)
}

// collect takes history out of the release: the registry's own collector, and
// what that one leaves behind.
func (p *pipeline) collect(ctx context.Context) error {
	if err := p.site.Close(); err != nil { // a collector must not run beside it
		return err
	}
	if out, err := p.site.server.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return dropDead(p.merged)
}

// dropDead removes the layer links to blobs that are gone, and repositories
// that have no manifest.
func dropDead(root string) error {
	top := filepath.Join(root, layout.Root, "repositories")
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), "_") {
			return err
		}
		if e.Name() == "_layers" {
			if err := dropDeadLayers(root, path); err != nil {
				return err
			}
		}
		return filepath.SkipDir
	})
}

func dropDeadLayers(root, layers string) error {
	repository := filepath.Dir(layers)
	_, err := os.Stat(filepath.Join(repository, "_manifests"))
	if errors.Is(err, fs.ErrNotExist) {
		return dropRepository(repository)
	}
	if err != nil {
		return err
	}
	return dropDeadLinks(root, layers)
}

// dropRepository removes a repository's own directories. Below it others may
// stand, whose names are longer.
func dropRepository(dir string) error {
	for _, name := range []string{"_layers", "_manifests", "_uploads"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// dropDeadLinks removes the links of one _layers to blobs that are gone.
func dropDeadLinks(root, layers string) error {
	links, err := filepath.Glob(filepath.Join(layers, "*", "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		algorithm := digest.Algorithm(filepath.Base(filepath.Dir(link)))
		d := digest.NewDigestFromEncoded(algorithm, filepath.Base(link))
		_, err := os.Stat(filepath.Join(root, layout.BlobDataPath(d)))
		if errors.Is(err, fs.ErrNotExist) {
			err = os.RemoveAll(link)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) leave(context.Context) error {
	return errors.Join(p.site.Close(), unmountOverlay(&p.mounted))
}

// Close ends history's registry.
func (p *pipeline) Close() error { return p.history.Close() }
