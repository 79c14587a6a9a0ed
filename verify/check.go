package verify

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/patch"
)

// maxLink bounds what is read of a link: the longest digest, and white space.
const maxLink = 1024

// maxFiles bounds what a hostile tar makes us remember, to some 1 GB. A release
// of 10,000 images has some 200,000 files.
const maxFiles = 4 << 20

// A checker takes files in any order, also several at once, and judges when it
// has all.
type checker struct {
	o Options

	mu     sync.Mutex // guards all that follows
	report Report

	document []byte                  // of the release that is to be there
	sizes    map[digest.Digest]int64 // of manifests

	seen      map[string]bool
	blobs     map[digest.Digest]bool // those that are what they should be
	manifests map[digest.Digest]*manifest.Manifest
	layers    map[repoDigest]bool
	revisions map[repoDigest]bool
	tags      map[string]repoDigest // repository:tag

	promised map[string]digest.Digest // path → content: what a patch requires
	whole    map[string]digest.Digest // what it yields
	contents map[string]digest.Digest // of the files, if there may be a whole
	releases map[string]bool          // of which there are documents
}

var errTooMany = fmt.Errorf("more than %d files", maxFiles)

type repoDigest struct {
	repo   string
	digest digest.Digest
}

func newChecker(o Options) *checker {
	return &checker{
		o: o, sizes: make(map[digest.Digest]int64),
		seen:      make(map[string]bool),
		blobs:     make(map[digest.Digest]bool),
		manifests: make(map[digest.Digest]*manifest.Manifest),
		layers:    make(map[repoDigest]bool),
		revisions: make(map[repoDigest]bool),
		tags:      make(map[string]repoDigest),
		promised:  make(map[string]digest.Digest),
		whole:     make(map[string]digest.Digest),
		contents:  make(map[string]digest.Digest),
		releases:  make(map[string]bool),
		report:    Report{Problems: []Problem{}},
	}
}

func (c *checker) problem(object, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.problem(object, format, args...)
}

// file takes a regular file. An error is the reader's.
func (c *checker) file(path string, r io.Reader) error {
	p := layout.Parse(path)
	part, release := patch.PartOf(path)
	if p.Kind == layout.BlobData || p.Kind.IsLink() || part != patch.NoPart {
		c.mu.Lock()
		again := c.seen[path]
		c.seen[path] = true
		many := len(c.seen) > maxFiles
		if part != patch.NoPart {
			c.releases[release] = true
		}
		c.mu.Unlock()
		if many {
			return errTooMany
		}
		if again {
			c.problem(path, "is there twice")
		}
	}
	switch {
	case p.Kind == layout.BlobData:
		return c.blob(path, p.Digest, r)
	case p.Kind.IsLink():
		return c.link(path, p, r)
	case part == patch.Release:
		return c.readDocument(r)
	case part != patch.NoPart:
		return c.part(path, part, r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Others++
	return nil
}

func (c *checker) blob(path string, d digest.Digest, r io.Reader) error {
	hash := d.Algorithm().Hash()
	var head bytes.Buffer // of what may be a manifest
	n, err := io.Copy(hash, io.TeeReader(io.LimitReader(r, manifest.MaxSize), onlyJSON{&head}))
	if err == nil {
		var more int64
		more, err = io.Copy(hash, r)
		if n += more; more > 0 {
			head.Reset()
		}
	}
	if err != nil {
		return err
	}
	got := digest.NewDigest(d.Algorithm(), hash)
	m := parse(head.Bytes())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Blobs++
	c.report.Bytes += n
	c.contents[path] = got
	if got != d {
		c.report.problem(path, "damaged: content has digest %s", got)
		return nil
	}
	c.blobs[d] = true
	if m != nil {
		c.manifests[d], c.sizes[d] = m, n
	}
	return nil
}

// parse returns nil for what is no manifest, such as a config.
func parse(data []byte) *manifest.Manifest {
	if len(data) == 0 {
		return nil
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil
	}
	return m
}

// onlyJSON keeps what begins like an object, and nothing else.
type onlyJSON struct{ *bytes.Buffer }

func (o onlyJSON) Write(p []byte) (int, error) {
	if o.Len() > 0 || len(p) > 0 && (p[0] == '{' || p[0] == ' ' || p[0] == '\n' || p[0] == '\t') {
		return o.Buffer.Write(p)
	}
	return len(p), nil
}

func (c *checker) link(path string, p layout.Path, r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxLink))
	if err != nil {
		return err
	}
	d, err := layout.ParseLink(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Links++
	c.contents[path] = digest.FromBytes(text)
	if err != nil {
		c.report.problem(path, "%v", err)
		return nil
	}
	if p.Kind != layout.TagCurrentLink && d != p.Digest {
		c.report.problem(path, "points at %s", d)
		return nil
	}
	c.enter(p, d)
	return nil
}

// enter notes what a link says.
func (c *checker) enter(p layout.Path, d digest.Digest) {
	switch p.Kind {
	case layout.LayerLink:
		c.layers[repoDigest{p.Repository, d}] = true
	case layout.RevisionLink:
		c.revisions[repoDigest{p.Repository, d}] = true
	case layout.TagCurrentLink:
		c.tags[p.Repository+":"+p.Tag] = repoDigest{p.Repository, d}
		c.report.Tags++
	}
}

func (c *checker) part(path string, part patch.Part, r io.Reader) (err error) {
	var doc *patch.Document
	var sums []patch.Sum
	switch part {
	case patch.TheDocument:
		doc, err = patch.ParseDocument(r)
	case patch.Requires, patch.Whole:
		err = patch.ParseSums(path, r, func(s patch.Sum) { sums = append(sums, s) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.report.problem(path, "%v", err)
		return nil
	}
	if doc != nil {
		c.report.Patch = doc
	}
	for _, s := range sums {
		if part == patch.Requires {
			c.promised[s.Path] = s.Digest
			c.report.required = append(c.report.required, s)
		} else {
			c.whole[s.Path] = s.Digest
		}
	}
	return nil
}

// judge says what is wrong with the whole, when all files were taken.
func (c *checker) judge() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasRecords() {
		clear(c.promised)
		clear(c.whole)
		c.report.Patch, c.report.required = nil, nil
	}
	c.judgePatch()
	for path := range c.promised {
		c.assume(layout.Parse(path))
	}
	for rev := range c.revisions {
		c.revision(rev)
	}
	for name, at := range c.tags {
		if !c.revisions[at] {
			c.report.problem(name, "points at manifest %s, which is not linked in its repository", at.digest)
		}
	}
	for path, want := range c.whole {
		switch got, here := c.contents[path]; {
		case here && got != want:
			c.report.problem(path, "has digest %s, and not the release's %s", got, want)
		case !here && c.promised[path] != want:
			c.report.problem(path, "is neither in the patch nor among what it requires")
		}
	}
	c.judgeRelease()
	c.report.sort()
	return &c.report
}

// hasRecords says whether the documents are those of releases and patches that
// were unpacked here one after the other: a patch is of one release, and has
// nothing that it requires. Then the tar is that of a directory, and all must be
// there. mu is held.
func (c *checker) hasRecords() bool {
	for path := range c.promised {
		if _, here := c.contents[path]; here {
			return true
		}
	}
	return len(c.releases) > 1
}

// judgePatch compares what is required with what patch.json says of it, which is
// what people are told. A tar that calls itself no patch requires nothing: it
// would seem whole, and be empty. mu is held.
func (c *checker) judgePatch() {
	blobs, links := 0, 0
	for path := range c.promised {
		if layout.Parse(path).Kind == layout.BlobData {
			blobs++
		} else {
			links++
		}
	}
	switch p := c.report.Patch; {
	case p == nil && blobs+links > 0:
		c.report.problem("patch.json", "is not there, and %d files are required as by a patch", blobs+links)
	case p != nil && (p.Requires.Blobs != blobs || p.Requires.Links != links):
		c.report.problem("patch.json", "says that %d blobs and %d links are required, and the lists have %d and %d",
			p.Requires.Blobs, p.Requires.Links, blobs, links)
	}
}

// assume takes for there what a patch requires. Which manifest a tag of the
// base points at is not known, nor asked: it was checked with the base.
func (c *checker) assume(p layout.Path) {
	switch p.Kind {
	case layout.BlobData:
		c.blobs[p.Digest] = true
	case layout.LayerLink, layout.RevisionLink:
		at := repoDigest{p.Repository, p.Digest}
		if p.Kind == layout.LayerLink {
			c.layers[at] = true
		} else if !c.revisions[at] {
			c.revisions[at] = true
		}
	}
}

// revision checks what a linked manifest needs.
func (c *checker) revision(rev repoDigest) {
	name := fmt.Sprintf("%s@%s", rev.repo, rev.digest)
	if !c.blobs[rev.digest] {
		c.report.problem(name, "the manifest is not there")
		return
	}
	m, ok := c.manifests[rev.digest]
	if !ok {
		if _, base := c.promised[layout.BlobDataPath(rev.digest)]; !base {
			c.report.problem(name, "what is linked as a manifest is none")
		}
		return // a manifest of the base
	}
	c.report.Manifests++
	for _, ref := range m.Refs {
		switch {
		case ref.Role == manifest.Child && c.revisions[repoDigest{rev.repo, ref.Digest}]:
			// which is looked at by itself
		case !c.blobs[ref.Digest] && !ref.Optional:
			c.report.problem(name, "%s %s is not there", ref.Role, ref.Digest)
		case ref.Role != manifest.Child && c.blobs[ref.Digest] && !ref.Optional && !c.layers[repoDigest{rev.repo, ref.Digest}]:
			c.report.problem(name, "%s %s is not linked in the repository", ref.Role, ref.Digest)
		}
	}
}
