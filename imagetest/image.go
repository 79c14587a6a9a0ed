package imagetest

import (
	"bytes"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's manifests, schema 2.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// created is the time that all images bear: the same files make the same
// digests on every day.
var created = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// A format is the media types of an image. OCI's and Docker's JSON are alike.
type format struct{ manifest, config, layer string }

var (
	ociFormat    = format{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip}
	zstdFormat   = format{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerZstd}
	tarFormat    = format{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayer}
	dockerFormat = format{dockerManifest, dockerConfig, dockerLayer}
)

// A layer is a tar, compressed unless its format has it bare.
type layer struct {
	content []byte
	diffID  digest.Digest // of the tar
}

// compress makes a layer of a tar, of the kind that the format takes.
func (f format) compress(tar []byte) (layer, error) {
	content, err := tar, error(nil)
	switch f.layer {
	case ocispec.MediaTypeImageLayer:
	case ocispec.MediaTypeImageLayerZstd:
		content, err = compressZstd(tar)
	default:
		content, err = compressGzip(tar)
	}
	return layer{content, digest.FromBytes(tar)}, err
}

func compressGzip(tar []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(tar); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func compressZstd(tar []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(tar, nil), nil
}

// image writes an image of the layers, the lowest first.
func (l *layout) image(f format, p ocispec.Platform, layers []layer) (ocispec.Descriptor, error) {
	config := ocispec.Image{Created: &created, Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: f.manifest}
	for _, layer := range layers {
		desc, err := l.add(f.layer, layer.content)
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: "imagetest"})
	}
	var err error
	if m.Config, err = l.addJSON(f.config, config); err != nil {
		return m.Config, err
	}
	return l.addJSON(f.manifest, m)
}
