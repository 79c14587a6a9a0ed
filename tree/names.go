package tree

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// Mkdir makes a directory. One of the registry's tree that a lookup finds but
// no listing shows is there already, as far as mkdir(2) can tell.
func (t *FS) Mkdir(p string, mode fs.FileMode, who Owner) (Attr, error) {
	if err := t.writable("mkdir", p); err != nil {
		return Attr{}, err
	}
	at := layout.Parse(p)
	var err error
	switch {
	case at.Kind == layout.Other:
		err = t.mkdirPlain(p, mode, who)
	case at.Kind.IsDir():
		err = t.keepDir(p)
	default:
		// The name of a blob, a link or a temp is no directory's.
		err = syscall.EINVAL
	}
	if err != nil {
		return Attr{}, pathError("mkdir", p, err)
	}
	return t.Stat(p)
}

func (t *FS) mkdirPlain(p string, mode fs.FileMode, who Owner) error {
	if err := t.makeParents(p); err != nil {
		return err
	}
	if err := t.plain.Mkdir(p, mode); err != nil {
		return err
	}
	if err := t.give(p, who); err != nil {
		return err
	}
	return t.setMode(p, mode)
}

// keepDir notes that a directory was made, and those above it.
func (t *FS) keepDir(p string) error {
	for ; p != ""; p = parent(p) {
		if !t.addDir(p) {
			return nil // and so are those above
		}
		if layout.Parse(p).Kind.Structural() {
			if err := t.release.AddDir(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *FS) addDir(p string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.dirs.get(p); ok {
		return false
	}
	t.dirs.set(p, struct{}{})
	return true
}

// Unlink removes a name from the release. The store keeps its blobs.
func (t *FS) Unlink(p string) error {
	if err := t.writable("unlink", p); err != nil {
		return err
	}
	at := layout.Parse(p)
	if at.Kind == layout.Other {
		return pathError("unlink", p, t.plain.Unlink(p))
	}
	if at.Kind.IsDir() {
		return pathError("unlink", p, syscall.EISDIR)
	}
	if _, err := t.Stat(p); err != nil {
		return pathError("unlink", p, fs.ErrNotExist)
	}
	// The directories stay until somebody removes them, as on any disk.
	if err := t.keepDir(parent(p)); err != nil {
		return pathError("unlink", p, err)
	}
	return pathError("unlink", p, t.unlink(p, at))
}

func (t *FS) unlink(p string, at layout.Path) error {
	switch at.Kind {
	case layout.Temp:
		f, err := t.takeTemp(p)
		if err != nil {
			return err
		}
		return f.release()
	case layout.BlobData:
		return t.release.HideBlob(at.Digest)
	case layout.LayerLink:
		return t.release.HideLayer(at.Repository, at.Digest)
	case layout.RevisionLink:
		return t.release.UnlinkManifest(at.Repository, at.Digest)
	case layout.TagCurrentLink:
		return t.release.Untag(at.Repository, at.Tag)
	}
	return t.release.RemoveHistory(at.Repository, at.Tag, at.Digest)
}

// Rmdir removes an empty directory.
func (t *FS) Rmdir(p string) error {
	if err := t.writable("rmdir", p); err != nil {
		return err
	}
	at := layout.Parse(p)
	var err error
	if at.Kind == layout.Other {
		err = t.plain.Rmdir(p)
	} else {
		err = t.rmdir(p, at)
	}
	return pathError("rmdir", p, err)
}

func (t *FS) rmdir(p string, at layout.Path) error {
	if !at.Kind.IsDir() {
		return syscall.ENOTDIR
	}
	a, err := t.Stat(p)
	if err != nil {
		return err
	}
	if a.Kind != Dir {
		return syscall.ENOTDIR
	}
	entries, err := t.ReadDir(p)
	if err != nil {
		return err
	}
	if len(entries) > 0 && !t.onlyRemoved(p, at) {
		return syscall.ENOTEMPTY
	}
	if err := t.plain.Rmdir(plainName(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) == 0 {
		if err := t.hideUnlisted(at); err != nil {
			return err
		}
	}
	return t.forgetDir(p, at)
}

// hideUnlisted: a directory that is there for a lookup only is removed by
// hiding what the lookup found, so that it stays removed.
func (t *FS) hideUnlisted(at layout.Path) error {
	switch at.Kind {
	case layout.BlobDir:
		if _, err := t.blob(at.Digest); err == nil {
			return t.release.HideBlob(at.Digest)
		}
	case layout.LayerDir:
		if _, err := t.layerLink(at.Repository, at.Digest); err == nil {
			return t.release.HideLayer(at.Repository, at.Digest)
		}
	}
	return nil
}

func (t *FS) forgetDir(p string, at layout.Path) error {
	t.mu.Lock()
	t.dirs.remove(p)
	t.mu.Unlock()
	if at.Kind.Structural() {
		return t.release.RemoveDir(p)
	}
	return nil
}

// onlyRemoved says whether all that a directory of blobs holds was removed and
// stays only because a linked manifest needs it. Such a directory can be
// "removed", too: removing the tree from the top would not get past it.
func (t *FS) onlyRemoved(p string, at layout.Path) bool {
	switch at.Kind {
	case layout.BlobData:
		link := t.release.Blob(at.Digest)
		return link.State == index.Needed && t.release.BlobRemoved(at.Digest)
	case layout.Blobs, layout.BlobAlgorithm, layout.BlobPrefix, layout.BlobDir:
	default:
		return false
	}
	entries, err := t.ReadDir(p)
	for _, e := range entries {
		child := path.Join(p, e.Name)
		if !t.onlyRemoved(child, layout.Parse(child)) {
			return false
		}
	}
	return err == nil
}

// SyncDir makes durable what was done in a directory. Of uploads, of blobs and
// of layers nothing is promised before a manifest is linked, and that sees to
// it; the link of a manifest, and what a tag points at, did not return before
// they were durable. So a registry, which syncs the directory of each link that
// it writes, waits for nothing here; who has removed one does.
func (t *FS) SyncDir(p string) error {
	if uploading(p) {
		return nil
	}
	at := layout.Parse(p)
	switch at.Kind {
	case layout.Blobs, layout.BlobAlgorithm, layout.BlobPrefix, layout.BlobDir:
		return nil
	case layout.LayerDir, layout.RevisionDir, layout.TagCurrent, layout.TagIndexDir:
		if t.hasContent(at) {
			return nil
		}
	case layout.Other:
		return pathError("fsync", p, t.syncPlainDir(p))
	}
	if err := t.blobs.Flush(); err != nil {
		return pathError("fsync", p, err)
	}
	return pathError("fsync", p, t.release.Sync())
}

func (t *FS) syncPlainDir(p string) error {
	dir, err := t.plain.OpenFile(plainName(p), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Symlink makes a symbolic link among the plain files.
func (t *FS) Symlink(target, p string, who Owner) (Attr, error) {
	if err := t.writable("symlink", p); err != nil {
		return Attr{}, err
	}
	if layout.Parse(p).Kind != layout.Other {
		return Attr{}, pathError("symlink", p, syscall.EPERM)
	}
	err := t.makeParents(p)
	if err == nil {
		err = t.plain.Symlink(target, p)
	}
	if err == nil {
		err = t.give(p, who)
	}
	if err != nil {
		return Attr{}, pathError("symlink", p, err)
	}
	return t.Stat(p)
}

// Readlink reads a symbolic link.
func (t *FS) Readlink(p string) (string, error) { return t.plain.Readlink(plainName(p)) }

// Link makes a second name for a plain file.
func (t *FS) Link(old, p string) (Attr, error) {
	if err := t.writable("link", p); err != nil {
		return Attr{}, err
	}
	if layout.Parse(old).Kind != layout.Other || layout.Parse(p).Kind != layout.Other {
		return Attr{}, pathError("link", p, syscall.EPERM)
	}
	err := t.makeParents(p)
	if err == nil {
		err = t.plain.Link(old, p)
	}
	if err != nil {
		return Attr{}, pathError("link", p, err)
	}
	return t.Stat(p)
}
