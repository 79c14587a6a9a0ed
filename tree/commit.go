package tree

import (
	"fmt"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
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
	return t.Pins.Hold(d, func() error {
		if _, err := w.Commit(d); err != nil {
			return err
		}
		return t.intake().Blob(d)
	})
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
	return t.intake().Link(at, d)
}

// intake is the way into the release. A layer that need not be there counts if
// a registry that asked was told that it is.
func (t *FS) intake() intake.Intake {
	return intake.Intake{
		Blobs: t.blobs, Pins: t.Pins, Index: t.index, Release: t.release, Log: t.Log,
		Finds: func(d digest.Digest) error { _, err := t.blob(d); return err },
	}
}

// invalid is an error of what was written, not of the disk: EINVAL.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), syscall.EINVAL)
}
