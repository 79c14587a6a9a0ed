package formats

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/manifest"
)

const (
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	maxConfig    = 4 << 20
)

// A dockerImage is an entry of a docker archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string

	config digest.Digest
	layers []digest.Digest // as they are in the store
	diffs  []digest.Digest // what they are compressed from
}

// dockerArchive is what "docker save" writes: layers uncompressed and named
// after their content, each once; configs; and manifest.json, which lists the
// images, each once with all its tags.
func (s *source) dockerArchive(ctx context.Context) (archive.Archive, error) {
	var images []*dockerImage
	known := make(map[string]*dockerImage)
	for _, i := range s.images {
		image, err := s.dockerImage(i)
		if err != nil {
			return nil, err
		}
		if image == nil { // refused, or noted
			continue
		}
		key := fmt.Sprint(image.config, image.layers)
		if known[key] == nil {
			known[key] = image
			images = append(images, image)
		}
		if i.tag != "" {
			known[key].RepoTags = append(known[key].RepoTags, s.full(i))
		}
	}
	if len(s.refused) > 0 {
		return nil, &RefusedError{DockerArchive, s.refused}
	}
	layers, err := s.unpacked(ctx, images)
	if err != nil {
		return nil, err
	}
	all := archive.Archive{text("manifest.json", append(compact(images), '\n'))}
	seen := make(map[string]bool)
	for _, image := range images {
		if !seen[image.Config] {
			seen[image.Config] = true
			all = append(all, s.blob(image.Config, image.config))
		}
	}
	slices.SortFunc(layers, func(a, b archive.Member) int { return strings.Compare(a.Path, b.Path) })
	return append(all, layers...), nil
}

func compact(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of plain structs, it cannot be
	}
	return data
}

// dockerImage returns nil for what has no docker form.
func (s *source) dockerImage(i image) (*dockerImage, error) {
	m, err := s.manifest(i.digest)
	if err != nil {
		return nil, err
	}
	if m.Subject != "" || export.IsReferrerTag(i.tag) {
		s.note(i, "refers to an image, for which docker has no form; it is left out")
		return nil, nil
	}
	d, why, err := s.single(i, i.digest)
	if err != nil {
		return nil, err
	}
	if why != "" {
		s.refuse(i, "%s", why)
		return nil, nil
	}
	if m, err = s.manifest(d); err != nil {
		return nil, err
	}
	var full v1.Manifest // with layers that are there twice
	if err := json.Unmarshal(m.text, &full); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	if why := notDocker(m, full); why != "" {
		s.refuse(i, "%s", why)
		return nil, nil
	}
	image := &dockerImage{Config: full.Config.Digest.Encoded() + ".json", config: full.Config.Digest, RepoTags: []string{}, Layers: []string{}}
	for _, l := range full.Layers {
		if !i.needs[l.Digest] {
			s.refuse(i, "layer %s is not there, as it may not be distributed", l.Digest)
			return nil, nil
		}
		image.layers = append(image.layers, l.Digest)
	}
	return image, s.readDiffs(i, image)
}

// single finds the one image that an index stands for, or says why there is
// none.
func (s *source) single(i image, d digest.Digest) (found digest.Digest, why string, err error) {
	m, err := s.manifest(d)
	if err != nil || !isIndex(m) {
		return d, "", err
	}
	var platforms []string
	for _, ref := range m.Refs {
		if !i.needs[ref.Digest] || ref.Platform == "unknown/unknown" {
			continue
		}
		found = ref.Digest
		platforms = append(platforms, ref.Platform)
	}
	switch len(platforms) {
	case 0:
		return "", "an index without an image", nil
	case 1:
		return s.single(i, found)
	}
	return "", "an index of " + strings.Join(platforms, ", ") + "; choose one with --platform", nil
}

func isIndex(m *parsed) bool {
	return slices.ContainsFunc(m.Refs, func(r manifest.Ref) bool { return r.Role == manifest.Child })
}

// notDocker says why docker could not load an image.
func notDocker(m *parsed, full v1.Manifest) string {
	switch {
	case full.Config.MediaType != v1.MediaTypeImageConfig && full.Config.MediaType != dockerConfig:
		return "an artifact: " + firstOf(m.ArtifactType, full.Config.MediaType, m.MediaType)
	case slices.ContainsFunc(full.Layers, func(l v1.Descriptor) bool { return !strings.Contains(l.MediaType, "tar") }):
		return "an artifact, with layers that are no tar"
	}
	return ""
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// readDiffs learns from an image's config what its layers are compressed from.
func (s *source) readDiffs(i image, image *dockerImage) error {
	data, err := s.read(image.config, maxConfig)
	if err != nil {
		return err
	}
	var config v1.Image
	err = json.Unmarshal(data, &config)
	image.diffs = config.RootFS.DiffIDs
	if err == nil && len(image.diffs) != len(image.layers) {
		err = fmt.Errorf("%d layers, and %d by the config", len(image.layers), len(image.diffs))
	}
	if err != nil {
		return fmt.Errorf("image %s: config %s: %w", i.name(), image.config, err)
	}
	for _, d := range image.diffs {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("image %s: config %s: layer %.100q: %w", i.name(), image.config, d, err)
		}
		image.Layers = append(image.Layers, d.Encoded()+".tar")
	}
	return nil
}

// unpacked returns the layers of images, each once, with their sizes, which
// only unpacking tells. All processors do it.
func (s *source) unpacked(ctx context.Context, images []*dockerImage) (archive.Archive, error) {
	blobOf := make(map[digest.Digest]digest.Digest) // of the content, one of those compressed from it
	for _, image := range images {
		for n, diff := range image.diffs {
			if old, ok := blobOf[diff]; !ok || image.layers[n] < old {
				blobOf[diff] = image.layers[n]
			}
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards all
	var all archive.Archive
	todo := make(chan digest.Digest)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for diff := range todo {
				m, err := s.measure(ctx, blobOf[diff], diff)
				if err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				all = append(all, m)
				mu.Unlock()
			}
		})
	}
	for diff := range blobOf {
		todo <- diff
	}
	close(todo)
	wg.Wait()
	return all, context.Cause(ctx)
}

// measure finds out what a layer's blob is compressed from.
func (s *source) measure(ctx context.Context, blob, diff digest.Digest) (archive.Member, error) {
	m := archive.Member{Path: diff.Encoded() + ".tar", Blob: blob, Unpacked: diff}
	if err := context.Cause(ctx); err != nil {
		return m, err
	}
	size, got, err := archive.Unpacked(ctx, s.blobs, blob, diff.Algorithm())
	if err == nil && got != diff {
		err = corrupt(diff, got)
	}
	if err != nil {
		return m, s.fault(blob, err)
	}
	if s.options.Progress != nil {
		s.options.Progress(s.sizes[blob])
	}
	m.Size = size
	return m, nil
}

func corrupt(want, got digest.Digest) error { return &cas.CorruptError{Want: want, Got: got} }
