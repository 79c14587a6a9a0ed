package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/imagetest"
)

// cloneSpace is what the comparison on XFS takes, in times of its blobs: the
// images, the store, the overlay's lower directory and a tar, and one to
// spare.
const cloneSpace = 5

// clones compare exports where files can share blocks, on an XFS in a file:
// regfs, which can let a tar share the store's, and GNU tar of an overlay,
// which cannot.
func (b *bench) clones(ctx context.Context) error {
	size := int64(b.Sizes.ExportBlob) * int64(b.Sizes.CloneBlobs)
	if why := b.cannotClone(size); why != "" {
		b.report.note("XFS with reflink is left out: " + why + ".")
		return nil
	}
	return b.onXFS(ctx, cloneSpace*size+1<<30, func(dir string) error {
		images := b.Sizes.largeImages(b.Sizes.CloneBlobs)
		return b.withRelease(ctx, dir, "clone", images, func(r *regfs, release imagetest.Release) error {
			return b.withMerged(ctx, r, dir, func(merged string) error {
				return b.compare(ctx, "clone", release, filepath.Join(dir, "clone.tar"), map[string]packer{
					"fuse": r.packer(),
					"tar":  {synced: tarSynced(merged), plain: tarPlain(merged)},
				})
			})
		})
	})
}

func (b *bench) cannotClone(size int64) string {
	if os.Geteuid() != 0 {
		return "only root makes a file system"
	}
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		return "there is no mkfs.xfs (package xfsprogs)"
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.dir, &st); err != nil || int64(st.Bavail)*st.Bsize < (cloneSpace+1)*size+2<<30 {
		return fmt.Sprintf("%d GB of disk are needed", ((cloneSpace+1)*size+3<<30)>>30)
	}
	return ""
}

// onXFS runs work in a new XFS of that size, which lies in a sparse file.
func (b *bench) onXFS(ctx context.Context, size int64, work func(dir string) error) (err error) {
	image := filepath.Join(b.dir, "xfs.img")
	dirs, err := makeDirs(b.dir, "xfs")
	if err != nil {
		return err
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(image)) }()
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	if err := run(ctx, nil, "mkfs.xfs", "-q", "-m", "reflink=1", image); err != nil {
		return err
	}
	if err := mountLoop(ctx, image, dirs[0]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run(context.WithoutCancel(ctx), nil, "umount", dirs[0])) }()
	return work(dirs[0])
}

// mountLoop mounts an image by a loop device that goes with the mount. It
// reads and writes past the image's page cache: what XFS has in its own would
// be in memory twice, and the machine is to have room for it all.
func mountLoop(ctx context.Context, image, dir string) error {
	ctx = context.WithoutCancel(ctx) // who does not hear of a device or a mount does not end it
	device, err := output(ctx, "losetup", "--find", "--show", "--direct-io=on", image)
	if err != nil {
		return err
	}
	device = strings.TrimSpace(device)
	err = run(ctx, nil, "mount", device, dir)
	// A device that is in use is let go when its mount ends.
	return errors.Join(err, run(ctx, nil, "losetup", "--detach", device))
}

// withMerged unpacks a release as an overlay's lower directory, and runs work
// with the overlay.
func (b *bench) withMerged(ctx context.Context, r *regfs, dir string, work func(merged string) error) (err error) {
	dirs, err := makeDirs(dir, "lower", "upper", "work", "merged")
	if err != nil {
		return err
	}
	tar := filepath.Join(dir, "release.tar")
	if err := r.export(ctx, tar); err != nil {
		return err
	}
	if err := run(ctx, nil, "tar", "-xf", tar, "-C", dirs[0]); err != nil {
		return err
	}
	if err := os.Remove(tar); err != nil {
		return err
	}
	if err := mountOverlay(dirs[0], dirs[1], dirs[2], dirs[3]); err != nil {
		return err
	}
	mounted := dirs[3]
	defer func() { err = errors.Join(err, unmountOverlay(&mounted)) }()
	return work(mounted)
}

func tarPlain(merged string) func(context.Context, string) error {
	return func(ctx context.Context, out string) error { return gnuTar(ctx, merged, out) }
}

func tarSynced(merged string) func(context.Context, string) error {
	return func(ctx context.Context, out string) error {
		return errors.Join(gnuTar(ctx, merged, out), syncFile(out))
	}
}

// withSpace is timed for a packer whose file's space is measured too. On the
// disk that others write to it would say nothing; the XFS is ours alone.
func (b *bench) withSpace(ctx context.Context, workload, name string, round int, out string, pack func(context.Context, string) error) error {
	before, err := usedSpace(ctx, filepath.Dir(out))
	if err != nil {
		return err
	}
	if err := b.timed(workload, name, round, func() error { return pack(ctx, out) }); err != nil {
		return err
	}
	after, err := usedSpace(ctx, filepath.Dir(out))
	if err != nil {
		return err
	}
	b.add(Sample{Workload: "clone-space", Subject: name, Round: round, Value: float64(after - before)})
	return nil
}

// XFS gives a removed file's space back in the background, soon. Its use is
// what it says when it has said the same for so long.
const (
	spacePoll   = 20 * time.Millisecond
	spaceStable = 10 // polls
)

// usedSpace is what a file system has given away, once all is written and all
// that was removed is free.
func usedSpace(ctx context.Context, dir string) (int64, error) {
	if err := settle(dir); err != nil {
		return 0, err
	}
	last := int64(-1)
	for same := 0; same < spaceStable; same++ {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		used := (int64(st.Blocks) - int64(st.Bfree)) * st.Bsize
		if used != last {
			last, same = used, 0
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		time.Sleep(spacePoll)
	}
	return last, nil
}
