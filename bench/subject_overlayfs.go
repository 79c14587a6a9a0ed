package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An overlayfs subject puts each release over the one before, whose _manifests
// are deleted in the merged view. It is what the pipeline pushes to, without
// the pipeline: a place for pushes, which ships nothing.
type overlayfs struct {
	dir     string
	n       int
	mounted string
}

func openOverlayfs(_ context.Context, _ *bench, dir string) (subject, error) {
	return &overlayfs{dir: dir}, nil
}

func (o *overlayfs) prepare(context.Context) (string, error) {
	name := func(what string, n int) string { return fmt.Sprint(what, n) }
	dirs, err := makeDirs(o.dir, "empty", name("upper", o.n), name("work", o.n), name("merged", o.n))
	if err != nil {
		return "", err
	}
	lower := dirs[0]
	if o.n > 0 {
		lower = filepath.Join(o.dir, name("upper", o.n-1))
	}
	o.n++
	merged := dirs[3]
	if err := mountOverlay(lower, dirs[1], dirs[2], merged); err != nil {
		return "", err
	}
	o.mounted = merged
	return merged, dropManifests(merged)
}

func (o *overlayfs) leave(context.Context) error { return unmountOverlay(&o.mounted) }

func mountOverlay(lower, upper, work, merged string) error {
	for _, dir := range []string{lower, upper, work} {
		if strings.ContainsAny(dir, ",:\\") {
			return fmt.Errorf("mount overlay: %s: a path with a comma, a colon or a backslash cannot be a layer", dir)
		}
	}
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// unmountOverlay unmounts what is mounted, and notes that nothing is.
func unmountOverlay(mounted *string) error {
	if *mounted == "" {
		return nil
	}
	if err := unix.Unmount(*mounted, 0); err != nil {
		return fmt.Errorf("umount %s: %w", *mounted, err)
	}
	*mounted = ""
	return nil
}
