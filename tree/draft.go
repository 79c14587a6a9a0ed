package tree

import (
	"errors"
	"io"
	"os"
	"sync"

	"github.com/regfs/regfs/layout"
)

// A draft is a blob or a link being written in place, as 2.8 writes its small
// files: open, truncate, write, fsync, close. Nobody else sees it. Sync and
// Flush commit it; what is wrong with it, its writer learns from them.
type draft struct {
	fs   *FS
	path string
	at   layout.Path
	ino  uint64

	mu      sync.Mutex // guards what follows, and keeps writes out of a commit
	base    Handle     // what was there; read until the first change
	w       *scratch   // the private copy; nil before the first change and after a commit
	written bool       // since the last commit, also one that failed
}

// newDraft takes over base. With O_TRUNC the draft begins empty, which is a
// change: closed as it is, it is committed as nothing, and refused.
func (t *FS) newDraft(p string, at layout.Path, base Handle, flags int) (*draft, error) {
	d := &draft{fs: t, path: p, at: at, ino: t.privateIno(), base: base}
	if flags&os.O_TRUNC == 0 {
		return d, nil
	}
	if err := d.begin(0); err != nil {
		base.Close()
		return nil, err
	}
	return d, nil
}

func (d *draft) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.w != nil {
		return d.w.ReadAt(p, off)
	}
	return d.base.ReadAt(p, off)
}

func (d *draft) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(-1); err != nil {
		return 0, err
	}
	d.written = true
	return d.w.WriteAt(p, off)
}

func (d *draft) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(size); err != nil {
		return err
	}
	d.written = true
	return d.w.Truncate(size)
}

// begin gives the draft its private copy, with as much of what was there as
// the change about to come leaves of it; all if keep is negative.
func (d *draft) begin(keep int64) error {
	if d.w != nil {
		return nil
	}
	w := newScratch(d.fs.blobs)
	a, err := d.base.Stat()
	if keep < 0 || keep > a.Size {
		keep = a.Size
	}
	if err == nil {
		_, err = io.Copy(io.NewOffsetWriter(w, 0), io.NewSectionReader(d.base, 0, keep))
	}
	if err != nil {
		w.Close()
		return err
	}
	d.w = w
	return nil
}

func (d *draft) Stat() (Attr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, err := d.base.Stat()
	if err == nil && d.w != nil {
		a, err = d.fs.scratchAttr(d.w, d.ino)
	}
	a.Kind, a.Ino = Small, d.ino
	return a, err
}

// Sync commits the draft. That a writer who syncs half a blob is told it is
// wrong is meant: 2.8 looks at the result of fsync, and not at that of close.
func (d *draft) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commit()
}

// Flush commits a draft that was not synced. One that was not written to is
// left alone: a shell's "> file" duplicates the descriptor and closes the first
// one before it writes.
func (d *draft) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.written {
		return nil
	}
	return d.commit()
}

func (d *draft) commit() error {
	if d.w == nil {
		return nil
	}
	d.written = false
	if err := d.fs.commit(d.at, d.w); err != nil {
		return pathError("commit", d.path, err)
	}
	d.w.Close()
	d.w = nil
	if base, err := d.fs.Open(d.path, os.O_RDONLY); err == nil {
		d.base.Close()
		d.base = base
	}
	return nil
}

// Close throws away what is not committed; but a file that was made and never
// written to is empty on purpose.
func (d *draft) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.w != nil && d.empty() {
		err = d.commit()
	}
	if d.w != nil {
		d.w.Close()
	}
	return errors.Join(err, d.base.Close())
}

func (d *draft) empty() bool {
	size, _, err := d.w.stat()
	return err == nil && size == 0
}

func (d *draft) File() *os.File { return nil }
