// Package seal is the canonical document of a release: its names, as the bytes
// of an OCI image index.
//
// The same names make the same bytes, on every machine: there is no time in
// them, and nothing of the store. So the document's digest says whether two
// releases are the same, and a release can travel, and come back, by it.
// docs/format.md specifies the form.
//
// [Decode] trusts nothing: whoever gets names from it gets such as a registry
// would take, and as many as the bounds below. The package does no I/O.
package seal

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// The types of the document.
const (
	MediaType    = "application/vnd.oci.image.index.v1+json"
	ArtifactType = "application/vnd.regfs.release.v1+json"
)

// Bounds on a document.
const (
	MaxSize   = 64 << 20 // bytes
	MaxNames  = 200_000
	MaxAbsent = 100_000 // of one name: so many blobs one image may need
)

// A Name is one by which a release gives a manifest: a tag, or the manifest's
// digest where it has none.
type Name struct {
	Repository string
	Tag        string // empty if no tag of the repository points at the manifest
	Digest     digest.Digest
	MediaType  string
	Size       int64 // of the manifest, in bytes
	// Absent is what the image could do without, and does without in this
	// release, though another may have it: foreign layers, platforms left out of
	// an index. Sorted.
	Absent []digest.Digest
}

func (n Name) String() string {
	return layout.ImageName(n.Repository, n.Tag, n.Digest)
}

func compare(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
}

// check says what is wrong with names, which are sorted.
func check(names []Name) error {
	if len(names) > MaxNames {
		return fmt.Errorf("%d names; at most %d are allowed", len(names), MaxNames)
	}
	c := checker{manifests: make(map[digest.Digest]Name), linked: make(map[[2]string]Name)}
	for i, n := range names {
		if i > 0 {
			if err := c.order(names[i-1], n); err != nil {
				return err
			}
		}
		if err := c.name(n); err != nil {
			return fmt.Errorf("name %.300q: %w", n.String(), err)
		}
	}
	return nil
}

// A checker knows what was said before.
type checker struct {
	manifests map[digest.Digest]Name
	linked    map[[2]string]Name // by repository and digest
}

func (c checker) order(before, n Name) error {
	switch {
	case compare(before, n) > 0:
		return fmt.Errorf("name %.300q: not in order", n.String())
	case compare(before, n) == 0, n.Tag != "" && before.Repository == n.Repository && before.Tag == n.Tag:
		return fmt.Errorf("name %.300q: given twice", n.String())
	}
	return nil
}

func (c checker) name(n Name) error {
	switch {
	case !layout.ValidRepository(n.Repository):
		return fmt.Errorf("no repository's name")
	case n.Tag != "" && !layout.ValidTag(n.Tag):
		return fmt.Errorf("no tag's name")
	case n.Size <= 0:
		return fmt.Errorf("a manifest of %d bytes", n.Size)
	case !validType(n.MediaType):
		return fmt.Errorf("bad media type %.300q", n.MediaType)
	case len(n.Absent) > MaxAbsent:
		return fmt.Errorf("%d blobs are absent; at most %d may be", len(n.Absent), MaxAbsent)
	}
	if err := n.Digest.Validate(); err != nil {
		return err
	}
	for i, d := range n.Absent {
		if err := d.Validate(); err != nil {
			return err
		}
		if i > 0 && n.Absent[i-1] >= d {
			return fmt.Errorf("absent blobs are not in order")
		}
	}
	return c.agree(n)
}

// agree: what is said of one manifest is said of it each time, and a manifest
// has no name without a tag beside one with a tag.
func (c checker) agree(n Name) error {
	if before, ok := c.manifests[n.Digest]; ok && (before.Size != n.Size || before.MediaType != n.MediaType) {
		return fmt.Errorf("the manifest has another size or type under another name")
	}
	c.manifests[n.Digest] = n
	at := [2]string{n.Repository, n.Digest.String()}
	if before, ok := c.linked[at]; ok {
		if !slices.Equal(before.Absent, n.Absent) {
			return fmt.Errorf("the manifest does without other blobs under another name")
		}
		if before.Tag == "" {
			return fmt.Errorf("the manifest has a name without a tag, too")
		}
	}
	c.linked[at] = n
	return nil
}

// validType: a media type is type/subtype of RFC 6838.
func validType(s string) bool {
	slash := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '/' && i > 0 && i < len(s)-1:
			slash++
		case i > 0 && (c == '.' || c == '+' || c == '-' || c == '_' || c == '!' || c == '#' || c == '$' || c == '^' || c == '&'):
		default:
			return false
		}
	}
	return slash == 1 && len(s) <= 255
}
