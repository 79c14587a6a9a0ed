package imagetest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say what [Synthetic] generates. A zero takes the default.
type Options struct {
	Images         int    // default 100
	LayersPerImage int    // default 3
	LayerSize      int    // bytes of files in a layer, before compression; default 200,000
	SharedBases    int    // so many bases are shared among the images as their lowest layers; default 5, negative for none
	Bare           bool   // layers are not compressed, and nothing could compress them: many bytes, soon made
	Seed           uint64 // the same options generate the same bytes
}

// A Series is a row of releases, each made of the one before.
type Series struct {
	Release // the newest

	options Options
	dir     string
	number  int        // of the newest release
	images  []appImage // by number
	bases   []layer
}

// An appImage is one generated image as it stands in the newest release.
type appImage struct {
	generation int // how often it has changed
	desc       ocispec.Descriptor
	blobs      []digest.Digest // all, the manifest included
}

// Synthetic generates images in an OCI layout in a directory under dir.
func Synthetic(dir string, o Options) (*Series, error) {
	s := &Series{options: o.withDefaults(), dir: dir}
	s.images = make([]appImage, s.options.Images)
	if err := s.makeBases(); err != nil {
		return nil, err
	}
	all := make([]bool, s.options.Images)
	for i := range all {
		all[i] = true
	}
	return s, s.build(all)
}

func (o Options) withDefaults() Options {
	o.Images = cmp.Or(o.Images, 100)
	o.LayersPerImage = cmp.Or(o.LayersPerImage, 3)
	o.LayerSize = cmp.Or(o.LayerSize, 200_000)
	o.SharedBases = max(0, cmp.Or(o.SharedBases, 5))
	return o
}

// Next generates the next release, in which that fraction of the images has a
// new topmost layer and a new tag; the rest is as before. At least one image
// changes unless the fraction is zero.
func (s *Series) Next(fraction float64) (Release, error) {
	n := int(math.Ceil(fraction * float64(s.options.Images)))
	s.number++
	order := rand.New(rand.NewPCG(s.options.Seed, uint64(s.number))).Perm(s.options.Images)
	changed := make([]bool, s.options.Images)
	for _, i := range order[:min(n, len(order))] {
		changed[i] = true
		s.images[i].generation++
	}
	err := s.build(changed)
	return s.Release, err
}

// build writes the release of s.number, in which those images are new.
func (s *Series) build(changed []bool) error {
	name := releaseName(s.number)
	l, err := newLayout(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	err = parallel(runtime.GOMAXPROCS(0), changed, func(i int, changed bool) error {
		if changed {
			return s.generate(l, i)
		}
		return s.adopt(l, i)
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	for i, image := range s.images {
		l.tag(fmt.Sprintf("product/group%d/app%03d", i/10, i), fmt.Sprintf("1.0.%d", image.generation), image.desc)
	}
	s.Release, err = l.close(name)
	return err
}

// generate writes image i anew.
func (s *Series) generate(l *layout, i int) error {
	layers, err := s.layers(i)
	if err != nil {
		return err
	}
	image := &s.images[i]
	image.desc, err = l.image(s.options.format(), ocispec.Platform{Architecture: "amd64", OS: "linux"}, layers)
	if err != nil {
		return err
	}
	image.blobs, err = allBlobs(l.dir, image.desc)
	return err
}

// adopt takes image i over from the release before.
func (s *Series) adopt(l *layout, i int) error {
	for _, d := range s.images[i].blobs {
		if err := l.adopt(s.Release.Dir, d); err != nil {
			return err
		}
	}
	return nil
}

// layers returns image i's layers: a shared base, layers that never change,
// and the one that changes with each generation.
func (s *Series) layers(i int) ([]layer, error) {
	var layers []layer
	if len(s.bases) > 0 {
		layers = append(layers, s.bases[i%len(s.bases)])
	}
	for n := len(layers); n < s.options.LayersPerImage; n++ {
		generation := 0
		if n == s.options.LayersPerImage-1 {
			generation = s.images[i].generation
		}
		layer, err := s.layer(uint64(i+1), uint64(n), uint64(generation))
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func (s *Series) makeBases() error {
	for i := range s.options.SharedBases {
		base, err := s.layer(0, uint64(i), 0)
		if err != nil {
			return err
		}
		s.bases = append(s.bases, base)
	}
	return nil
}

// layer returns the layer that the numbers stand for; image 0 has the bases.
func (s *Series) layer(image, number, generation uint64) (layer, error) {
	var seed [32]byte
	for i, v := range []uint64{s.options.Seed, image, number, generation} {
		binary.LittleEndian.PutUint64(seed[8*i:], v)
	}
	content, err := s.options.noiseTar(rand.NewChaCha8(seed))
	if err != nil {
		return layer{}, err
	}
	return s.options.format().compress(content)
}

func (o Options) format() format {
	if o.Bare {
		return tarFormat
	}
	return ociFormat
}

// filesPerLayer is few: a layer's bytes matter here, not its files.
const filesPerLayer = 4

// noiseTar returns a tar of files with a layer's bytes in all.
func (o Options) noiseTar(random *rand.ChaCha8) ([]byte, error) {
	var out bytes.Buffer
	size := o.LayerSize
	w := tar.NewWriter(&out)
	for i := range filesPerLayer {
		content := make([]byte, size*(i+1)/filesPerLayer-size*i/filesPerLayer)
		if o.Bare {
			random.Read(content)
		} else {
			noise(random, content)
		}
		name := fmt.Sprintf("opt/app/%016x", random.Uint64())
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: created}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// noise fills b: every other KiB is random and the rest repeats 32 bytes of
// it, so that they shrink to about half, as programs do.
func noise(random *rand.ChaCha8, b []byte) {
	const block, period = 1024, 32
	size := len(b)
	for start := 0; start < size; start += 2 * block {
		random.Read(b[start:min(start+block, size)])
		for i := start + block; i < min(start+2*block, size); i++ {
			b[i] = b[i-period]
		}
	}
}
