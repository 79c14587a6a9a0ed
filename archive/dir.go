package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
)

// WriteDir writes the archive as a tree into a directory, which exists and is
// empty, and sees to it that it is on the disk. Modes and times are those that
// the tar has, less the umask.
//
// Where the file system can, a file shares its blocks with the store's, and
// whoever writes to one does not change the other. It is never a hard link to
// the store: root does not heed its mode, and a registry writes in place.
func (a Archive) WriteDir(ctx context.Context, dir string, blobs Opener, o Options) error {
	root, err := beneath.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &dirWriter{root: root, blobs: blobs, options: o}
	made := make(map[string]bool)
	for i := range a {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for _, name := range newDirs(made, a[i].Path) {
			if err := root.Mkdir(path.Clean(name), dirMode); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := w.write(ctx, &a[i]); err != nil {
			return err
		}
	}
	return root.SyncAll()
}

// Bytes is how much WriteDir writes, without what the file system adds.
func (a Archive) Bytes() (n int64) {
	for _, m := range a {
		n += m.Size
	}
	return n
}

type dirWriter struct {
	root    *beneath.Dir
	blobs   Opener
	options Options
	buffer  []byte // of the file before
}

func (w *dirWriter) write(ctx context.Context, m *Member) error {
	if m.Same != "" {
		if err := w.root.Link(m.Same, m.Path); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		return nil
	}
	var source *source
	if m.Blob != "" {
		var err error
		if source, err = openMember(w.blobs, m); err != nil {
			return &BlobError{*m, cause(err)}
		}
		defer source.Close()
	}
	file, err := w.root.OpenFile(m.Path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Path, err)
	}
	err = w.fill(ctx, file, source, m)
	if err = errors.Join(err, file.Close()); err == nil {
		err = w.root.Utimes(m.Path, &ModTime, &ModTime)
	}
	var at *BlobError
	if err != nil && !errors.As(err, &at) {
		err = fmt.Errorf("%s: %w", m.Path, cause(err))
	}
	return err
}

func (w *dirWriter) fill(ctx context.Context, file *os.File, source *source, m *Member) error {
	out := newOutputWith(file, w.options.Progress, w.buffer)
	defer func() { w.buffer = out.buffer[:0] }()
	if source == nil {
		if err := out.writeText(m.Text); err != nil {
			return err
		}
		return out.flush()
	}
	err := source.copyTo(ctx, out, w.options.Verify)
	if err == nil {
		err = out.flush()
	}
	if err != nil {
		return &BlobError{*m, cause(err)}
	}
	return nil
}
