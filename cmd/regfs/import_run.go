package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/source"
)

// An importer brings sources into a release, one after the other: a patch may
// need what the source before it has brought.
type importer struct {
	*command
	flags  importFlags
	blobs  *cas.Store // for reading
	result importResult
}

func (im *importer) run(ctx context.Context, out io.Writer, sources []sourceArg) (err error) {
	begun := time.Now()
	if err := im.prepare(ctx); err != nil {
		return err
	}
	defer im.blobs.Close()
	for _, arg := range sources {
		if err = im.source(ctx, arg); err != nil {
			break
		}
	}
	if err != nil && len(im.result.Images) == 0 {
		return err
	}
	// What has come in is said in any case; what has ended the import counts
	// more than what was refused.
	return cmp.Or(err, im.print(out, time.Since(begun)))
}

// prepare sees to it that there is a release.
func (im *importer) prepare(ctx context.Context) error {
	return im.with(ctx, func(client *control.Client) (err error) {
		all, err := client.Releases(ctx)
		if err != nil {
			return err
		}
		if !im.flags.dryRun && im.flags.create && !hasRelease(all, im.result.Release) {
			err = client.CreateRelease(ctx, im.result.Release)
		} else if !im.flags.create && !hasRelease(all, im.result.Release) {
			err = &control.Error{Kind: "not-exist", Message: fmt.Sprintf(
				"import: there is no release %s; make it with \"regfs release create\", or here with --create", im.result.Release)}
		}
		if err == nil {
			im.blobs, err = cas.Open(im.dir)
		}
		return err
	})
}

func hasRelease(all []control.Release, name string) bool {
	for _, r := range all {
		if r.Name == name {
			return true
		}
	}
	return false
}

// source brings in one source.
func (im *importer) source(ctx context.Context, arg sourceArg) error {
	src, err := im.open(ctx, arg)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	defer src.Close()
	for _, r := range src.Refused {
		im.result.refuse(src, r.Image, r.Reason)
	}
	im.result.Notes = append(im.result.Notes, src.Notes...)
	b := newBringing(im, src)
	if im.flags.dryRun {
		return b.plan(im.have)
	}
	// The server may leave; another one, or this process itself, then goes on.
	for {
		before := b.progress()
		err := im.with(ctx, func(client *control.Client) error {
			session, err := client.Import(ctx, im.result.Release)
			if err != nil {
				return err
			}
			return errors.Join(b.run(ctx, session), session.Close())
		})
		if !errors.Is(err, control.ErrLeaving) || b.progress() == before {
			return err
		}
	}
}

func (im *importer) open(ctx context.Context, arg sourceArg) (*source.Source, error) {
	bar := newProgress(1, "reading "+filepath.Base(arg.path))
	defer bar.Close()
	return source.Open(ctx, arg.path, source.Options{
		Format: arg.format, Ref: arg.ref, Name: im.flags.name, KeepHost: im.flags.keepHost,
		Base: func(d digest.Digest) (fs.File, error) { return im.blobs.Open(d) },
		Progress: func(n, of int64) {
			bar.ChangeMax64(of)
			bar.Set64(n)
		},
	})
}

// have looks up blobs without a server.
func (im *importer) have(digests []digest.Digest) (map[digest.Digest]int64, error) {
	sizes := make(map[digest.Digest]int64)
	for _, d := range digests {
		info, err := im.blobs.Stat(d)
		if err == nil {
			sizes[d] = info.Size
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return sizes, nil
}
