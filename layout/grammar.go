package layout

import (
	_ "crypto/sha256" // go-digest computes only what is linked in
	_ "crypto/sha512"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// A rule says where a kind hangs in the tree and which component leads to it:
// a fixed name, or a placeholder that Path.take and Path.give know.
type rule struct {
	parent    Kind
	component string
}

// The grammar below Root. A Skeleton stands here for the last of the three.
// A <repository> is the one component that may have slashes.
var grammar = [Temp + 1]rule{
	Blobs:         {Skeleton, "blobs"},
	BlobAlgorithm: {Blobs, "<algorithm>"},
	BlobPrefix:    {BlobAlgorithm, "<prefix>"},
	BlobDir:       {BlobPrefix, "<hex>"},
	BlobData:      {BlobDir, "data"},

	Repositories: {Skeleton, "repositories"},
	Repository:   {Repositories, "<repository>"},

	Layers:         {Repository, "_layers"},
	LayerAlgorithm: {Layers, "<algorithm>"},
	LayerDir:       {LayerAlgorithm, "<hex>"},
	LayerLink:      {LayerDir, "link"},

	Manifests:         {Repository, "_manifests"},
	Revisions:         {Manifests, "revisions"},
	RevisionAlgorithm: {Revisions, "<algorithm>"},
	RevisionDir:       {RevisionAlgorithm, "<hex>"},
	RevisionLink:      {RevisionDir, "link"},

	Tags:              {Manifests, "tags"},
	TagDir:            {Tags, "<tag>"},
	TagCurrent:        {TagDir, "current"},
	TagCurrentLink:    {TagCurrent, "link"},
	TagIndex:          {TagDir, "index"},
	TagIndexAlgorithm: {TagIndex, "<algorithm>"},
	TagIndexDir:       {TagIndexAlgorithm, "<hex>"},
	TagIndexLink:      {TagIndexDir, "link"},
}

// children is the grammar from above.
var children = invert(grammar)

func invert(grammar [Temp + 1]rule) (children [Temp + 1][]Kind) {
	for kind, r := range grammar {
		if r.component != "" {
			children[r.parent] = append(children[r.parent], Kind(kind))
		}
	}
	return children
}

// Parse returns the meaning of a path: slash-separated, relative to the
// registry's rootdirectory, with no slash at either end.
func Parse(path string) Path {
	switch path {
	case "":
		return Path{Kind: Top}
	case "docker", "docker/registry", Root:
		return Path{Kind: Skeleton, Prefix: path}
	}
	rest, below := strings.CutPrefix(path, Root+"/")
	if !below {
		return Path{}
	}
	p := Path{Kind: Skeleton}
	for more := true; more; {
		var component string
		component, rest, more = p.cut(rest)
		if !p.descend(component) {
			return Path{}
		}
	}
	return p
}

// cut splits off the next component. A repository's name ends only before an
// underscore, because no component of a name begins with one.
func (p *Path) cut(rest string) (component, after string, more bool) {
	if p.Kind != Repositories {
		return strings.Cut(rest, "/")
	}
	if i := strings.Index(rest, "/_"); i >= 0 {
		return rest[:i], rest[i+1:], true
	}
	return rest, "", false
}

// descend makes p the child that the component leads to. If there is none,
// it leaves p in an undefined state.
func (p *Path) descend(component string) bool {
	for _, child := range children[p.Kind] {
		if p.take(grammar[child].component, component) {
			p.Kind = child
			return true
		}
		if !child.IsDir() && isTemp(component, grammar[child].component) {
			p.Kind = Temp
			return true
		}
	}
	return false
}

// take notes what a component says, if it is what the grammar expects.
func (p *Path) take(expected, component string) bool {
	switch expected {
	case "<algorithm>":
		p.Algorithm = digest.Algorithm(component)
		return p.Algorithm.Available()
	case "<prefix>":
		p.Prefix = component
		return len(component) == 2 && isHex(component)
	case "<hex>":
		return p.takeHex(component)
	case "<repository>":
		p.Repository = component
		return ValidRepository(component)
	case "<tag>":
		p.Tag = component
		return ValidTag(component)
	}
	return component == expected
}

func (p *Path) takeHex(hex string) bool {
	if len(hex) != 2*p.Algorithm.Size() || !isHex(hex) || !strings.HasPrefix(hex, p.Prefix) {
		return false
	}
	p.Digest = digest.Digest(string(p.Algorithm) + ":" + hex)
	p.Algorithm, p.Prefix = "", ""
	return true
}

// String returns the path that has this meaning. Many paths are an Other or a
// Temp; for these two it is empty.
func (p Path) String() string {
	switch p.Kind {
	case Top, Other, Temp:
		return ""
	case Skeleton:
		return p.Prefix
	}
	var buf [256]byte // most paths, on the stack
	return string(p.appendTo(buf[:0], p.Kind))
}

// appendTo appends the path of p's ancestor of the given kind.
func (p *Path) appendTo(b []byte, kind Kind) []byte {
	if kind == Skeleton {
		return append(b, Root...)
	}
	b = p.appendTo(b, grammar[kind].parent)
	return append(append(b, '/'), p.give(grammar[kind].component)...)
}

// give is the inverse of take.
func (p *Path) give(expected string) string {
	algorithm, hex, ok := strings.Cut(string(p.Digest), ":")
	if !ok {
		algorithm = string(p.Algorithm)
	}
	switch expected {
	case "<algorithm>":
		return algorithm
	case "<prefix>":
		return p.Prefix + hex[:min(2, len(hex))] // one of them is empty
	case "<hex>":
		return hex
	case "<repository>":
		return p.Repository
	case "<tag>":
		return p.Tag
	}
	return expected
}

// isTemp reports whether a name is that of a temporary file which is to
// replace the one named target.
func isTemp(name, target string) bool {
	middle, ok := strings.CutPrefix(name, target+".")
	if !ok {
		return false
	}
	middle, ok = strings.CutSuffix(middle, ".tmp")
	return ok && middle != "" && len(name) <= maxName && isText(middle)
}

func isText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}
