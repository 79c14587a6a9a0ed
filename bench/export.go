package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/layout"
)

// exports compare "regfs export" with cat of the same blobs into one file:
// nothing that reads and writes them can be much faster than that. Each is
// done twice, until the file is on the disk and until the program has ended,
// since "export --output FILE" syncs and cat does not.
func (b *bench) exports(ctx context.Context) error {
	for _, kind := range []struct {
		workload string
		images   imagetest.Options
	}{
		{"export", b.Sizes.largeImages(b.Sizes.ExportBlobs)},
		{"export-small", b.Sizes.smallImages(b.Sizes.Images)},
	} {
		err := b.withRelease(ctx, b.dir, kind.workload, kind.images, func(r *regfs, release imagetest.Release) error {
			paths, err := r.blobPaths(release)
			if err != nil {
				return err
			}
			out := filepath.Join(b.dir, kind.workload+".tar")
			packers := map[string]packer{"fuse": r.packer(), "cat": {synced: catSynced(paths), plain: cat(paths)}}
			return errors.Join(b.compare(ctx, kind.workload, release, out, packers), os.Remove(out))
		})
		if err != nil {
			return fmt.Errorf("%s: %w", kind.workload, err)
		}
	}
	return nil
}

// A packer writes one file of many: until it is on the disk, and until it is
// written.
type packer struct {
	synced, plain func(ctx context.Context, path string) error
}

// compare lets packers take turns. The tars among their files are checked.
func (b *bench) compare(ctx context.Context, workload string, r imagetest.Release, out string, packers map[string]packer) error {
	var names []string
	for name := range packers {
		names = append(names, name)
	}
	slices.Sort(names)
	return b.turns(ctx, names, func(round int, name string) error {
		p := packers[name]
		if err := b.pack(ctx, workload, name, round, out, p.synced); err != nil {
			return err
		}
		if name != "cat" && round <= 1 { // the file has the same bytes each time
			if err := checkTar(out, r); err != nil {
				return err
			}
		}
		return b.pack(ctx, workload+"-unsynced", name, round, out, p.plain)
	})
}

// pack times one packer, on a file that is not there. The file stays.
func (b *bench) pack(ctx context.Context, workload, name string, round int, out string, pack func(context.Context, string) error) error {
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := settle(filepath.Dir(out)); err != nil { // which may be another file system than the rest
		return err
	}
	if workload == "clone" {
		return b.withSpace(ctx, workload, name, round, out, pack)
	}
	return b.timed(workload, name, round, func() error { return pack(ctx, out) })
}

// packer writes the release that is mounted.
func (r *regfs) packer() packer {
	return packer{synced: r.export, plain: func(ctx context.Context, path string) error {
		return runInto(ctx, path, r.bench.Program, r.args([]string{"export", r.release, "--output", "-"})...)
	}}
}

func cat(paths []string) func(context.Context, string) error {
	return func(ctx context.Context, out string) error { return runInto(ctx, out, "cat", paths...) }
}

func catSynced(paths []string) func(context.Context, string) error {
	return func(ctx context.Context, out string) error {
		return errors.Join(cat(paths)(ctx, out), syncFile(out))
	}
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// blobPaths are the files of a release's blobs in the store, in the order in
// which a tar has them.
func (r *regfs) blobPaths(release imagetest.Release) (paths []string, err error) {
	blobs, err := release.Blobs()
	for d := range blobs {
		paths = append(paths, filepath.Join(r.store(), layout.BlobDataPath(d)))
	}
	slices.SortFunc(paths, strings.Compare)
	return paths, err
}

// withRelease runs work with a release of a store in dir, pushed and mounted,
// and with all of it in the page cache.
func (b *bench) withRelease(ctx context.Context, dir, name string, o imagetest.Options, work func(*regfs, imagetest.Release) error) (err error) {
	series, err := b.images("images-of-"+name, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(series.Dir)) }()
	dirs, err := makeDirs(dir, "regfs-of-"+name)
	if err != nil {
		return err
	}
	r, err := openRegfs(ctx, b, dirs[0], "fuse")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(context.WithoutCancel(ctx), r, dirs[0])) }()
	root, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	if r.site, err = b.serve(ctx, root); err != nil {
		return err
	}
	if err := b.client.push(ctx, r.site.server.URL, series.Release); err != nil {
		return err
	}
	if err := r.site.Close(); err != nil {
		return err
	}
	return work(r, series.Release)
}
