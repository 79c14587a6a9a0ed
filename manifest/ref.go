package manifest

import (
	"fmt"
	"strings"

	"github.com/distribution/distribution/v3/manifest/schema2"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func newRef(d v1.Descriptor, role Role) Ref {
	return Ref{
		Digest:    d.Digest,
		MediaType: d.MediaType,
		Size:      d.Size,
		Role:      role,
		Optional:  len(d.URLs) > 0 || undistributable(d.MediaType) || embedded(d),
	}
}

// undistributable reports whether layers of a type usually stay where they
// come from: Windows base layers, for reasons of licence.
func undistributable(mediaType string) bool {
	return mediaType == schema2.MediaTypeForeignLayer ||
		strings.HasPrefix(mediaType, v1.MediaTypeImageLayerNonDistributable)
}

// embedded reports whether the content stands in the descriptor itself. Bytes
// that are not the content do not help who misses it.
func embedded(d v1.Descriptor) bool {
	return len(d.Data) > 0 && d.Digest.Validate() == nil &&
		d.Digest.Algorithm().FromBytes(d.Data) == d.Digest
}

func platform(p *v1.Platform) string {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// unique checks references and merges those with one digest: the first says
// what it is, and it is needed if one of them needs it.
func unique(refs []Ref) ([]Ref, error) {
	if len(refs) == 0 {
		return nil, nil // as it comes back from JSON
	}
	at := make(map[digest.Digest]int, len(refs))
	kept := refs[:0]
	for _, r := range refs {
		if first, seen := at[r.Digest]; seen {
			kept[first].Optional = kept[first].Optional && r.Optional
			continue
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		at[r.Digest] = len(kept)
		kept = append(kept, r)
	}
	return kept, nil
}

func (r Ref) check() error {
	if r.Size < 0 {
		return fmt.Errorf("%s %s: size %d", r.Role, r.Digest, r.Size)
	}
	return check(string(r.Role), r.Digest)
}

func check(what string, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%s %.100q: %w", what, d, err)
	}
	return nil
}
