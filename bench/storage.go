package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/regfs/regfs/imagetest"
)

// A visit is one round of one subject: a release pushed to it, the same images
// pushed to it as a new release, and what is read of that one.
type visit struct {
	*bench
	subject subject
	name    string
	round   int
	release imagetest.Release
}

// storage measures pushes, pulls, listings, reads and writes.
func (b *bench) storage(ctx context.Context) error {
	series, err := b.images("images", b.Sizes.smallImages(b.Sizes.Images))
	if err != nil {
		return err
	}
	return b.turns(ctx, b.among("plain", "overlayfs", "fuse", "overlay"), func(round int, name string) (err error) {
		s, end, err := b.open(ctx, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
		v := &visit{bench: b, subject: s, name: name, round: round, release: series.Release}
		return errors.Join(v.run(ctx), ctx.Err())
	})
}

func (v *visit) run(ctx context.Context) error {
	if err := v.onSite(ctx, v.pushCold); err != nil {
		return err
	}
	if !v.wants("known", "pull", "list", "catalog", "read", "write") {
		return nil
	}
	return v.onSite(ctx, func(ctx context.Context, at *site) error {
		for _, work := range []func(context.Context, *site) error{v.pushKnown, v.pull, v.list, v.read, v.write} {
			if err := work(ctx, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// onSite runs work with a registry on the subject's next release.
func (v *visit) onSite(ctx context.Context, work func(context.Context, *site) error) (err error) {
	root, err := v.subject.prepare(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.subject.leave(context.WithoutCancel(ctx))) }()
	at, err := v.serve(ctx, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(at.Close(), err) }() // before the subject leaves
	return work(ctx, at)
}

// measure times work if the workload is wanted.
func (v *visit) measure(workload string, work func() error) error {
	if !v.wants(workload) {
		return nil
	}
	if err := v.timed(workload, v.name, v.round, work); err != nil {
		return fmt.Errorf("%s: %w", workload, err)
	}
	return nil
}

func (v *visit) pushCold(ctx context.Context, at *site) error {
	before, err := v.counts(ctx)
	if err != nil {
		return err
	}
	push := func() error { return v.client.push(ctx, at.server.URL, v.release) }
	if v.wants("push") {
		err = v.measure("push", push)
	} else {
		err = push()
	}
	if err != nil {
		return err
	}
	after, err := v.counts(ctx)
	if err != nil {
		return err
	}
	v.addCounts(before, after)
	return v.check(ctx, at)
}

func (v *visit) pushKnown(ctx context.Context, at *site) error {
	work := func() error { return v.client.push(ctx, at.server.URL, v.release) }
	if !v.wants("known") {
		return work()
	}
	if err := v.measure("known", work); err != nil {
		return err
	}
	return v.check(ctx, at)
}

// check compares what the registry serves with what was pushed.
func (v *visit) check(ctx context.Context, at *site) error {
	return imagetest.Verify(ctx, v.client.http, at.server.URL, v.release)
}

func (v *visit) pull(ctx context.Context, at *site) error {
	return v.measure("pull", func() error {
		for range v.Sizes.Repeat {
			if err := v.client.pull(ctx, at.server.URL, v.release); err != nil {
				return err
			}
		}
		return nil
	})
}

// list walks the directory, and asks the registry for what is in it.
func (v *visit) list(ctx context.Context, at *site) error {
	files := 0
	err := v.measure("list", func() (err error) {
		for range v.Sizes.Repeat {
			if files, err = walk(ctx, at.root); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if least := len(v.release.Images) * (v.Sizes.Layers + 4); v.wants("list") && files < least { // its links and a config
		return fmt.Errorf("list: %d files, and there are %d links at least", files, least)
	}
	var names []string
	err = v.measure("catalog", func() (err error) {
		for range v.Sizes.Repeat {
			if names, err = v.client.catalog(ctx, at.server.URL); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !v.wants("catalog") {
		return err
	}
	return sameImages(names, v.release)
}

// sameImages says whether the names are those of the release's images.
func sameImages(names []string, r imagetest.Release) error {
	var want []string
	for _, image := range r.Images {
		want = append(want, image.Ref())
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		return fmt.Errorf("catalog: %d images, not the %d of the release", len(names), len(want))
	}
	return nil
}
