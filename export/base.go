package export

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// A Base is what a customer has already: the files of releases, blobs of which
// only the digest is known, or both.
type Base struct {
	names     []string
	any       bool // one of the releases, not all of them
	inventory bool // digests were added

	blobs map[digest.Digest]bool
	links map[string]digest.Digest // path → content; empty where releases differ
	tags  map[string]bool          // repository:tag of any of the releases

	repositories map[string]bool // that have a tag; made when it is first asked for
}

// BaseOfAll is what one has who has all of some releases.
func BaseOfAll(releases ...*Inventory) *Base {
	b := newBase(releases)
	for _, inv := range releases {
		for _, f := range inv.Files {
			had, seen := b.links[f.Path]
			switch {
			case f.Blob != "":
				b.blobs[f.Blob] = true
			case seen && had != f.Link:
				b.links[f.Path] = "" // a tag that moved: which came last is not known
			default:
				b.links[f.Path] = f.Link
			}
		}
	}
	return b
}

// BaseOfAny is what everybody has who has one of some releases, whichever.
func BaseOfAny(releases ...*Inventory) *Base {
	b := newBase(releases)
	b.any = true
	type file struct {
		path    string
		content digest.Digest
	}
	count := make(map[file]int)
	for _, inv := range releases {
		for _, f := range inv.Files {
			same := file{f.Path, f.Blob + f.Link}
			if count[same]++; count[same] < len(releases) {
				continue
			}
			if f.Blob != "" {
				b.blobs[f.Blob] = true
			} else {
				b.links[f.Path] = f.Link
			}
		}
	}
	return b
}

func newBase(releases []*Inventory) *Base {
	b := &Base{
		blobs: make(map[digest.Digest]bool),
		links: make(map[string]digest.Digest),
		tags:  make(map[string]bool),
	}
	for _, inv := range releases {
		b.names = append(b.names, inv.Release)
		for name := range inv.tags() {
			b.tags[name] = true
		}
	}
	return b
}

// tags are the inventory's tags, as repository:tag, with what they point at.
func (inv *Inventory) tags() map[string]digest.Digest {
	tags := make(map[string]digest.Digest)
	for _, f := range inv.Files {
		if p := layout.Parse(f.Path); p.Kind == layout.TagCurrentLink {
			tags[p.Repository+":"+p.Tag] = f.Link
		}
	}
	return tags
}

// has says whether a file need not be sent.
func (b *Base) has(f File) bool {
	if f.Blob != "" {
		return b.blobs[f.Blob]
	}
	return b.links[f.Path] == f.Link
}

// gone lists the tags that the base has and the release has not. Of a part of
// the release it is not known.
func (b *Base) gone(inv *Inventory) (tags []string) {
	if inv.Part {
		return nil
	}
	now := inv.tags()
	for name := range b.tags {
		if _, still := now[name]; !still {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	return tags
}

// maxInventoryLine bounds what is kept of a customer's file at a time.
const maxInventoryLine = 64 << 10

// AddDigests adds the blobs that a customer has listed, as far as the release
// has them. A line is the path of a blob's data as find prints it, from
// whichever directory; a digest; or both, as sha256sum prints them: then they
// must agree, or the blob is damaged there and does not count. Empty lines and
// those that begin with # mean nothing. Anything else is an error: a list that
// was cut or mangled would make a patch that the customer cannot use.
//
// Nothing is kept of what the release has not, however long the list.
func (b *Base) AddDigests(inv *Inventory, name string, r io.Reader) (damaged []digest.Digest, err error) {
	b.inventory = true
	wanted := make(map[digest.Digest]bool)
	for _, f := range inv.Files {
		if f.Blob != "" {
			wanted[f.Blob] = true
		}
	}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxInventoryLine)
	n := 1
	for ; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		d, whole, ok := parseHave(line)
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: line %d is neither a digest nor the path of a blob's data: %.100q", name, n, line)
		case !wanted[d]:
		case !whole:
			damaged = append(damaged, d)
		default:
			b.blobs[d] = true
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
	}
	for _, d := range damaged { // also if another line says that it is there
		delete(b.blobs, d)
	}
	return damaged, nil
}

// parseHave reads a line of AddDigests.
func parseHave(line string) (d digest.Digest, whole, ok bool) {
	if d, err := digest.Parse(line); err == nil {
		return d, true, true
	}
	hex, path, two := strings.Cut(line, " ")
	if !two {
		hex, path = "", line
	}
	if d, ok = blobOfPath(strings.TrimLeft(path, " *")); !ok {
		return "", false, false
	}
	return d, hex == "" || hex == d.Encoded(), true
}

// blobOfPath reads a path's end: ALG/HE/HEX/data.
func blobOfPath(path string) (digest.Digest, bool) {
	parts := strings.Split(path, "/")
	if len(parts) < 4 {
		return "", false
	}
	p := layout.Parse(layout.Root + "/blobs/" + strings.Join(parts[len(parts)-4:], "/"))
	return p.Digest, p.Kind == layout.BlobData
}
