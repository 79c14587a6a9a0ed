package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// An outline is a first look at a manifest: its type, its shape, and what
// distribution's types leave out.
type outline struct {
	SchemaVersion int            `json:"schemaVersion"`
	MediaType     string         `json:"mediaType"`
	ArtifactType  string         `json:"artifactType"`
	Subject       *v1.Descriptor `json:"subject"`

	Config     field `json:"config"`
	Layers     field `json:"layers"`
	Manifests  field `json:"manifests"`
	Blobs      field `json:"blobs"`
	FSLayers   field `json:"fsLayers"`
	Signatures field `json:"signatures"`
}

func (o outline) mediaType() (string, error) {
	if o.MediaType == "" {
		return o.impliedType()
	}
	if parserOf(o.MediaType) == nil {
		return "", fmt.Errorf("unknown media type %.100q", o.MediaType)
	}
	return o.MediaType, nil
}

func (o outline) impliedType() (string, error) {
	switch {
	case o.Manifests.given:
		return v1.MediaTypeImageIndex, nil
	case o.Layers.given || o.Config.given:
		return v1.MediaTypeImageManifest, nil
	case o.FSLayers.given || o.SchemaVersion == 1:
		return o.schema1Type(), nil
	case o.Blobs.given:
		return typeArtifact, nil
	}
	return "", errors.New("unknown shape: no mediaType, manifests, layers, config, fsLayers or blobs")
}

func (o outline) schema1Type() string {
	if o.Signatures.given {
		return typeSchema1Signed
	}
	return typeSchema1
}

// checkLengths refuses lists that are too long before they are parsed: 4 MiB
// of "{},{},..." would become hundreds of MB of descriptors.
func (o outline) checkLengths() error {
	for _, list := range []field{o.Layers, o.Manifests, o.Blobs, o.FSLayers} {
		if list.commas >= MaxRefs {
			return errTooMany
		}
	}
	return nil
}

// A field is a part of the outline that is not looked into.
type field struct {
	given  bool // and not null
	commas int  // between the elements of an array
}

var _ json.Unmarshaler = (*field)(nil)

func (f *field) UnmarshalJSON(value []byte) error {
	f.given = string(value) != "null"
	f.commas = bytes.Count(value, []byte{','})
	if f.commas >= MaxRefs {
		f.commas = outerCommas(value) // exact, but byte by byte
	}
	return nil
}

// outerCommas counts the commas that stand in the outermost array only. The
// value is well-formed JSON; encoding/json has seen to that.
func outerCommas(value []byte) int {
	depth, commas, inString := 0, 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 1:
			commas++
		}
	}
	return commas
}
