package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/manifest/schema2"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// A savedImage is one element of manifest.json in what docker save writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readDockerArchive reads what docker save, podman save, skopeo and crane write.
func (s *Source) readDockerArchive(at string) error {
	var all []savedImage
	name := path.Join(at, "manifest.json")
	if !has(s.files, name) {
		return fmt.Errorf("there is no manifest.json, so it was written by Docker 1.9 or older; "+
			"load it with docker and save it again: %w", ErrFormat)
	}
	if err := s.decode(name, &all); err != nil {
		return fmt.Errorf("manifest.json: %w: %w", err, ErrFormat)
	}
	found := false
	a := &saved{Source: s, at: at, configs: make(map[string]savedConfig), layers: make(map[string]distribution.Descriptor), diffs: make(map[string]digest.Digest)}
	nameless := 0
	for _, image := range all {
		if len(image.RepoTags) == 0 {
			nameless++
		}
	}
	for _, image := range all {
		if err := a.ended(); err != nil {
			return err
		}
		names := a.names(image, nameless == 1)
		found = found || len(names) > 0
		if len(names) > 0 {
			a.image(image, names)
		}
	}
	if s.options.Ref != "" && !found {
		return fmt.Errorf("it has no image %s: %w", s.options.Ref, ErrName)
	}
	return nil
}

// saved is an archive that is being read.
type saved struct {
	*Source
	at      string
	configs map[string]savedConfig             // by name of the file
	layers  map[string]distribution.Descriptor // by name of the file
	diffs   map[string]digest.Digest           // of compressed ones: the digest of what is in them
}

// A savedConfig is what is kept of a config.
type savedConfig struct {
	digest digest.Digest
	size   int64
	diffs  []digest.Digest // one for each layer
}

// names are what an image is to be called.
func (a *saved) names(image savedImage, alone bool) (names []name) {
	if len(image.RepoTags) == 0 && a.options.Ref == "" {
		n, err := a.options.nameless()
		if err == nil && !alone {
			err = errors.New("it has no name, and is not the only one without")
		}
		if err != nil {
			a.refuse(image.Config, err)
			return nil
		}
		return []name{n}
	}
	for _, tag := range image.RepoTags {
		n, err := a.options.parseReference(tag)
		if err != nil {
			a.refuse(tag, err)
			continue
		}
		if want, err := a.options.parseReference(a.options.Ref); a.options.Ref == "" || err == nil && want == n {
			names = append(names, n)
		}
	}
	return names
}

func (a *saved) image(image savedImage, names []name) {
	top, err := a.manifestOf(image)
	tags := make(map[string][]string)
	var order []string
	for _, n := range names {
		if tags[n.repository] == nil {
			order = append(order, n.repository)
		}
		tags[n.repository] = append(tags[n.repository], n.tag)
	}
	for _, repository := range order {
		w := &walk{Source: a.Source, image: Image{Repository: repository, Tags: compact(tags[repository])}}
		failed := err
		if failed == nil {
			failed = w.follow(top)
		}
		if failed != nil {
			a.refuse(w.image.Name(), failed)
			continue
		}
		a.add(w.image)
	}
}

// manifestOf makes the manifest that the image has not: the same for the same
// config and layers, which stay as they are, and with them the image's ID. It
// is Docker's, as the config is: an OCI manifest would hide from podman what
// only Docker's configs have, such as a health check.
func (a *saved) manifestOf(image savedImage) (digest.Digest, error) {
	c, err := a.config(image)
	if err != nil {
		return "", err
	}
	m := schema2.Manifest{Config: distribution.Descriptor{MediaType: schema2.MediaTypeImageConfig, Size: c.size, Digest: c.digest}}
	m.SchemaVersion, m.MediaType = 2, schema2.MediaTypeManifest
	for i, layer := range image.Layers {
		d, err := a.layer(path.Join(a.at, layer), c.diffs[i])
		if err != nil {
			return "", fmt.Errorf("layer %.100q: %s", layer, plain(err))
		}
		m.Layers = append(m.Layers, d)
	}
	made, err := schema2.FromStruct(m)
	if err != nil {
		return "", err
	}
	_, data, err := made.Payload()
	if err != nil {
		return "", err
	}
	top := digest.Canonical.FromBytes(data)
	a.Source.at(top, place{made: data})
	return top, nil
}

// config reads the config of an image. Any number of images may name one, so
// it is read once, and its content is not kept.
func (a *saved) config(image savedImage) (savedConfig, error) {
	known, ok := a.configs[image.Config]
	if ok && len(known.diffs) == len(image.Layers) {
		return known, nil
	}
	name := path.Join(a.at, image.Config)
	data, err := a.files.read(name, maxMeta)
	if err != nil {
		return savedConfig{}, fmt.Errorf("config %.100q: %s", image.Config, plain(err))
	}
	var c struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return savedConfig{}, fmt.Errorf("config %.100q: %w", image.Config, err)
	}
	if len(c.RootFS.DiffIDs) != len(image.Layers) {
		return savedConfig{}, fmt.Errorf("it has %d layers, and %d by its config", len(image.Layers), len(c.RootFS.DiffIDs))
	}
	read := savedConfig{digest.Canonical.FromBytes(data), int64(len(data)), c.RootFS.DiffIDs}
	a.configs[image.Config] = read
	a.Source.at(read.digest, place{name: name})
	return read, nil
}

// layer describes one. What it should be is its diff ID; it is compared when
// the layer is stored, or here, if it is compressed.
func (a *saved) layer(name string, diff digest.Digest) (distribution.Descriptor, error) {
	if err := diff.Validate(); err != nil {
		return distribution.Descriptor{}, err
	}
	d, known := a.layers[name]
	if !known {
		var err error
		if d, err = a.describe(name); err != nil {
			return d, err
		}
		a.layers[name] = d
	}
	if of, compressed := a.diffs[name]; compressed && of != diff {
		return d, fmt.Errorf("its content has digest %s, not %s", of, diff)
	}
	if _, compressed := a.diffs[name]; !compressed {
		d.Digest = diff
	}
	a.Source.at(d.Digest, place{name: name})
	return d, nil
}

func (a *saved) describe(name string) (d distribution.Descriptor, err error) {
	if d.Size, err = a.files.size(name); err != nil {
		return d, err
	}
	head, err := a.files.head(name)
	if err != nil {
		return d, err
	}
	switch {
	case bytes.HasPrefix(head, magicGzip):
		d.MediaType = schema2.MediaTypeLayer
		err = a.files.visit(context.Background(), []string{name}, 1, func(_ string, c *content) (err error) {
			if c.err == nil {
				d.Digest, a.diffs[name], err = hashGzip(&counter{r: c.reader(), ended: a.ended})
			}
			return errors.Join(c.err, err)
		})
	case bytes.HasPrefix(head, magicZstd):
		err = errors.New("it is compressed by zstd, for which Docker's manifests have no type")
	default:
		d.MediaType = schema2.MediaTypeUncompressedLayer
	}
	return d, err
}

// hashGzip returns the digests of a compressed layer and of what is in it.
func hashGzip(r io.Reader) (outer, inner digest.Digest, err error) {
	o, i := digest.Canonical.Digester(), digest.Canonical.Digester()
	tee := io.TeeReader(r, o.Hash())
	z, err := gzip.NewReader(tee)
	if err != nil {
		return "", "", err
	}
	if _, err := io.Copy(i.Hash(), z); err != nil {
		return "", "", err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // what follows the end
		return "", "", err
	}
	return o.Digest(), i.Digest(), nil
}
