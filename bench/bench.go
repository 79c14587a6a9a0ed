// Package bench measures what keeps a registry's storage, one against the
// other, on one machine and in one run.
//
// A workload is work on a directory, and does not know what is mounted there. A
// [subject] keeps a registry's storage from release to release: a plain
// directory, kernel overlayfs, regfs. All get the same stock registry and the
// same client, and take turns. [Run] returns a [Report], which holds each
// single sample; tables, charts and the list of targets are rendered from it.
//
// What a workload makes is checked outside of the time (of a file that is made
// again and again, the first two), so a figure belongs to the right outcome. A run leaves nothing behind: no file, no mount,
// no process, also when its context ends in the middle.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/imagetest"
)

// Options say what to measure, and with what.
type Options struct {
	Program   string   // regfs itself
	Registry  string   // a stock registry's program
	Dir       string   // a directory on the disk to measure
	Rounds    int      // that are counted; one more comes before them
	Workloads []string // empty for all: see Workloads
	Subjects  []string // empty for all: see Subjects
	Sizes     Sizes
	Progress  io.Writer // a line for each sample
}

// Sizes say how much there is of everything.
type Sizes struct {
	Images    int `json:"images"`     // in a push, and in a release of the history
	Layers    int `json:"layers"`     // in each image
	LayerSize int `json:"layer_size"` // bytes of files in a layer, before compression
	Repeat    int `json:"repeat"`     // pulls, walks, catalogs or reads in one sample

	Releases int `json:"releases"` // of the history
	Known    int `json:"known"`    // images of a release that history knows all of

	BlobSize    int64 `json:"blob_size"`    // bytes of the blob that is read, and the upload that is written
	ExportBlob  int   `json:"export_blob"`  // bytes of a blob in the exports of large ones
	ExportBlobs int   `json:"export_blobs"` // how many of them on the disk
	CloneBlobs  int   `json:"clone_blobs"`  // and on XFS

	ScaleReleases int `json:"scale_releases"`
	ScaleImages   int `json:"scale_images"`
}

// FullSizes are those of the published figures.
var FullSizes = Sizes{
	Images: 100, Layers: 3, LayerSize: 200_000, Repeat: 5,
	Releases: 50, Known: 183,
	BlobSize: 256 << 20, ExportBlob: 50_000_000, ExportBlobs: 20, CloneBlobs: 80,
	ScaleReleases: 100, ScaleImages: 300,
}

// QuickSizes show in less than a minute that all works; their figures say
// little.
var QuickSizes = Sizes{
	Images: 20, Layers: 3, LayerSize: 50_000, Repeat: 2,
	Releases: 4, Known: 20,
	BlobSize: 16 << 20, ExportBlob: 5_000_000, ExportBlobs: 4, CloneBlobs: 8,
	ScaleReleases: 5, ScaleImages: 30,
}

// A bench is one run.
type bench struct {
	Options
	report *Report
	dir    string // all is in it, and it goes with the run
	client *client

	backends bool // the program knows mount --backend
}

// Run measures. When ctx ends, it cleans up and returns the context's error.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "regfs-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if dir, err = resolve(dir); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	b := &bench{Options: o, dir: dir, client: newClient(), report: newReport(ctx, o, dir)}
	defer func() { err = errors.Join(err, remove(dir)) }()
	defer b.client.close()
	if err := b.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // the rest follows from it
		}
		return nil, fmt.Errorf("bench: %w", err)
	}
	return b.report, nil
}

func (b *bench) run(ctx context.Context) error {
	b.leaveOut(ctx)
	for _, session := range sessions {
		if !b.wants(session.workloads...) || session.regfs && len(b.among("fuse")) == 0 {
			continue
		}
		begun := time.Now()
		if err := session.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", session.name, err)
		}
		b.logf("%s: %s in all", session.name, time.Since(begun).Round(time.Second))
	}
	return nil
}

// turns lets subjects take turns for as many rounds as there are, and one
// before them that is not counted. The first to come is another one in each.
func (b *bench) turns(ctx context.Context, names []string, turn func(round int, name string) error) error {
	for round := range b.Rounds + 1 {
		for i := range names {
			name := names[(i+round)%len(names)]
			if err := turn(round, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// timed measures one piece of work. The disk is quiet before it.
func (b *bench) timed(workload, subject string, round int, work func() error) error {
	took, err := b.seconds(work)
	if err == nil {
		b.add(Sample{Workload: workload, Subject: subject, Round: round, Value: took})
	}
	return err
}

func (b *bench) seconds(work func() error) (float64, error) {
	if err := settle(b.dir); err != nil {
		return 0, err
	}
	return clock(work)
}

// clock returns the seconds that work has taken.
func clock(work func() error) (float64, error) {
	begun := time.Now()
	err := work()
	return time.Since(begun).Seconds(), err
}

// add keeps a sample, unless its round is the one that warms up.
func (b *bench) add(s Sample) {
	counted := "not counted"
	if s.Round > 0 {
		b.report.Samples = append(b.report.Samples, s)
		counted = fmt.Sprintf("round %d", s.Round)
		if s.Release > 0 {
			counted = fmt.Sprintf("release %d", s.Release)
		}
	}
	b.logf("%-20s %-10s %-12s %s", s.Workload, s.Subject, counted, measureOf(s.Workload).format(s.Value))
}

func (b *bench) logf(format string, args ...any) {
	if b.Progress != nil {
		fmt.Fprintf(b.Progress, format+"\n", args...)
	}
}

// settle has everything written that the measurement before has left to write.
func settle(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// images generates the first release of a series, in a directory of its own.
func (b *bench) images(name string, o imagetest.Options) (*imagetest.Series, error) {
	o.Seed = 1
	series, err := imagetest.Synthetic(filepath.Join(b.dir, name), o)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return series, nil
}

// smallImages are those of a push, of which there are so many.
func (s Sizes) smallImages(n int) imagetest.Options {
	return imagetest.Options{Images: n, LayersPerImage: s.Layers, LayerSize: s.LayerSize}
}

// largeImages have one large layer each, and share none.
func (s Sizes) largeImages(n int) imagetest.Options {
	return imagetest.Options{Images: n, LayersPerImage: 1, LayerSize: s.ExportBlob, SharedBases: -1, Bare: true}
}
