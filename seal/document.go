package seal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A document is the JSON. The order of its fields is that of the canonical
// form.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType"`
	Manifests     []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType   string        `json:"mediaType"`
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"`
	Annotations annotations   `json:"annotations"`
}

// annotations are in the order of their keys.
type annotations struct {
	Absent     string `json:"vnd.regfs.absent,omitempty"`
	Repository string `json:"vnd.regfs.repository"`
	Tag        string `json:"vnd.regfs.tag,omitempty"`
}

// Encode returns the document of names, given in any order.
func Encode(names []Name) ([]byte, error) {
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, compare)
	if err := check(sorted); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	d := document{SchemaVersion: 2, MediaType: MediaType, ArtifactType: ArtifactType, Manifests: make([]descriptor, len(sorted))}
	for i, n := range sorted {
		d.Manifests[i] = describe(n)
	}
	data, err := marshal(d)
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("seal: a document of %d bytes; at most %d are allowed", len(data), MaxSize)
	}
	return data, err
}

func describe(n Name) descriptor {
	absent := make([]string, len(n.Absent))
	for i, d := range n.Absent {
		absent[i] = d.String()
	}
	return descriptor{n.MediaType, n.Digest, n.Size, annotations{strings.Join(absent, ","), n.Repository, n.Tag}}
}

// marshal writes JSON without white space, and without the escapes that Go has
// for HTML: "&" and "+" in media types.
func marshal(d document) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode returns the names of a document, in order. Bytes that [Encode] would
// not write are refused: for one content there is one document.
func Decode(data []byte) ([]Name, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("release document: %d bytes; at most %d are allowed", len(data), MaxSize)
	}
	var d document
	// A name has two braces. They are counted before memory is taken for them.
	if n := bytes.Count(data, []byte{'{'}) / 2; n > MaxNames {
		return nil, fmt.Errorf("release document: %d names; at most %d are allowed", n, MaxNames)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("release document: %w", err)
	}
	names := make([]Name, len(d.Manifests))
	for i, m := range d.Manifests {
		names[i] = Name{m.Annotations.Repository, m.Annotations.Tag, m.Digest, m.MediaType, m.Size, list(m.Annotations.Absent)}
	}
	if err := check(names); err != nil {
		return nil, fmt.Errorf("release document: %w", err)
	}
	if canonical, err := Encode(names); err != nil || !bytes.Equal(canonical, data) {
		return nil, fmt.Errorf("release document: not in the canonical form of %s", ArtifactType)
	}
	return names, nil
}

func list(absent string) (all []digest.Digest) {
	if absent == "" {
		return nil
	}
	for d := range strings.SplitSeq(absent, ",") {
		all = append(all, digest.Digest(d))
	}
	return all
}
