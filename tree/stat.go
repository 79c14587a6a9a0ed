package tree

import (
	"errors"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// Stat describes what stands at a path, listed or not. It changes nothing.
func (t *FS) Stat(p string) (Attr, error) {
	at := layout.Parse(p)
	var a Attr
	var err error
	switch {
	case at.Kind == layout.Other:
		a, err = t.statPlain(p)
	case at.Kind == layout.Temp:
		a, err = t.statTemp(p)
	case at.Kind == layout.BlobData:
		a, err = t.statBlob(p, at.Digest)
	case at.Kind.IsLink():
		a, err = t.statLink(p, at)
	default:
		a, err = t.statDir(p, at)
	}
	return a, pathError("stat", p, err)
}

func (t *FS) statBlob(p string, d digest.Digest) (Attr, error) {
	info, err := t.blob(d)
	if err != nil {
		return Attr{}, err
	}
	a := t.fileAttr(Blob, namedIno(p), info.Size, info.ModTime)
	a.Settled = t.settled(d)
	return a, nil
}

// settled says whether a blob will be found until it is removed here: the store
// keeps it, and it is not one that was removed and is still needed.
func (t *FS) settled(d digest.Digest) bool {
	return t.Reuse == ReuseStore && !t.release.BlobRemoved(d)
}

func (t *FS) statLink(p string, at layout.Path) (Attr, error) {
	link, err := t.link(at)
	if err != nil {
		return Attr{}, err
	}
	a := t.fileAttr(linkKind(at), namedIno(p), int64(len(link.Digest)), link.Time)
	a.Settled = at.Kind != layout.LayerLink || t.settled(at.Digest)
	return a, nil
}

// linkKind: where the path has the digest, a link to another is refused.
func linkKind(at layout.Path) Kind {
	if at.Digest == "" {
		return Small
	}
	return Link
}

func (t *FS) statDir(p string, at layout.Path) (Attr, error) {
	if t.made(p) || t.resolves(at) {
		return t.dirAttr(p), nil
	}
	// It may hold plain files only, as an upload. It is the mount's all the
	// same: on the disk it is nobody's who uses the mount.
	a, err := t.statPlain(p)
	if err != nil || a.Kind != Dir {
		return a, err
	}
	return t.dirAttr(p), nil
}

// made says whether somebody made a directory.
func (t *FS) made(p string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.dirs.get(p)
	return ok
}

// blob finds a blob that a lookup may see: M2 and M4 of the contract. What is
// found is pinned as long as the mount is there: a registry remembers.
func (t *FS) blob(d digest.Digest) (info cas.Info, err error) {
	err = t.Pins.Hold(d, func() error {
		state := t.release.Blob(d).State
		if state == index.Hidden || state == index.Absent && t.Reuse == ReuseNone {
			return fs.ErrNotExist
		}
		info, err = t.blobs.Stat(d)
		return err
	})
	return info, err
}

// link finds what a link file says, whether the release has it or reuse gives
// it.
func (t *FS) link(at layout.Path) (index.Link, error) {
	var link index.Link
	ok := false
	switch at.Kind {
	case layout.LayerLink:
		return t.layerLink(at.Repository, at.Digest)
	case layout.RevisionLink:
		link, ok = t.release.Revision(at.Repository, at.Digest)
	case layout.TagCurrentLink:
		link, ok = t.release.TagLink(at.Repository, at.Tag)
	case layout.TagIndexLink:
		link, ok = t.release.HistoryLink(at.Repository, at.Tag, at.Digest)
	}
	if !ok {
		return index.Link{}, fs.ErrNotExist
	}
	return link, nil
}

func (t *FS) layerLink(repo string, d digest.Digest) (link index.Link, err error) {
	err = t.Pins.Hold(d, func() error {
		link, err = t.findLayer(repo, d)
		return err
	})
	return link, err
}

func (t *FS) findLayer(repo string, d digest.Digest) (index.Link, error) {
	link := t.release.Layer(repo, d)
	switch link.State {
	case index.Linked:
		return link, nil
	case index.Hidden:
		return index.Link{}, fs.ErrNotExist
	}
	// A link that nobody wrote must not promise a blob that is not there.
	info, err := t.blob(d)
	if err != nil {
		return index.Link{}, err
	}
	if link.State == index.Absent {
		if !t.reuses(repo, d) {
			return index.Link{}, fs.ErrNotExist
		}
		link.Time = info.ModTime
	}
	return link, nil
}

// reuses leaves manifests out: registry 2.8 looks for one among the layers too,
// and would find there what _manifests must not give. A client that asks by
// digest would then not push the children of an index.
func (t *FS) reuses(repo string, d digest.Digest) bool {
	known := t.Reuse == ReuseStore || t.Reuse == ReuseRepository && t.index.EverLinked(repo, d)
	return known && !t.index.KnowsManifest(d)
}

// resolves says whether a directory of the grammar is there for a lookup: the
// release has something in it, or it lies on the way to what reuse gives.
func (t *FS) resolves(at layout.Path) bool {
	switch at.Kind {
	case layout.Top, layout.Skeleton, layout.Blobs, layout.BlobAlgorithm, layout.BlobPrefix, layout.Repositories:
		return true
	case layout.BlobDir:
		_, err := t.blob(at.Digest)
		return !errors.Is(err, fs.ErrNotExist)
	case layout.LayerDir:
		_, err := t.layerLink(at.Repository, at.Digest)
		return !errors.Is(err, fs.ErrNotExist)
	case layout.Repository, layout.Layers, layout.LayerAlgorithm:
		return t.reusesIn(at.Repository) || t.hasContent(at)
	}
	return t.hasContent(at)
}

func (t *FS) reusesIn(repo string) bool {
	return t.Reuse == ReuseStore || t.Reuse == ReuseRepository && t.index.EverRepository(repo)
}
