package verify

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/seal"
)

// maxDepth is how deep indexes may nest, as in package index.
const maxDepth = 8

// readDocument keeps the document of a sealed release, if it is the one that is
// asked for: a directory has those of all releases that were brought to it.
func (c *checker) readDocument(r io.Reader) error {
	if c.o.Digest == "" {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r, seal.MaxSize+1))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if digest.FromBytes(data) == c.o.Digest {
		c.document = data
	}
	return nil
}

// judgeRelease holds what is there against a document. mu is held.
func (c *checker) judgeRelease() {
	if c.o.Digest == "" {
		return
	}
	document := c.document
	if document == nil {
		var err error
		if document, err = seal.Encode(c.names()); err != nil {
			c.report.problem(c.o.Digest.String(), "the document is not there, and what is there makes none: %v", err)
			return
		}
	}
	names, err := seal.Decode(document)
	if err != nil {
		c.report.problem(digest.FromBytes(document).String(), "%v", err)
		return
	}
	c.report.Release = digest.FromBytes(document)
	if c.report.Release != c.o.Digest {
		c.report.problem(c.o.Digest.String(), "no regfs/RELEASE/release.json is its document, and the names here make another one: %s", c.report.Release)
		return
	}
	for _, n := range names {
		c.named(n)
	}
	c.extra(names)
}

// names are those that are there, as a release that has them is sealed. mu is
// held.
func (c *checker) names() (all []seal.Name) {
	tagged := make(map[repoDigest]bool)
	add := func(at repoDigest, tag string) {
		if m := c.manifests[at.digest]; m != nil {
			all = append(all, seal.Name{Repository: at.repo, Tag: tag, Digest: at.digest,
				MediaType: m.MediaType, Size: c.sizes[at.digest], Absent: c.absent(at.digest)})
		}
	}
	for name, at := range c.tags {
		if c.revisions[at] {
			tagged[at] = true
			add(at, name[strings.LastIndexByte(name, ':')+1:])
		}
	}
	for at := range c.revisions {
		if !tagged[at] {
			add(at, "")
		}
	}
	return all
}

// absent lists what a manifest can do without, and does without here. mu is
// held.
func (c *checker) absent(top digest.Digest) (absent []digest.Digest) {
	optional := make(map[digest.Digest]bool)
	var visit func(ref manifest.Ref, depth int)
	visit = func(ref manifest.Ref, depth int) {
		if already, seen := optional[ref.Digest]; seen {
			optional[ref.Digest] = already && ref.Optional
			return
		}
		optional[ref.Digest] = ref.Optional
		m := c.manifests[ref.Digest]
		if ref.Role != manifest.Child || m == nil || depth > maxDepth {
			return
		}
		for _, child := range m.Refs {
			visit(child, depth+1)
		}
	}
	visit(manifest.Ref{Digest: top, Role: manifest.Child}, 0)
	for d, may := range optional {
		if may && !c.blobs[d] {
			absent = append(absent, d)
		}
	}
	slices.Sort(absent)
	return absent
}

// named checks that a name of the release is there, with what only the document
// says it has. What any manifest needs is checked for all that are linked. mu is
// held.
func (c *checker) named(n seal.Name) {
	at := repoDigest{n.Repository, n.Digest}
	if n.Tag != "" {
		c.tag(n)
	}
	if !c.revisions[at] {
		c.report.problem(n.String(), "manifest %s is not linked in its repository", n.Digest)
	}
	m := c.manifests[n.Digest]
	if m == nil {
		return // it was said already, or is the base's
	}
	if m.MediaType != n.MediaType || c.sizes[n.Digest] != n.Size {
		c.report.problem(n.String(), "the manifest has another type or size than the document says")
	}
	absent := make(map[digest.Digest]bool)
	for _, d := range n.Absent {
		absent[d] = true
	}
	c.carries(n, m, absent, 0)
}

func (c *checker) tag(n seal.Name) {
	got, there := c.tags[n.String()]
	path := layout.TagCurrentLinkPath(n.Repository, n.Tag)
	switch {
	case there && got.digest != n.Digest:
		c.report.problem(n.String(), "points at %s, and in the release at %s", got.digest, n.Digest)
	case !there && c.promised[path] != digest.FromString(n.Digest.String()):
		c.report.problem(n.String(), "the tag is not there")
	}
}

// carries checks what a manifest can do without, and the release has; and all
// that one below it needs, if that is not linked and so not checked by itself.
func (c *checker) carries(n seal.Name, m *manifest.Manifest, absent map[digest.Digest]bool, depth int) {
	for _, ref := range m.Refs {
		child := ref.Role == manifest.Child
		there := c.blobs[ref.Digest]
		switch {
		case ref.Optional && absent[ref.Digest], depth > maxDepth, child && c.revisions[repoDigest{n.Repository, ref.Digest}]:
		case !there && (ref.Optional || depth > 0):
			c.report.problem(n.String(), "%s %s is not there, and the release has it", ref.Role, ref.Digest)
		case there && child && c.manifests[ref.Digest] != nil:
			c.carries(n, c.manifests[ref.Digest], absent, depth+1)
		case there && !child && (ref.Optional || depth > 0) && !c.layers[repoDigest{n.Repository, ref.Digest}]:
			c.report.problem(n.String(), "%s %s is not linked in the repository", ref.Role, ref.Digest)
		}
	}
}

// extra lists what is there and no part of the release. mu is held.
func (c *checker) extra(names []seal.Name) {
	has, linked := make(map[string]bool), make(map[repoDigest]bool)
	for _, n := range names {
		has[n.String()], linked[repoDigest{n.Repository, n.Digest}] = true, true
	}
	for name := range c.tags {
		if !has[name] {
			c.report.Extra = append(c.report.Extra, name)
		}
	}
	for at := range c.revisions {
		_, base := c.promised[layout.RevisionLinkPath(at.repo, at.digest)]
		if !linked[at] && !base {
			c.report.Extra = append(c.report.Extra, fmt.Sprintf("%s@%s", at.repo, at.digest))
		}
	}
	slices.Sort(c.report.Extra)
	if c.o.Exact {
		for _, name := range c.report.Extra {
			c.report.problem(name, "is no part of the release")
		}
	}
}
