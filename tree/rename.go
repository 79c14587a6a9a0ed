package tree

import (
	"errors"
	"io/fs"
	"path"
	"syscall"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/layout"
)

// Rename moves a file. Onto the name of a blob or a link it commits what is
// moved there. What the registry's tree has stays where it is, but for the
// temps: moving it elsewhere is EXDEV, on which mv copies.
func (t *FS) Rename(from, to string, noReplace bool) error {
	if err := t.writable("rename", to); err != nil {
		return err
	}
	if noReplace {
		if _, err := t.Stat(to); err == nil {
			return pathError("rename", to, fs.ErrExist)
		}
	}
	src, dst := layout.Parse(from), layout.Parse(to)
	return pathError("rename", to, t.rename(from, to, src, dst))
}

func (t *FS) rename(from, to string, src, dst layout.Path) error {
	commits := dst.Kind == layout.BlobData || dst.Kind.IsLink()
	switch {
	case src == dst && from == to:
		return nil
	case src.Kind == layout.Other && dst.Kind == layout.Other:
		return t.renamePlain(from, to)
	case src.Kind == layout.Other && commits:
		return t.commitPlain(from, dst)
	case src.Kind == layout.Temp && commits:
		return t.commitTemp(from, to, dst)
	case src.Kind == layout.Temp && dst.Kind == layout.Temp:
		return t.renameTemp(from, to)
	}
	return syscall.EXDEV
}

func (t *FS) renamePlain(from, to string) error {
	if err := t.makeParents(to); err != nil {
		return err
	}
	return t.plain.Rename(from, to, 0)
}

func (t *FS) renameTemp(from, to string) error {
	f, err := t.takeTemp(from)
	if err != nil {
		return err
	}
	f.ino.Store(t.privateIno())
	t.putTemp(to, f)
	return nil
}

// commitTemp commits a temp. Handles that are still open read on, from what it
// has become, and write no more.
func (t *FS) commitTemp(from, to string, dst layout.Path) error {
	f, err := t.takeTemp(from)
	if err != nil {
		return err
	}
	f.seal(true)
	if err := t.commit(dst, f.w); err != nil {
		f.seal(false)
		t.putTemp(from, f)
		return err
	}
	return errors.Join(f.become(to), f.release())
}

// commitPlain commits an upload, or any other plain file. It is moved where no
// path leads first; if somebody can still write to it then, what is committed
// is a copy, since with passthrough nobody here would see the writes.
func (t *FS) commitPlain(from string, dst layout.Path) error {
	w, err := t.blobs.Adopt(path.Join(t.area, from))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Log.Error("refused", "path", dst.String(), "err", err)
		}
		return plainError(err)
	}
	defer w.Close()
	if err := t.commitAdopted(w, dst); err != nil {
		return errors.Join(err, w.Return(path.Join(t.area, from)))
	}
	return nil
}

func (t *FS) commitAdopted(w *cas.Writer, dst layout.Path) error {
	if t.alone(w.File()) {
		return t.commit(dst, adopted(w))
	}
	private, err := w.Clone()
	if err != nil {
		return err
	}
	defer private.Close()
	return t.commit(dst, adopted(private))
}

// plainError: renaming a directory over a file is for the kernel to refuse; a
// link or a device is no content.
func plainError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(err, syscall.EINVAL)
}
