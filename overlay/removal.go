package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// removals takes from the release the links that were laid out at the mount, or
// entered since, and are there no more.
func (e *entry) removals() error {
	for _, repo := range e.release.AllRepositories() {
		if err := e.removalsOf(repo); err != nil {
			return err
		}
	}
	return nil
}

func (e *entry) removalsOf(repo string) error {
	var errs []error
	for _, l := range e.release.Revisions(repo) {
		if e.lost(layout.RevisionLinkPath(repo, l.Digest)) {
			errs = append(errs, e.release.UnlinkManifest(repo, l.Digest))
		}
	}
	for _, tag := range e.release.Tags(repo) {
		if _, ok := e.release.TagLink(repo, tag); ok && e.lost(layout.TagCurrentLinkPath(repo, tag)) {
			errs = append(errs, e.release.Untag(repo, tag))
		}
		for _, l := range e.release.History(repo, tag) {
			if e.lost(layout.TagIndexLinkPath(repo, tag, l.Digest)) {
				errs = append(errs, e.release.RemoveHistory(repo, tag, l.Digest))
			}
		}
	}
	for _, l := range e.release.Layers(repo) {
		path := layout.LayerLinkPath(repo, l.Digest)
		if l.State == index.Linked && !e.below(path) && e.lost(path) {
			errs = append(errs, e.release.HideLayer(repo, l.Digest))
		}
	}
	return errors.Join(errs...)
}

// lost says whether a link is there no more, and counts it.
func (e *entry) lost(name string) bool {
	if e.found.seen[name] {
		return false
	}
	e.report.Removed++
	return true
}

// below says whether a layer link is among those of all releases, whatever the
// upper directory says of it.
func (e *entry) below(name string) bool {
	_, err := os.Lstat(filepath.Join(linksDir(e.store.Dir), name))
	return err == nil || !complete(e.store.Dir)
}

// hides takes from the release what lies below and has a whiteout.
func (e *entry) hides() error {
	var blobs []string // directories whose blobs are gone
	for _, name := range e.found.gone {
		at := layout.Parse(name)
		var err error
		switch at.Kind {
		case layout.BlobDir, layout.BlobData:
			err = e.hideBlob(at.Digest)
		case layout.LayerDir, layout.LayerLink:
			err = e.hideLayer(layout.LayerLinkPath(at.Repository, at.Digest))
		case layout.BlobPrefix, layout.BlobAlgorithm, layout.Blobs:
			blobs = append(blobs, name)
		case layout.Top, layout.Skeleton:
			blobs = append(blobs, name)
			err = e.hideLinksIn(name)
		default:
			err = e.hideLinksIn(name)
		}
		if err != nil {
			return err
		}
	}
	return e.hideBlobsIn(blobs)
}

func (e *entry) hideBlobsIn(dirs []string) error {
	if len(dirs) == 0 {
		return nil
	}
	kept := make(map[digest.Digest]bool)
	for _, d := range e.found.emptied {
		kept[d] = true
	}
	for info, err := range e.store.Blobs.All() {
		if err != nil {
			return err
		}
		if !kept[info.Digest] && within(layout.BlobDataPath(info.Digest), dirs) {
			if err := e.hideBlob(info.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

func within(path string, dirs []string) bool {
	for _, dir := range dirs {
		if dir == "" || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

func (e *entry) hideBlob(d digest.Digest) error {
	if e.found.seen[layout.BlobDataPath(d)] || e.release.BlobRemoved(d) {
		return nil
	}
	if _, err := e.store.Blobs.Stat(d); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return e.hide(e.release.HideBlob(d))
}

// hideLinksIn hides all layer links of history below a directory.
func (e *entry) hideLinksIn(dir string) error {
	root := linksDir(e.store.Dir)
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return e.hideLayer(relative(root, path))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (e *entry) hideLayer(name string) error {
	at := layout.Parse(name)
	if at.Kind != layout.LayerLink || e.found.seen[name] || e.release.Layer(at.Repository, at.Digest).State == index.Hidden {
		return nil
	}
	return e.hide(e.release.HideLayer(at.Repository, at.Digest))
}

// hide counts a removal. Nobody waits for one; but there may be as many as the
// store has blobs, and they are held in memory until they are written.
func (e *entry) hide(err error) error {
	e.report.Removed++
	if err == nil && e.report.Removed%1000 == 0 {
		return e.release.Sync()
	}
	return err
}

// dirs notes the directories that stay though they are empty.
func (e *entry) dirs() error {
	known := make(map[string]bool)
	var errs []error
	for _, name := range e.release.Dirs() {
		known[name] = true
		if !e.found.dirs[name] {
			errs = append(errs, e.release.RemoveDir(name))
		}
	}
	for name := range e.found.dirs {
		if !known[name] && layout.Parse(name).Kind.Structural() {
			errs = append(errs, e.release.AddDir(name))
		}
	}
	return errors.Join(errs...)
}
