package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// A hardlink subject keeps all of history in one registry's storage, and makes
// a release by hard links to the files of its images, in a new directory.
type hardlink struct {
	bench   *bench
	dir     string
	n       int
	root    string // the release's
	history *site
}

func openHardlink(ctx context.Context, b *bench, dir string) (subject, error) {
	dirs, err := makeDirs(dir, "history")
	if err != nil {
		return nil, err
	}
	h := &hardlink{bench: b, dir: dir}
	h.history, err = b.serve(ctx, dirs[0])
	return h, err
}

func (h *hardlink) steps(r imagetest.Release, tar string) []step {
	return []step{
		{"sync", func(ctx context.Context) error { return h.bench.client.push(ctx, h.history.server.URL, r) }},
		{"select", func(ctx context.Context) error {
			root, err := h.prepare(ctx)
			if err != nil {
				return err
			}
			return newSelection(h.history.root, root).images(ctx, r.Images)
		}},
		{"export", func(ctx context.Context) error { return gnuTar(ctx, h.root, tar) }},
	}
}

func (h *hardlink) prepare(context.Context) (string, error) {
	h.n++
	dirs, err := makeDirs(h.dir, fmt.Sprint("release", h.n))
	if err != nil {
		return "", err
	}
	h.root = dirs[0]
	return h.root, nil
}

// leave removes the release: it has been shipped.
func (h *hardlink) leave(context.Context) error {
	if h.root == "" {
		return nil
	}
	root := h.root
	h.root = ""
	return os.RemoveAll(root)
}

// Close ends history's registry.
func (h *hardlink) Close() error { return h.history.Close() }

// A selection links images from one registry's storage into another's.
type selection struct {
	from, to string

	// Several images have a directory or a blob in common. What was made once
	// is not asked of the disk again.
	mu   sync.Mutex
	made map[string]bool
}

func newSelection(from, to string) *selection {
	return &selection{from: from, to: to, made: make(map[string]bool)}
}

// images links as many images at a time as there are processors.
func (s *selection) images(ctx context.Context, images []imagetest.Image) error {
	errs := make([]error, runtime.GOMAXPROCS(0))
	next := make(chan imagetest.Image)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for image := range next {
				errs[i] = errors.Join(errs[i], s.image(image.Repository, image.Tag))
			}
		})
	}
	for _, image := range images {
		if ctx.Err() == nil {
			next <- image
		}
	}
	close(next)
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

func (s *selection) image(repository, tag string) error {
	current := layout.TagCurrentLinkPath(repository, tag)
	text, err := os.ReadFile(filepath.Join(s.from, current))
	if err != nil {
		return err
	}
	d, err := layout.ParseLink(text)
	if err != nil {
		return err
	}
	if err := s.link(current, layout.TagIndexLinkPath(repository, tag, d)); err != nil {
		return err
	}
	return s.manifest(repository, d)
}

// manifest links a manifest and all that it needs.
func (s *selection) manifest(repository string, d digest.Digest) error {
	body, err := os.ReadFile(filepath.Join(s.from, layout.BlobDataPath(d)))
	if err != nil {
		return err
	}
	m, err := manifest.Parse(body)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d, err)
	}
	if err := s.link(layout.BlobDataPath(d), layout.RevisionLinkPath(repository, d)); err != nil {
		return err
	}
	for _, ref := range m.Refs {
		if ref.Role == manifest.Child {
			err = s.manifest(repository, ref.Digest)
		} else {
			err = s.link(layout.BlobDataPath(ref.Digest), layout.LayerLinkPath(repository, ref.Digest))
		}
		if err != nil && !(ref.Optional && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// link links files, with the directories above them.
func (s *selection) link(paths ...string) error {
	for _, path := range paths {
		if !s.first(path) {
			continue
		}
		if err := s.dir(filepath.Dir(path)); err != nil {
			return err
		}
		if err := os.Link(filepath.Join(s.from, path), filepath.Join(s.to, path)); err != nil {
			return err
		}
	}
	return nil
}

// dir makes a directory, and those above it first.
func (s *selection) dir(path string) error {
	s.mu.Lock()
	there := s.made[path]
	s.mu.Unlock()
	if there || path == "." {
		return nil
	}
	if err := s.dir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.to, path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.first(path) // only now may others rely on it
	return nil
}

// first says whether nobody has asked for this path before.
func (s *selection) first(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[path] {
		return false
	}
	s.made[path] = true
	return true
}
