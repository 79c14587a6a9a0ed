package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/regfs/regfs/imagetest"
)

// changedFraction of a release's images are new.
const changedFraction = 0.1

// A line is a subject that ships one release after the other.
type line struct {
	name    string
	subject shipper
}

// history ships release after release from each subject: once, for it takes
// long, but all subjects ship a release before any of them ships the next.
func (b *bench) history(ctx context.Context) error {
	series, err := b.images("history", b.Sizes.smallImages(b.Sizes.Images))
	if err != nil {
		return err
	}
	return b.withLines(ctx, b.among("plain", "pipeline", "hardlink", "fuse", "overlay"), func(lines []line) error {
		for n := 1; n <= b.Sizes.Releases; n++ {
			for i := range lines {
				l := lines[(i+n)%len(lines)]
				times, err := b.ship(ctx, l, series.Release)
				if err != nil {
					return fmt.Errorf("%s: release %d: %w", l.name, n, err)
				}
				b.addSteps(l.name, n, times)
			}
			if err := b.nextRelease(series); err != nil {
				return err
			}
		}
		return nil
	})
}

// nextRelease makes the next release and removes the one before.
func (b *bench) nextRelease(series *imagetest.Series) error {
	old := series.Release.Dir
	if _, err := series.Next(changedFraction); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// withLines opens subjects, and ends them when work has returned.
func (b *bench) withLines(ctx context.Context, names []string, work func([]line) error) (err error) {
	var lines []line
	for _, name := range names {
		s, end, err := b.open(ctx, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
		lines = append(lines, line{name, s.(shipper)})
	}
	return errors.Join(work(lines), ctx.Err())
}

// A stepTime is how many seconds a step has taken.
type stepTime struct {
	name    string
	seconds float64
}

// ship makes one release's tar, checks that it has what it should, and removes
// it.
func (b *bench) ship(ctx context.Context, l line, r imagetest.Release) (times []stepTime, err error) {
	tar := filepath.Join(b.dir, l.name+".tar")
	if err := settle(b.dir); err != nil {
		return nil, err
	}
	for _, step := range l.subject.steps(r, tar) {
		took, err := clock(func() error { return step.do(ctx) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		times = append(times, stepTime{step.name, took})
	}
	if err := l.subject.leave(ctx); err != nil {
		return nil, err
	}
	if err := checkTar(tar, r); err != nil {
		return nil, err
	}
	return times, os.Remove(tar)
}

// addSteps keeps the samples of a release: each step, and all of them.
func (b *bench) addSteps(name string, n int, times []stepTime) {
	total := 0.0
	for _, t := range times {
		total += t.seconds
		b.add(Sample{Workload: "release/" + t.name, Subject: name, Round: 1, Release: n, Value: t.seconds})
	}
	b.add(Sample{Workload: "release", Subject: name, Round: 1, Release: n, Value: total})
}

// assembly makes releases of images that history has, all of them, from what
// is kept of them: by hard links, by a second push, by a push to regfs.
func (b *bench) assembly(ctx context.Context) error {
	series, err := b.images("assembly", b.Sizes.smallImages(b.Sizes.Known))
	if err != nil {
		return err
	}
	names := b.among("pipeline", "hardlink", "fuse", "overlay")
	return b.withLines(ctx, names, func(lines []line) error {
		byName := make(map[string]line)
		for _, l := range lines {
			byName[l.name] = l
			if _, err := b.ship(ctx, l, series.Release); err != nil { // now history has them
				return fmt.Errorf("%s: %w", l.name, err)
			}
		}
		return b.turns(ctx, names, func(round int, name string) error {
			times, err := b.ship(ctx, byName[name], series.Release)
			if err != nil {
				return err
			}
			b.add(Sample{Workload: "assemble", Subject: name, Round: round, Value: assembled(times)})
			return nil
		})
	})
}

// assembled sums the steps that put the images of a release together: neither
// their way into history, which has them, nor the tar.
func assembled(times []stepTime) (sum float64) {
	for _, t := range times {
		if t.name != "sync" && t.name != "export" {
			sum += t.seconds
		}
	}
	return sum
}
