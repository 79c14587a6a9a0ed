package imagetest

import (
	"encoding/json"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type descriptor = ocispec.Descriptor

// The platform of the machine's own packages, and another, whose images are
// made of packages that are for all.
var (
	native  = ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	foreign = ocispec.Platform{Architecture: otherArchitecture(), OS: "linux"}
	unknown = ocispec.Platform{Architecture: "unknown", OS: "unknown"}
)

func otherArchitecture() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// multiPlatform writes an OCI index as BuildKit does: an image for each
// platform, and an attestation that claims to be an image of none.
func multiPlatform(b *builder, packages []string) (descriptor, error) {
	children, err := b.platforms(ociFormat, packages)
	if err != nil {
		return descriptor{}, err
	}
	attestation, err := b.attestation(children[0])
	if err != nil {
		return descriptor{}, err
	}
	return b.addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(children, attestation),
	})
}

// dockerList writes a Docker manifest list.
func dockerList(b *builder, packages []string) (descriptor, error) {
	children, err := b.platforms(dockerFormat, packages)
	if err != nil {
		return descriptor{}, err
	}
	return b.addJSON(dockerManifestList, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: dockerManifestList,
		Manifests: children,
	})
}

// platforms writes an image of packages that are for all platforms for the
// foreign one, and one that is based on it for our own.
func (b *builder) platforms(f format, packages []string) ([]descriptor, error) {
	ours, err := b.imageOf(f, native, on(packages, "netcat-openbsd"))
	if err != nil {
		return nil, err
	}
	theirs, err := b.imageOf(f, foreign, packages)
	if err != nil {
		return nil, err
	}
	ours.Platform, theirs.Platform = &native, &foreign
	return []descriptor{ours, theirs}, nil
}

// attestation writes a statement on an image of the same index.
func (b *builder) attestation(image descriptor) (descriptor, error) {
	const mediaType = "application/vnd.in-toto+json"
	statement, err := b.addJSON(mediaType, map[string]any{
		"_type":         "https://in-toto.io/Statement/v0.1",
		"predicateType": "https://spdx.dev/Document",
		"subject":       []any{map[string]any{"name": "_", "digest": map[string]string{"sha256": image.Digest.Encoded()}}},
	})
	if err != nil {
		return statement, err
	}
	config, err := b.addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: unknown,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{statement.Digest}},
	})
	if err != nil {
		return config, err
	}
	desc, err := b.manifest(ocispec.Manifest{Config: config, Layers: []descriptor{statement}})
	desc.Platform = &unknown
	desc.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": image.Digest.String(),
	}
	return desc, err
}

// attach writes an artifact without a config, which says of which image it is,
// and tags it beside the image.
func (b *builder) attach(repository, tag string, image descriptor) error {
	const artifactType = "application/vnd.debian.control"
	control, err := b.layers.debs.control(attached)
	if err != nil {
		return err
	}
	layer, err := b.add("text/plain", control)
	if err != nil {
		return err
	}
	empty := ocispec.DescriptorEmptyJSON // it bears its content in "data" too
	if _, err := b.add(empty.MediaType, empty.Data); err != nil {
		return err
	}
	desc, err := b.manifest(ocispec.Manifest{
		ArtifactType: artifactType,
		Config:       empty,
		Layers:       []descriptor{layer},
		Subject:      &image,
	})
	if err != nil {
		return err
	}
	b.tag(repository, tag+"-control", desc)
	return nil
}

// sign writes a signature as cosign does: an image of its own, under a tag
// made of the digest that it signs. Nothing checks what it says.
func (b *builder) sign(repository string, image descriptor) error {
	const mediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	payload, err := json.Marshal(map[string]any{"critical": map[string]any{
		"identity": map[string]string{"docker-reference": repository},
		"image":    map[string]string{"docker-manifest-digest": image.Digest.String()},
		"type":     "cosign container image signature",
	}})
	if err != nil {
		return err
	}
	layer, err := b.add(mediaType, payload)
	if err != nil {
		return err
	}
	layer.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "bm90IGEgc2lnbmF0dXJl"}
	config, err := b.addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	if err != nil {
		return err
	}
	desc, err := b.manifest(ocispec.Manifest{Config: config, Layers: []descriptor{layer}})
	if err != nil {
		return err
	}
	b.tag(repository, "sha256-"+image.Digest.Encoded()+".sig", desc)
	return nil
}

// manifest writes an OCI manifest.
func (b *builder) manifest(m ocispec.Manifest) (descriptor, error) {
	m.SchemaVersion = 2
	m.MediaType = ocispec.MediaTypeImageManifest
	return b.addJSON(m.MediaType, m)
}
