package manifest

import (
	_ "crypto/sha256" // go-digest knows only what is linked in
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/manifest/manifestlist"
	_ "github.com/distribution/distribution/v3/manifest/ocischema" // registers its types
	"github.com/distribution/distribution/v3/manifest/schema2"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

var errTooMany = fmt.Errorf("more than %d references", MaxRefs)

// Types of old that neither distribution v3 nor image-spec knows any more.
const (
	typeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	typeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	typeSchema1Layer  = "application/vnd.docker.container.image.rootfs.diff+x-gtar"
	typeArtifact      = "application/vnd.oci.artifact.manifest.v1+json"
)

// A parser turns the bytes of a manifest into its references. The bytes are
// JSON already and its lists are of bounded length.
type parser func(mediaType string, data []byte) ([]Ref, error)

// parserOf returns nil for what is not the type of a manifest.
func parserOf(mediaType string) parser {
	switch mediaType {
	case v1.MediaTypeImageManifest, schema2.MediaTypeManifest:
		return parseImage
	case v1.MediaTypeImageIndex, manifestlist.MediaTypeManifestList:
		return parseIndex
	case typeArtifact:
		return parseArtifact
	case typeSchema1, typeSchema1Signed:
		return parseSchema1
	}
	return nil
}

// Parse returns what a manifest needs.
//
// The type is what the manifest states as its mediaType. Only where it states
// none is it told by its shape: manifests make an OCI index, layers or a
// config an OCI image, fsLayers or schemaVersion 1 a schema 1, blobs an
// artifact. All else is an error, and so is a manifest larger than [MaxSize],
// one with more than [MaxRefs] references, or one with an invalid digest.
func Parse(data []byte) (*Manifest, error) {
	m, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	return m, nil
}

func parse(data []byte) (*Manifest, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, more than the %d of the largest manifest", len(data), MaxSize)
	}
	var o outline
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, err
	}
	mediaType, err := o.mediaType()
	if err != nil {
		return nil, err
	}
	if err := o.checkLengths(); err != nil {
		return nil, err
	}
	m := &Manifest{MediaType: mediaType}
	if err := m.relate(o); err != nil {
		return nil, err
	}
	refs, err := parserOf(mediaType)(mediaType, data)
	if err != nil {
		return nil, err
	}
	if len(refs) > MaxRefs {
		return nil, errTooMany
	}
	m.Refs, err = unique(refs)
	return m, err
}

// relate notes what only OCI manifests have. In Docker's these fields mean
// nothing, and a registry takes any digest there.
func (m *Manifest) relate(o outline) error {
	switch m.MediaType {
	case v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, typeArtifact:
	default:
		return nil
	}
	m.ArtifactType = o.ArtifactType
	if o.Subject == nil {
		return nil
	}
	m.Subject = o.Subject.Digest
	return check("subject", m.Subject)
}

func parseImage(mediaType string, data []byte) ([]Ref, error) {
	descriptors, err := unmarshal(mediaType, data)
	if err != nil {
		return nil, err
	}
	refs := make([]Ref, len(descriptors))
	for i, d := range descriptors {
		refs[i] = newRef(d, Layer)
	}
	refs[0].Role = Config // distribution puts it there, given or not
	return refs, nil
}

func parseIndex(mediaType string, data []byte) ([]Ref, error) {
	descriptors, err := unmarshal(mediaType, data)
	if err != nil {
		return nil, err
	}
	refs := make([]Ref, len(descriptors))
	for i, d := range descriptors {
		refs[i] = newRef(d, entryRole(d))
		refs[i].Optional = true
		refs[i].Platform = platform(d.Platform)
	}
	return refs, nil
}

// entryRole tells an index's manifests from its blobs. There may be blobs, as
// BuildKit keeps its caches so. Whatever type a registry does not take for a
// manifest's cannot have come to it as one.
func entryRole(d v1.Descriptor) Role {
	if d.MediaType == "" || parserOf(d.MediaType) != nil {
		return Child
	}
	return Layer
}

// unmarshal has distribution parse the types it knows, so that regfs refuses
// what a registry refuses, such as an OCI image that is an index also
// (CVE-2021-41190). Its descriptors keep urls and data.
func unmarshal(mediaType string, data []byte) ([]v1.Descriptor, error) {
	m, _, err := distribution.UnmarshalManifest(mediaType, data)
	if err != nil {
		return nil, err
	}
	return m.References(), nil
}

func parseArtifact(_ string, data []byte) ([]Ref, error) {
	var m struct {
		Blobs []v1.Descriptor `json:"blobs"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	refs := make([]Ref, len(m.Blobs))
	for i, d := range m.Blobs {
		refs[i] = newRef(d, Layer)
	}
	return refs, nil
}

// parseSchema1 leaves the signatures unchecked: it asks what a manifest needs,
// not who wrote it.
func parseSchema1(_ string, data []byte) ([]Ref, error) {
	var m struct {
		FSLayers []struct {
			BlobSum digest.Digest `json:"blobSum"`
		} `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if len(m.FSLayers) == 0 {
		return nil, errors.New("schema 1 without fsLayers")
	}
	refs := make([]Ref, len(m.FSLayers))
	for i, l := range m.FSLayers {
		refs[i] = Ref{Digest: l.BlobSum, MediaType: typeSchema1Layer, Role: Layer}
	}
	return refs, nil
}
