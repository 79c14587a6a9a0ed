package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// maxLink bounds what is read of a link; the longest digest has 135 bytes.
const maxLink = 1 << 10

// commit makes a written file the blob or the link that its path says. It is
// the one way by which anything comes into the release. The log says what was
// refused, since a registry tells its user little more than "I/O error".
func (t *FS) commit(at layout.Path, s *scratch) error {
	var err error
	if at.Kind == layout.BlobData {
		err = t.commitBlob(at.Digest, s)
	} else {
		err = t.commitLink(at, s)
	}
	if err != nil {
		t.Log.Error("refused", "path", at.String(), "err", err)
	}
	return err
}

func (t *FS) commitBlob(d digest.Digest, s *scratch) error {
	w, err := s.writer()
	if err != nil {
		return err
	}
	if _, err := w.Commit(d); err != nil {
		return err
	}
	return t.addBlob(d)
}

// addBlob enters a blob into the release. linkManifest looks for the entry
// after its link, and this for the link after its entry: one of them sees the
// other, however they meet.
func (t *FS) addBlob(d digest.Digest) error {
	if err := t.release.AddBlob(d); err != nil {
		return err
	}
	if t.release.Awaits(d) {
		if err := t.arrive(d); err != nil {
			t.Log.Warn("a linked manifest is none", "digest", d, "err", err)
		}
	}
	return nil
}

// arrive enters a manifest whose blob comes after the link that needs it, as
// when a tree is copied in. A blob that is awaited may also be a layer.
func (t *FS) arrive(d digest.Digest) error {
	found, err := t.explore(d)
	if err != nil {
		return err
	}
	return t.release.AddFacts(d, found.facts, found.absent...)
}

func (t *FS) commitLink(at layout.Path, s *scratch) error {
	content, err := s.beginning(maxLink)
	if err != nil {
		return err
	}
	d, err := layout.ParseLink(content)
	if err != nil {
		return invalid("%v", err)
	}
	if at.Digest != "" && at.Digest != d {
		return invalid("link names %s", d)
	}
	// The link is the promise: what it points at must not be less durable.
	if err := t.blobs.Flush(); err != nil {
		return err
	}
	switch at.Kind {
	case layout.LayerLink:
		return t.release.LinkLayer(at.Repository, d)
	case layout.RevisionLink:
		return t.linkManifest(at.Repository, d)
	case layout.TagCurrentLink:
		return t.release.Tag(at.Repository, at.Tag, d)
	}
	return t.release.AddHistory(at.Repository, at.Tag, d)
}

func (t *FS) linkManifest(repo string, d digest.Digest) error {
	found, err := t.explore(d)
	if err != nil {
		return err
	}
	if err := t.release.LinkManifest(repo, d, found.facts, found.absent...); err != nil {
		return err
	}
	for _, d := range slices.Concat(found.unknown, found.absent) {
		if t.release.Blob(d).State == index.Linked { // it has come meanwhile
			if err := t.addBlob(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// An exploration is what is found by following a manifest.
type exploration struct {
	fs    *FS
	top   digest.Digest
	facts index.Facts

	unknown []digest.Digest // manifests that are not there
	absent  []digest.Digest // what is not there and need not be
}

// explore reads a manifest and those below it, as far as nothing is known of
// them. A manifest that is not there has no facts yet; one that is none is an
// error at the top, and below it an ordinary blob, since an index may list
// anything.
func (t *FS) explore(top digest.Digest) (*exploration, error) {
	e := &exploration{fs: t, top: top, facts: make(index.Facts)}
	return e, e.follow(top, 0)
}

func (e *exploration) follow(d digest.Digest, depth int) error {
	if depth >= index.MaxDepth {
		return invalid("manifest %s: indexes nested deeper than %d", e.top, index.MaxDepth)
	}
	m, err := e.fs.manifest(d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.unknown = append(e.unknown, d)
		return nil
	case errors.Is(err, errNoManifest) && depth > 0:
		m = new(manifest.Manifest)
	case err != nil:
		return err
	}
	e.facts[d] = m
	for _, ref := range m.Refs {
		if err := e.visit(ref, depth); err != nil {
			return err
		}
	}
	return nil
}

func (e *exploration) visit(ref manifest.Ref, depth int) error {
	if ref.Optional && !e.fs.has(ref) {
		e.absent = append(e.absent, ref.Digest)
		return nil
	}
	if _, known := e.facts[ref.Digest]; known || ref.Role != manifest.Child {
		return nil
	}
	return e.follow(ref.Digest, depth+1)
}

// has says whether the release has what a manifest can do without. An index's
// child it has only if it was pushed here: a registry does not find those of
// other releases. A layer it has if a registry that asked was told so.
func (t *FS) has(ref manifest.Ref) bool {
	if ref.Role == manifest.Child {
		return t.release.Blob(ref.Digest).State.Listed()
	}
	_, err := t.blob(ref.Digest)
	return !errors.Is(err, fs.ErrNotExist)
}

var errNoManifest = errors.New("not a manifest")

// manifest returns what is known of a manifest, or else reads it.
func (t *FS) manifest(d digest.Digest) (*manifest.Manifest, error) {
	if m, err := t.index.Manifest(d); err == nil {
		return m, nil
	}
	f, err := t.blobs.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, invalid("%w %s: %w", errNoManifest, d, err)
	}
	return m, nil
}

// invalid is an error of what was written, not of the disk: EINVAL.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), syscall.EINVAL)
}
