// Package patch is what a patch carries beside its files: the documents that
// say which release it yields, what must be there before, and how that is
// checked with nothing but a shell. They are specified in docs/format.md.
//
// They lie in regfs/RELEASE/ beside the registry's docker/. A registry reads
// nothing outside of docker/registry/v2, so on the customer's side they stay
// as a record of what was installed.
//
// What is read is hostile until it is checked: [ParseSums] and [ParseDocument]
// let nothing pass but paths of the registry's grammar and valid names.
package patch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/layout"
)

// The documents' names in their directory. The files of checksums have the
// algorithm in their names, since sha256sum and its kin read one each.
const (
	documentName = "patch.json"
	scriptName   = "apply.sh"
	removedName  = "removed-tags"
	sealedName   = "release.json" // the document of a sealed release
	requiresName = "requires."    // requires.sha256
	sumsSuffix   = "SUMS"         // SHA256SUMS
)

// Version is the version of patches that this package writes and reads.
const Version = 1

// A Document says what a patch is. Keys are never given a new meaning.
type Document struct {
	Version int    `json:"patch"`
	Release string `json:"release"` // that it yields

	// Over are the releases it was computed against: the customer has all of
	// them, or, with Any, one of them. Inventory says that digests were taken
	// into account that a customer has listed.
	Over      []string `json:"over,omitempty"`
	Any       bool     `json:"any,omitempty"`
	Inventory bool     `json:"inventory,omitempty"`

	// Sealed is the digest of the release's document, if it is sealed.
	Sealed digest.Digest `json:"sealed,omitempty"`

	Adds     Amount `json:"adds"`
	Requires Amount `json:"requires"` // that must be there before

	// RemovedTags are what the releases have in Over and Release has not, as
	// repository:tag. A patch only adds: they stay.
	RemovedTags []string `json:"removed_tags,omitempty"`
}

// An Amount counts files, and the bytes of the blobs among them.
type Amount struct {
	Blobs int   `json:"blobs"`
	Links int   `json:"links"`
	Bytes int64 `json:"bytes"`
}

// Count counts members.
func Count(members archive.Archive) (a Amount) {
	for _, m := range members {
		if m.Blob == "" {
			a.Links++
			continue
		}
		a.Blobs++
		a.Bytes += m.Size
	}
	return a
}

// Dir returns the directory of a release's documents.
func Dir(release string) string { return "regfs/" + release + "/" }

// Documents returns the documents of a patch that adds some files to those
// required. They stand first in its tar, so that who checks it need not read on.
func Documents(doc Document, adds, required archive.Archive) (archive.Archive, error) {
	doc.Version, doc.Adds, doc.Requires = Version, Count(adds), Count(required)
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("patch %s: %w", doc.Release, err)
	}
	var all archive.Archive
	add := func(name, content string) {
		all = append(all, archive.Member{Path: Dir(doc.Release) + name, Size: int64(len(content)), Text: content})
	}
	add(documentName, string(text)+"\n")
	required256 := sums(required)
	add(scriptName, script(doc.Release, algorithms(required256)))
	for _, algorithm := range algorithms(required256) {
		add(requiresName+algorithm, required256[algorithm])
	}
	all = append(all, whole(doc.Release, append(slices.Clone(required), adds...))...)
	if len(doc.RemovedTags) > 0 {
		add(removedName, removed(doc.RemovedTags))
	}
	return all, nil
}

// whole are the checksums of all files of a release.
func whole(release string, files archive.Archive) (all archive.Archive) {
	lists := sums(files)
	for _, algorithm := range algorithms(lists) {
		text := lists[algorithm]
		all = append(all, archive.Member{Path: Dir(release) + strings.ToUpper(algorithm) + sumsSuffix, Size: int64(len(text)), Text: text})
	}
	return all
}

// Sealed returns the document of a sealed release, as a full export and a patch
// have it.
func Sealed(release, document string) archive.Member {
	return archive.Member{Path: Dir(release) + sealedName, Size: int64(len(document)), Text: document}
}

// Record returns what the full export of a sealed release has beside its files:
// their checksums and the document.
func Record(release, document string, files archive.Archive) archive.Archive {
	return append(whole(release, files), Sealed(release, document))
}

// sums are lists of checksums as sha256sum -c reads them, by algorithm. A
// blob's is its name; a link's is by sha256.
func sums(files archive.Archive) map[string]string {
	lines := make(map[string][]string)
	for _, f := range files {
		d := f.Blob
		if d == "" {
			d = digest.FromString(f.Text)
		}
		algorithm := d.Algorithm().String()
		lines[algorithm] = append(lines[algorithm], d.Encoded()+"  "+f.Path+"\n")
	}
	lists := make(map[string]string, len(lines))
	for algorithm, l := range lines {
		slices.SortFunc(l, func(a, b string) int { return strings.Compare(pathOf(a), pathOf(b)) })
		lists[algorithm] = strings.Join(l, "")
	}
	return lists
}

func pathOf(line string) string { return line[strings.Index(line, "  ")+2:] }

// algorithms are the keys in a fixed order.
func algorithms[V any](lists map[string]V) (all []string) {
	for algorithm := range lists {
		all = append(all, algorithm)
	}
	slices.Sort(all)
	return all
}

// removed lists the directories of tags, so that "xargs rm -r" can take it:
// names of repositories and tags have no white space.
func removed(tags []string) string {
	var b strings.Builder
	for _, name := range tags {
		i := strings.LastIndexByte(name, ':')
		dir := layout.Path{Kind: layout.TagDir, Repository: name[:i], Tag: name[i+1:]}
		b.WriteString(dir.String() + "\n")
	}
	return b.String()
}
