package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/regfs/regfs/imagetest"
)

// A subject is a way of keeping a registry's storage from release to release,
// below one directory.
type subject interface {
	// prepare makes the storage directory of the next release ready for a
	// registry, and returns it. The releases before it are not forgotten.
	prepare(ctx context.Context) (root string, err error)

	// leave ends the release, and a registry that a step has started: nothing
	// stays mounted. It does nothing where there is nothing to do.
	leave(ctx context.Context) error
}

// A shipper is a subject that makes a tar of each release.
type shipper interface {
	subject

	// steps are all it takes, in order, from nothing but the history to the
	// release's tar. The caller runs each once, then leaves.
	steps(r imagetest.Release, tar string) []step
}

// A step is one of the things that make a release. Its name is its part of a
// sample's workload.
type step struct {
	name string
	do   func(ctx context.Context) error
}

// subjects are all that there are, in the order of tables and charts.
var subjects = []struct {
	name, title string
	open        func(ctx context.Context, b *bench, dir string) (subject, error)
}{
	{"plain", "plain directory", openPlain},
	{"overlayfs", "kernel overlayfs", openOverlayfs},
	{"pipeline", "overlay pipeline", openPipeline},
	{"hardlink", "hard-link selection", openHardlink},
	{"fuse", "regfs on FUSE", openFuse},
	{"overlay", "regfs on overlay", openOverlay},
}

// open makes a subject on a directory of its own. The function it returns ends
// the subject and removes the directory, also after ctx has ended.
func (b *bench) open(ctx context.Context, name string) (subject, func() error, error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return nil, nil, err
	}
	for _, s := range subjects {
		if s.name != name {
			continue
		}
		opened, err := s.open(ctx, b, dir)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		return opened, func() error { return end(context.WithoutCancel(ctx), opened, dir) }, nil
	}
	return nil, nil, fmt.Errorf("no subject %s", name)
}

// end ends a subject and removes its directory.
func end(ctx context.Context, s subject, dir string) error {
	err := s.leave(ctx)
	if c, ok := s.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, remove(dir))
}

// remove removes a directory in which nothing is mounted. What is mounted
// would be emptied with it.
func remove(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(unescape.Replace(fields[1]), dir+"/") {
			return fmt.Errorf("%s is still mounted; umount it and remove %s", unescape.Replace(fields[1]), dir)
		}
	}
	return os.RemoveAll(dir)
}

// unescape gives a path in /proc/self/mounts its own form.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// resolve returns a directory's path as /proc/self/mounts has it.
func resolve(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// titleOf is what tables call a subject, or what stands beside subjects.
func titleOf(name string) string {
	for _, s := range subjects {
		if s.name == name {
			return s.title
		}
	}
	if title, ok := comparisons[name]; ok {
		return title
	}
	return name
}

// comparisons are programs that some workloads are compared with.
var comparisons = map[string]string{
	"cat":   "cat of the blobs",
	"tar":   "GNU tar of the overlay",
	"index": "in the index",
	"ext4":  "as files",
}

// makeDirs makes directories below one, and returns their paths.
func makeDirs(dir string, names ...string) ([]string, error) {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(dir, name)
		if err := os.MkdirAll(paths[i], 0o755); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
