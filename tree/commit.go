package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// maxLink bounds what is read of a link; the longest digest has 135 bytes.
const maxLink = 1 << 10

// commit makes a written file the blob or the link that its path says. It is
// the one way by which anything comes into the release. The log says what was
// refused, since a registry tells its user little more than "I/O error".
func (t *FS) commit(at layout.Path, w *cas.Writer) error {
	var err error
	if at.Kind == layout.BlobData {
		err = t.commitBlob(at.Digest, w)
	} else {
		err = t.commitLink(at, w)
	}
	if err != nil {
		t.Log.Error("refused", "path", at.String(), "err", err)
	}
	return err
}

func (t *FS) commitBlob(d digest.Digest, w *cas.Writer) error {
	if _, err := w.Commit(d); err != nil {
		return err
	}
	if t.release.Awaits(d) {
		// Its link was there first, as when a tree is copied in; the facts
		// that link was to give come now.
		facts, err := t.facts(d)
		if err == nil {
			err = t.release.AddFacts(facts)
		}
		if err != nil {
			t.Log.Warn("linked manifest is none", "digest", d, "err", err)
		}
	}
	return t.release.AddBlob(d)
}

func (t *FS) commitLink(at layout.Path, w *cas.Writer) error {
	content, err := io.ReadAll(io.NewSectionReader(w.File(), 0, maxLink))
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
	facts, err := t.facts(d)
	if err != nil {
		return err
	}
	return t.release.LinkManifest(repo, d, facts)
}

// facts reads a manifest and those below it, as far as nothing is known of
// them. A manifest that is not there has no facts yet; one that is none is an
// error at the top, and below it an ordinary blob, since an index may list
// anything.
func (t *FS) facts(top digest.Digest) (index.Facts, error) {
	facts := make(index.Facts)
	var learn func(d digest.Digest, depth int) error
	learn = func(d digest.Digest, depth int) error {
		if depth > index.MaxDepth {
			return invalid("manifest %s: indexes nested deeper than %d", top, index.MaxDepth)
		}
		m, err := t.manifest(d)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case errors.Is(err, errNoManifest) && depth > 0:
			m = new(manifest.Manifest)
		case err != nil:
			return err
		}
		facts[d] = m
		for _, ref := range m.Refs {
			if _, known := facts[ref.Digest]; ref.Role == manifest.Child && !known {
				if err := learn(ref.Digest, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := learn(top, 0)
	return facts, err
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
