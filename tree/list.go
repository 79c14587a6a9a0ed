package tree

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// An Entry is one name of a listing.
type Entry struct {
	Name string
	Type fs.FileMode // type bits only
	Ino  uint64      // as Stat has it
}

// ReadDir lists a directory as the release has it, sorted.
func (t *FS) ReadDir(p string) ([]Entry, error) {
	at := layout.Parse(p)
	found := make(map[string]Entry)
	if at.Kind != layout.Other {
		t.listNamed(p, at, found)
	}
	err := t.listPlain(p, found)
	if err != nil && (at.Kind == layout.Other || !errors.Is(err, fs.ErrNotExist)) {
		return nil, pathError("readdir", p, err)
	}
	entries := make([]Entry, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		entries = append(entries, found[name])
	}
	return entries, nil
}

// listNamed finds what follows from the release, the directories that somebody
// made, and the temps.
func (t *FS) listNamed(p string, at layout.Path, found map[string]Entry) {
	add := func(name string, mode fs.FileMode) {
		found[name] = Entry{Name: name, Type: mode, Ino: namedIno(path.Join(p, name))}
	}
	var mode fs.FileMode
	if childIsDir(at.Kind) {
		mode = fs.ModeDir
	}
	for _, name := range t.content(at) {
		add(name, mode)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.dirs[p] {
		add(name, fs.ModeDir)
	}
	for name, f := range t.temps[p] {
		found[name] = Entry{Name: name, Ino: f.ino.Load()}
	}
}

func (t *FS) listPlain(p string, found map[string]Entry) error {
	dir, err := t.plain.OpenFile(plainName(p), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if errors.Is(err, syscall.ENOTDIR) {
		return syscall.ENOTDIR
	}
	for _, e := range entries {
		if _, ok := found[e.Name()]; ok {
			continue
		}
		if ino, err := t.entryIno(path.Join(p, e.Name()), e); err == nil { // else it is gone again
			found[e.Name()] = Entry{Name: e.Name(), Type: e.Type(), Ino: ino}
		}
	}
	return err
}

// entryIno is what Stat would say. Of an ordinary file the disk is asked
// without a walk down to it, as there may be 100,000 in a directory.
func (t *FS) entryIno(p string, e fs.DirEntry) (uint64, error) {
	if layout.Parse(p).Kind != layout.Other {
		a, err := t.Stat(p)
		return a.Ino, err
	}
	info, err := e.Info()
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// childIsDir says whether a directory of the grammar holds directories, and
// not files.
func childIsDir(k layout.Kind) bool {
	switch k {
	case layout.BlobDir, layout.LayerDir, layout.RevisionDir, layout.TagCurrent, layout.TagIndexDir:
		return false
	}
	return true
}

// hasContent says whether a directory of the grammar has anything that follows
// from the release's names.
func (t *FS) hasContent(at layout.Path) bool {
	if at.Kind == layout.Repository {
		return t.release.Repository(at.Repository)
	}
	return len(t.content(at)) > 0
}

// content lists what follows from the release's names in a directory of the
// grammar.
func (t *FS) content(at layout.Path) []string {
	r := t.release
	switch at.Kind {
	case layout.Top, layout.Skeleton:
		return t.skeleton(at)
	case layout.Blobs:
		return algorithms(func(a digest.Algorithm) bool { return len(r.BlobPrefixes(a)) > 0 })
	case layout.BlobAlgorithm:
		return r.BlobPrefixes(at.Algorithm)
	case layout.BlobPrefix:
		return t.present(r.Blobs(at.Algorithm, at.Prefix))
	case layout.BlobDir:
		return only("data", len(t.present([]index.Link{r.Blob(at.Digest)})) > 0)
	case layout.Repositories:
		return r.Steps("")
	}
	return t.repositoryContent(at)
}

func (t *FS) repositoryContent(at layout.Path) []string {
	r, repo := t.release, at.Repository
	switch at.Kind {
	case layout.Repository:
		return append(r.Steps(repo), t.partsOf(repo)...)
	case layout.Layers:
		return algorithmsOf(r.Layers(repo))
	case layout.LayerAlgorithm:
		return t.layers(repo, at.Algorithm)
	case layout.LayerDir:
		link, err := t.layerLink(repo, at.Digest)
		return only("link", err == nil && link.State.Listed())
	case layout.Manifests:
		return append(only("revisions", len(r.Revisions(repo)) > 0), only("tags", len(r.Tags(repo)) > 0)...)
	case layout.Revisions:
		return algorithmsOf(r.Revisions(repo))
	case layout.RevisionAlgorithm:
		return encoded(r.Revisions(repo), at.Algorithm)
	case layout.RevisionDir:
		_, ok := r.Revision(repo, at.Digest)
		return only("link", ok)
	case layout.Tags:
		return r.Tags(repo)
	}
	return t.tagContent(at)
}

func (t *FS) tagContent(at layout.Path) []string {
	history := t.release.History(at.Repository, at.Tag)
	_, current := t.release.TagLink(at.Repository, at.Tag)
	switch at.Kind {
	case layout.TagDir:
		return append(only("current", current), only("index", len(history) > 0)...)
	case layout.TagCurrent:
		return only("link", current)
	case layout.TagIndex:
		return algorithmsOf(history)
	case layout.TagIndexAlgorithm:
		return encoded(history, at.Algorithm)
	case layout.TagIndexDir:
		_, ok := t.release.HistoryLink(at.Repository, at.Tag, at.Digest)
		return only("link", ok)
	}
	return nil
}

// skeleton lists the one way down to the tree, if there is anything in it.
func (t *FS) skeleton(at layout.Path) []string {
	if at.Kind == layout.Skeleton && at.Prefix == layout.Root {
		blobs := t.hasContent(layout.Path{Kind: layout.Blobs})
		return append(only("blobs", blobs), only("repositories", len(t.release.Steps("")) > 0)...)
	}
	next := map[string]string{"": "docker", "docker": "registry", "docker/registry": "v2"}[at.Prefix]
	return only(next, len(t.skeleton(layout.Path{Kind: layout.Skeleton, Prefix: layout.Root})) > 0)
}

func (t *FS) partsOf(repo string) []string {
	r := t.release
	parts := only("_layers", len(r.Layers(repo)) > 0)
	return append(parts, only("_manifests", len(r.Revisions(repo)) > 0 || len(r.Tags(repo)) > 0)...)
}

// layers lists the layer links of a repository. Those that only follow from a
// manifest are left out where the blob is missing: a foreign layer has none.
func (t *FS) layers(repo string, a digest.Algorithm) []string {
	var names []string
	for _, link := range t.release.Layers(repo) {
		if link.Digest.Algorithm() != a {
			continue
		}
		if _, err := t.layerLink(repo, link.Digest); !errors.Is(err, fs.ErrNotExist) {
			names = append(names, link.Digest.Encoded())
		}
	}
	return names
}

// present lists the blobs that the store has. A needed blob may be missing:
// a foreign layer, a platform left out of an index.
func (t *FS) present(links []index.Link) []string {
	var names []string
	for _, link := range links {
		if !link.State.Listed() {
			continue
		}
		if _, err := t.blobs.Stat(link.Digest); !errors.Is(err, fs.ErrNotExist) {
			names = append(names, link.Digest.Encoded())
		}
	}
	return names
}

func only(name string, there bool) []string {
	if there {
		return []string{name}
	}
	return nil
}

func encoded(links []index.Link, a digest.Algorithm) []string {
	var names []string
	for _, link := range links {
		if link.Digest.Algorithm() == a {
			names = append(names, link.Digest.Encoded())
		}
	}
	return names
}

func algorithmsOf(links []index.Link) []string {
	return algorithms(func(a digest.Algorithm) bool {
		return slices.ContainsFunc(links, func(l index.Link) bool { return l.Digest.Algorithm() == a })
	})
}

func algorithms(has func(digest.Algorithm) bool) []string {
	var names []string
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if has(a) {
			names = append(names, a.String())
		}
	}
	return names
}
