package source

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/patch"
)

// patched is a patch's tar, with the links in it that it requires of its base.
// What they say follows from their paths and checksums, so no release need be
// asked; the blobs are the store's.
type patched struct {
	files
	links map[string][]byte
	dirs  map[string]map[string]kind
}

var _ files = (*patched)(nil)

// maxSums bounds a list of checksums: a million lines.
const maxSums = 256 << 20

// withBase adds to a tar what it is a patch over, if it is one. A directory, and
// its tar, may have the documents of patches as records; it has what they
// required, too.
func withBase(f files) (files, error) {
	lists, err := patchLists(f)
	if err != nil || len(lists) == 0 {
		return f, err
	}
	p := &patched{files: f, links: make(map[string][]byte), dirs: make(map[string]map[string]kind)}
	var current []patch.Sum
	listed := make(map[string]bool) // tags: a history is searched once
	here := false                   // something that is required
	for _, list := range lists {
		data, err := f.read(list, maxSums)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list, err)
		}
		err = patch.ParseSums(list, bytes.NewReader(data), func(sum patch.Sum) {
			here = here || has(f, sum.Path)
			switch where := layout.Parse(sum.Path); {
			case where.Kind == layout.TagCurrentLink:
				if !listed[sum.Path] {
					listed[sum.Path] = true
					current = append(current, sum)
				}
			case where.Kind.IsLink():
				p.enter(sum.Path, where.Digest)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, ErrFormat)
		}
	}
	if here {
		return f, nil
	}
	for _, sum := range current {
		if err := p.enterTag(sum); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// patchLists are the lists of what a patch requires; none if it is no patch: a
// patch has documents of one release.
func patchLists(f files) (lists []string, err error) {
	releases, err := f.list("regfs")
	if _, isTar := f.(*archive); !isTar || err != nil {
		return nil, nil
	}
	if len(releases) > 1 {
		return nil, nil
	}
	for _, release := range releases {
		dir := path.Join("regfs", release.name)
		names, err := f.list(dir)
		if err != nil {
			continue
		}
		for _, e := range names {
			name := path.Join(dir, e.name)
			switch part, _ := patch.PartOf(name); part {
			case patch.TheDocument:
				data, err := f.read(name, maxSums)
				if err == nil {
					_, err = patch.ParseDocument(bytes.NewReader(data))
				}
				if err != nil {
					return nil, fmt.Errorf("%w: %w", err, ErrFormat)
				}
			case patch.Requires:
				lists = append(lists, name)
			}
		}
	}
	return lists, nil
}

func (p *patched) enter(name string, d digest.Digest) {
	p.links[name] = []byte(d)
	for k := file; name != "."; name, k = path.Dir(name), directory {
		dir := path.Dir(name)
		if p.dirs[dir] == nil {
			p.dirs[dir] = make(map[string]kind)
		}
		p.dirs[dir][path.Base(name)] = k
	}
}

// enterTag finds out what a tag points at: the one in its history whose digest,
// as a text, has the checksum.
func (p *patched) enterTag(sum patch.Sum) error {
	history := strings.TrimSuffix(sum.Path, "current/link") + "index"
	algorithms, _ := p.list(history)
	for _, algorithm := range algorithms {
		all, _ := p.list(path.Join(history, algorithm.name))
		for _, e := range all {
			d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm.name), e.name)
			if sum.Digest.Algorithm().FromString(d.String()) == sum.Digest {
				p.enter(sum.Path, d)
				return nil
			}
		}
	}
	return fmt.Errorf("patch: %s is required, and nothing says what it is to point at: %w", sum.Path, ErrFormat)
}

func (p *patched) list(dir string) ([]entry, error) {
	entries, err := p.files.list(dir)
	more := p.dirs[path.Clean(dir)]
	if err != nil && more == nil {
		return nil, err
	}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.name] = true
	}
	for name, k := range more {
		if !there[name] {
			entries = append(entries, entry{name, k})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

func (p *patched) size(name string) (int64, error) {
	size, err := p.files.size(name)
	if err == fs.ErrNotExist && p.links[name] != nil {
		return int64(len(p.links[name])), nil
	}
	return size, err
}

func (p *patched) read(name string, limit int64) ([]byte, error) {
	data, err := p.files.read(name, limit)
	if err == fs.ErrNotExist && p.links[name] != nil {
		return p.links[name], nil
	}
	return data, err
}
