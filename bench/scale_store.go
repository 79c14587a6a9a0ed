package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/store"
)

// An image of the scale has 13 layers: five of a base, seven of its own that
// stay, and one that is new in each release, as are config and manifest. Of 300
// images, 100 releases have half a million links and some 92,000 blobs.
const (
	scaleBases      = 5
	scaleBaseLayers = 5
	scaleLayers     = 13
)

// fillers is how many images are linked at a time: they share the index's
// syncs.
const fillers = 256

// A scaleStore is a store with the names of many releases and blobs of a few
// bytes. It is filled through packages store and index, in the way in which a
// mount does, since a registry would take hours.
type scaleStore struct {
	dir      string
	releases int
	images   int
	blobs    int // that it has got
}

func (s *scaleStore) fill(ctx context.Context) (err error) {
	if err := store.Init(s.dir); err != nil {
		return err
	}
	opened, err := store.Open(s.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	for n := range s.releases {
		if err := s.fillRelease(ctx, opened.Index, n); err != nil {
			return fmt.Errorf("fill %s: %w", scaleRelease(n), err)
		}
	}
	return nil
}

func scaleRelease(n int) string { return fmt.Sprintf("v1.%d", n) }

func (s *scaleStore) fillRelease(ctx context.Context, db *index.DB, n int) error {
	if err := db.Create(scaleRelease(n)); err != nil {
		return err
	}
	r, err := db.Open(scaleRelease(n))
	if err != nil {
		return err
	}
	defer r.Close()
	images := make([]scaleImage, s.images)
	for i := range images {
		images[i] = newScaleImage(i, n)
		if err := s.write(images[i], n); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	errs, next := make([]error, fillers), make(chan scaleImage)
	for i := range fillers {
		wg.Go(func() {
			for image := range next {
				errs[i] = errors.Join(errs[i], image.link(r))
			}
		})
	}
	for _, image := range images {
		next <- image
	}
	close(next)
	wg.Wait()
	return errors.Join(append(errs, r.Sync(), ctx.Err())...)
}

// A scaleImage is one image of a release; its blobs that are new come last.
type scaleImage struct {
	repository, tag string
	layers          [][]byte
	config, body    []byte
	digest          digest.Digest
	facts           *manifest.Manifest
}

func newScaleImage(i, n int) scaleImage {
	image := scaleImage{
		repository: fmt.Sprintf("product/group%d/app%d", i%10, i%100),
		tag:        fmt.Sprintf("1.%d.%d", i/100, n),
		config:     fmt.Appendf(nil, "config %d %d", i, n),
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptor(ocispec.MediaTypeImageConfig, image.config),
	}
	for l := range scaleLayers {
		content := fmt.Appendf(nil, "own layer %d %d", i, l)
		switch {
		case l < scaleBaseLayers:
			content = fmt.Appendf(nil, "base layer %d %d", i%scaleBases, l)
		case l == scaleLayers-1:
			content = fmt.Appendf(nil, "top layer %d %d", i, n)
		}
		image.layers = append(image.layers, content)
		m.Layers = append(m.Layers, descriptor(ocispec.MediaTypeImageLayerGzip, content))
	}
	image.body, _ = json.Marshal(m) // of strings and numbers
	image.digest = digest.FromBytes(image.body)
	image.facts, _ = manifest.Parse(image.body)
	return image
}

func descriptor(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// write puts the image's blobs into the store that are not there, where they
// are found. Nobody syncs them: the store does not outlive the run.
func (s *scaleStore) write(image scaleImage, n int) error {
	blobs := [][]byte{image.config, image.body, image.layers[scaleLayers-1]}
	if n == 0 {
		blobs = append(blobs, image.layers...)
	}
	for _, content := range blobs {
		path := filepath.Join(s.dir, layout.BlobDataPath(digest.FromBytes(content)))
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o444); err != nil {
			return err
		}
		s.blobs++
	}
	return nil
}

// link enters the image as a mount does when a registry pushes it: what is new
// is uploaded and linked, then comes the manifest, then the tag.
func (image scaleImage) link(r *index.Release) error {
	top := digest.FromBytes(image.layers[scaleLayers-1])
	config := digest.FromBytes(image.config)
	for _, d := range []digest.Digest{top, config} {
		if err := errors.Join(r.AddBlob(d), r.LinkLayer(image.repository, d)); err != nil {
			return err
		}
	}
	return errors.Join(
		r.AddBlob(image.digest),
		r.LinkManifest(image.repository, image.digest, index.Facts{image.digest: image.facts}),
		r.AddHistory(image.repository, image.tag, image.digest),
		r.Tag(image.repository, image.tag, image.digest),
	)
}

// links counts the link files that registries would have written.
func (s *scaleStore) links() int {
	const ofManifest, ofTag, ofConfig = 1, 2, 1
	return s.releases * s.images * (scaleLayers + ofConfig + ofManifest + ofTag)
}
