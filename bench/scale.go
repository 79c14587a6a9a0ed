package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// A scaling is the measurement of a store that has many releases.
type scaling struct {
	*bench
	store *scaleStore
	paths []lookup // layer links of the newest release
}

// A lookup asks for one layer's link.
type lookup struct {
	repository string
	digest     digest.Digest
}

// scale measures what the number of releases costs: a server's start, its
// memory, its lookups, the index's bytes.
func (b *bench) scale(ctx context.Context) (err error) {
	dir := filepath.Join(b.dir, "scale")
	s := &scaling{bench: b, store: &scaleStore{dir: filepath.Join(dir, "store"), releases: b.Sizes.ScaleReleases, images: b.Sizes.ScaleImages}}
	if err := os.MkdirAll(s.store.dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	took, err := clock(func() error { return s.store.fill(ctx) })
	if err != nil {
		return err
	}
	b.logf("scale: %d links and %d blobs in %.0f s", s.store.links(), s.store.blobs, took)
	b.report.Scale = Scale{Links: s.store.links(), Blobs: s.store.blobs}
	for i := range s.store.images {
		image := newScaleImage(i, s.store.releases-1)
		for _, layer := range image.layers {
			s.paths = append(s.paths, lookup{image.repository, digest.FromBytes(layer)})
		}
	}
	for round := range b.Rounds + 1 {
		if err := errors.Join(s.openIndex(round), ctx.Err()); err != nil {
			return err
		}
		if err := s.serveStore(ctx, round); err != nil {
			return err
		}
	}
	return s.weigh(ctx)
}

// openIndex opens the index, in this process, and asks it.
func (s *scaling) openIndex(round int) (err error) {
	var db *index.DB
	err = s.timed("scale/open", "index", round, func() (err error) {
		db, err = index.Open(filepath.Join(s.store.dir, "index"), slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	r, err := db.Open(scaleRelease(s.store.releases - 1))
	if err != nil {
		return err
	}
	defer r.Close()
	return s.lookups("index", round, func(l lookup) error {
		if !r.Layer(l.repository, l.digest).State.Listed() {
			return fmt.Errorf("index: no link to %s in %s", l.digest, l.repository)
		}
		return nil
	})
}

// lookups times one lookup of each link, and keeps two quantiles. A second one
// would ask the kernel's cache only.
func (s *scaling) lookups(subject string, round int, look func(lookup) error) error {
	times := make([]time.Duration, len(s.paths))
	for i, at := range rand.New(rand.NewPCG(1, uint64(round))).Perm(len(s.paths)) {
		l := s.paths[at]
		begun := time.Now()
		if err := look(l); err != nil {
			return err
		}
		times[i] = time.Since(begun)
	}
	slices.Sort(times)
	for name, at := range map[string]int{"scale/lookup-p50": len(times) / 2, "scale/lookup-p99": len(times) * 99 / 100} {
		s.add(Sample{Workload: name, Subject: subject, Round: round, Value: times[at].Seconds()})
	}
	return nil
}

// serveStore starts a server, mounts the newest release, and looks at both.
func (s *scaling) serveStore(ctx context.Context, round int) (err error) {
	if err := settle(s.dir); err != nil {
		return err
	}
	server, took, err := startServer(ctx, s.Program, s.store.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	s.add(Sample{Workload: "scale/open", Subject: "fuse", Round: round, Value: took})
	r := &regfs{bench: s.bench, dir: filepath.Dir(s.store.dir), backend: "fuse"}
	root := filepath.Join(r.dir, "mnt")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	mount := []string{"mount", scaleRelease(s.store.releases - 1), root, "--detach"}
	unbroken := context.WithoutCancel(ctx) // who does not hear of a mount does not end it
	if err := s.timed("scale/mount", "fuse", round, func() error { return r.run(unbroken, mount...) }); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.run(unbroken, "umount", root)) }()
	// The process that was started supervises the one that serves.
	status, err := r.status(ctx)
	if err != nil {
		return err
	}
	return s.useMount(ctx, round, root, status.Server)
}

func (s *scaling) useMount(ctx context.Context, round int, root string, pid int) error {
	err := s.lookups("fuse", round, func(l lookup) error {
		_, err := os.Lstat(filepath.Join(root, layout.LayerLinkPath(l.repository, l.digest)))
		return err
	})
	if err != nil {
		return err
	}
	files := 0
	err = s.timed("scale/list", "fuse", round, func() (err error) {
		files, err = walk(ctx, root)
		return err
	})
	if err != nil {
		return err
	}
	if least := s.store.images * 4; files < least { // manifest, tag, a layer and a config
		return fmt.Errorf("scale: %d files listed, and there are %d at least", files, least)
	}
	resident, anonymous, err := memory(pid)
	if err != nil {
		return err
	}
	s.add(Sample{Workload: "scale/memory", Subject: "fuse", Round: round, Value: float64(resident)})
	s.add(Sample{Workload: "scale/memory-anonymous", Subject: "fuse", Round: round, Value: float64(anonymous)})
	return nil
}

// weigh compares the index's bytes with those of a release's links as files,
// which are made for this, in the file system that is measured.
func (s *scaling) weigh(ctx context.Context) error {
	bytes, err := allocated(filepath.Join(s.store.dir, "index"))
	if err != nil {
		return err
	}
	images := float64(s.store.releases * s.store.images)
	s.add(Sample{Workload: "scale/bytes", Subject: "index", Round: 1, Value: float64(bytes) / images})
	dir := filepath.Join(s.dir, "scale", "links")
	for i := range s.store.images {
		if err := errors.Join(newScaleImage(i, s.store.releases-1).writeLinks(dir), ctx.Err()); err != nil {
			return err
		}
	}
	if bytes, err = allocated(dir); err != nil {
		return err
	}
	s.add(Sample{Workload: "scale/bytes", Subject: "ext4", Round: 1, Value: float64(bytes) / float64(s.store.images)})
	return nil
}

// writeLinks makes the image's links as a registry does.
func (image scaleImage) writeLinks(dir string) error {
	links := map[string]digest.Digest{
		layout.RevisionLinkPath(image.repository, image.digest):            image.digest,
		layout.TagCurrentLinkPath(image.repository, image.tag):             image.digest,
		layout.TagIndexLinkPath(image.repository, image.tag, image.digest): image.digest,
	}
	for _, content := range append(image.layers, image.config) {
		d := digest.FromBytes(content)
		links[layout.LayerLinkPath(image.repository, d)] = d
	}
	for path, d := range links {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(d), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inodeSize is what ext4 takes for an inode unless it is told otherwise.
const inodeSize = 256

// allocated is what a directory and all below it take of the disk: their
// blocks, and an inode each.
func allocated(dir string) (bytes int64, err error) {
	if err := settle(dir); err != nil { // blocks are given when they are written
		return 0, err
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		bytes += info.Sys().(*syscall.Stat_t).Blocks*512 + inodeSize
		return nil
	})
	return bytes, err
}
