package export

import (
	"cmp"
	"slices"
	"strings"

	"github.com/regfs/regfs/layout"
)

// A stage says what must be there before: a link is written after what it
// points at. So a transfer that breaks off, onto the storage of a registry that
// is running, leaves no tag to a manifest that is not there whole.
type stage int

const (
	blobs    stage = iota
	links          // of layers and of manifests
	tagLinks       // of each tag its history, then what it points at now
)

// A place is where a file stands in the order: by stage, then by path, but a
// tag's current link after its history. (A registry lists a tag for its
// directory alone, so the two stand together.)
type place struct {
	stage   stage
	tag     string // the directory of the tag
	current bool
	path    string
}

func placeOf(path string) place {
	switch p := layout.Parse(path); p.Kind {
	case layout.BlobData:
		return place{stage: blobs, path: path}
	case layout.TagIndexLink, layout.TagCurrentLink:
		dir := layout.Path{Kind: layout.TagDir, Repository: p.Repository, Tag: p.Tag}
		return place{tagLinks, dir.String(), p.Kind == layout.TagCurrentLink, path}
	}
	return place{stage: links, path: path}
}

func (a place) compare(b place) int {
	return cmp.Or(
		cmp.Compare(a.stage, b.stage),
		strings.Compare(a.tag, b.tag),
		compareBool(a.current, b.current),
		strings.Compare(a.path, b.path))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// putInOrder sorts files as they are to be written.
func putInOrder(files []File) {
	places := make(map[string]place, len(files))
	for _, f := range files {
		places[f.Path] = placeOf(f.Path)
	}
	slices.SortFunc(files, func(a, b File) int { return places[a.Path].compare(places[b.Path]) })
}
