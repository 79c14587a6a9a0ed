package cas

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
)

// Adopt takes a file as the content of a blob, without copying it. The name is
// a path relative to the store's directory, outside the blobs and tmp. Only a
// regular file with no other name is taken, and no symlink on the way is
// followed; anything else stays where it was.
//
// Adopt does not know who else has the file open. If somebody may be writing
// to it, take a Clone.
func (s *Store) Adopt(name string) (*Writer, error) {
	w, err := s.adopt(name)
	if err != nil {
		return nil, failure("adopt", name, err)
	}
	return w, nil
}

func (s *Store) adopt(name string) (*Writer, error) {
	if err := checkForeign(name); err != nil {
		return nil, err
	}
	if err := s.checkAdoptable(name); err != nil {
		return nil, err
	}
	if err := s.makeTempDir(); err != nil {
		return nil, err
	}
	temp := newTempName()
	if err := s.dir.Symlink(name, temp+originSuffix); err != nil {
		return nil, err
	}
	if err := s.dir.Rename(name, temp, 0); err != nil {
		return nil, errors.Join(err, s.dir.Unlink(temp+originSuffix))
	}
	w, err := s.take(temp)
	if err != nil {
		return nil, errors.Join(err, s.dir.RenameNew(temp, name), s.dir.Unlink(temp+originSuffix))
	}
	return w, nil
}

// originSuffix is that of a symlink beside an adopted file, which says where
// the file comes from. If the process is killed before the commit, the next
// one gives the file back: it may be an upload that somebody resumes.
const originSuffix = ".from"

// giveBackAll returns what a process that was killed had adopted. What cannot
// be returned, because its name is taken, is left to be discarded.
func (s *Store) giveBackAll(names []string) error {
	for _, name := range names {
		temp, adopted := strings.CutSuffix(path.Join(tempDir, name), originSuffix)
		if !adopted {
			continue
		}
		origin, err := s.dir.Readlink(temp + originSuffix)
		if err != nil || checkForeign(origin) != nil {
			continue // not ours
		}
		err = s.dir.RenameNew(temp, origin)
		if err == nil {
			err = s.makeWritable(origin)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return failure("return", origin, err)
		}
	}
	return nil
}

// makeWritable undoes a blob's mode, if the file had got it already.
func (s *Store) makeWritable(name string) error {
	stat, err := s.dir.Lstat(name)
	if err != nil || stat.Mode&0o777 != blobMode {
		return err
	}
	return s.dir.Chmod(name, 0o644)
}

// take makes a Writer of a file that has been moved to tmp. What it was has to
// be looked at again: it may have been exchanged before the move. Nobody can
// exchange it now.
func (s *Store) take(temp string) (*Writer, error) {
	if err := s.checkAdoptable(temp); err != nil {
		return nil, err
	}
	file, err := s.dir.OpenRegular(temp)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Writer{store: s, name: temp, file: file, origin: info}, nil
}

// checkAdoptable refuses what is no file, and a file that would keep another
// path by which it can be written to.
func (s *Store) checkAdoptable(name string) error {
	stat, err := s.dir.Lstat(name)
	if err != nil {
		return err
	}
	if !beneath.IsRegular(stat) {
		return beneath.ErrNotRegular
	}
	if stat.Nlink != 1 {
		return fmt.Errorf("file has %d names: %w", stat.Nlink, fs.ErrInvalid)
	}
	return nil
}

// Return gives an adopted file back, to where it came from or to another name,
// as it was, and closes the Writer. If something has taken the name meanwhile,
// it is [fs.ErrExist], and the Writer can be returned elsewhere.
func (w *Writer) Return(name string) error {
	if err := w.giveBack(name); err != nil {
		return failure("return", name, err)
	}
	return nil
}

func (w *Writer) giveBack(name string) error {
	if w.closed {
		return fs.ErrClosed
	}
	if err := checkForeign(name); err != nil {
		return err
	}
	if w.origin == nil {
		return fmt.Errorf("file was not adopted: %w", fs.ErrInvalid)
	}
	if err := w.unseal(); err != nil {
		return err
	}
	if err := w.store.dir.RenameNew(w.name, name); err != nil {
		return err
	}
	w.moved = true
	return w.Close()
}

// unseal undoes seal, so that a user can go on with a file whose Commit has
// failed half-way.
func (w *Writer) unseal() error {
	if !w.sealed {
		return nil
	}
	if os.Geteuid() == 0 {
		if err := w.file.Chown(owner(w.origin)); err != nil {
			return err
		}
	}
	return w.file.Chmod(w.origin.Mode()) // last, as chown clears some bits
}

// Clone returns a Writer with a copy of the content, which nobody else can be
// writing to. Where the file system can share extents it costs no space. It is
// a snapshot only there: else a write meanwhile may be in it or not, in part,
// and Commit is what tells whether the copy is what it should be.
func (w *Writer) Clone() (*Writer, error) {
	clone, err := w.clone()
	if err != nil {
		return nil, failure("clone", w.name, err)
	}
	return clone, nil
}

func (w *Writer) clone() (*Writer, error) {
	if w.closed {
		return nil, fs.ErrClosed
	}
	// A second descriptor has a position of its own, at the beginning.
	content, err := w.store.dir.OpenRegular(w.name)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	clone, err := w.store.NewWriter()
	if err != nil {
		return nil, err
	}
	if err := copyFile(clone.file, content); err != nil {
		return nil, errors.Join(err, clone.Close())
	}
	return clone, nil
}

// Copy returns a Writer with a copy of a file that stays where it is. The name
// is as for Adopt, the copy as for Clone.
func (s *Store) Copy(name string) (*Writer, error) {
	w, err := s.copy(name)
	if err != nil {
		return nil, failure("copy", name, err)
	}
	return w, nil
}

func (s *Store) copy(name string) (*Writer, error) {
	if err := checkForeign(name); err != nil {
		return nil, err
	}
	content, err := s.dir.OpenRegular(name)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	w, err := s.NewWriter()
	if err != nil {
		return nil, err
	}
	if err := copyFile(w.file, content); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// copyFile copies by FICLONE, else by copy_file_range, which ReadFrom tries
// before it reads and writes.
func copyFile(to, from *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	if _, err := to.ReadFrom(from); err != nil {
		return err
	}
	_, err := to.Seek(0, io.SeekStart)
	return err
}
