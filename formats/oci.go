package formats

import (
	"slices"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
)

// containerdName is where containerd looks for an image's name, before the
// layout's own annotation. It is the name as containerd's users have it, with
// the registry.
const containerdName = "io.containerd.image.name"

// oci is an OCI image layout. Its index names every image that has a name, in
// full; what has none is reached through what refers to it.
func (s *source) oci() (archive.Archive, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	index.Manifests = []v1.Descriptor{}
	for _, i := range s.images {
		m, err := s.manifest(i.digest)
		if err != nil {
			return nil, err
		}
		d := v1.Descriptor{
			MediaType: m.MediaType, Digest: i.digest, Size: int64(len(m.text)), ArtifactType: m.ArtifactType,
		}
		if i.tag != "" {
			d.Annotations = map[string]string{
				v1.AnnotationRefName: s.full(i),
				containerdName:       normalized(s.full(i)),
			}
		}
		index.Manifests = append(index.Manifests, d)
	}
	all := archive.Archive{text(v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+v1.ImageLayoutVersion+"\"}\n"))}
	for _, f := range s.inv.Files {
		if f.Blob != "" {
			all = append(all, s.blob(v1.ImageBlobsDir+"/"+f.Blob.Algorithm().String()+"/"+f.Blob.Encoded(), f.Blob))
		}
	}
	slices.SortFunc(all[1:], func(a, b archive.Member) int { return strings.Compare(a.Path, b.Path) })
	return append(all, text(v1.ImageIndexFile, encode(index))), nil
}

// normalized is a name as docker reads it: without a registry it is Docker
// Hub's.
func normalized(name string) string {
	host, _, slash := strings.Cut(name, "/")
	switch {
	case !slash:
		return "docker.io/library/" + name
	case host == "localhost" || strings.ContainsAny(host, ".:"):
		return name
	}
	return "docker.io/" + name
}
