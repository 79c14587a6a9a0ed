package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
)

// files are what a source consists of, under names with slashes, relative to
// its top, which is ".". Regular files only are read.
type files interface {
	// list returns what is in a directory, sorted.
	list(dir string) ([]entry, error)
	// size returns the size of a regular file; fs.ErrNotExist if there is none,
	// another error if it cannot be taken.
	size(name string) (int64, error)
	// read returns the content of a file that has at most so many bytes.
	read(name string, limit int64) ([]byte, error)
	// head returns the first bytes of a file, no more than so many.
	head(name string) ([]byte, error)
	// visit calls f for each of the files, for several at once or one after the
	// other. An error of f ends the visit.
	visit(ctx context.Context, names []string, workers int, f func(name string, c *content) error) error
	// faults are what is wrong with the source as a whole.
	faults() []fault
	close() error
}

type entry struct {
	name string
	kind kind
}

// A kind is what stands at a name.
type kind int

const (
	file kind = iota
	directory
	strange // a link out of the source, a device
)

// A fault is something that cannot be taken.
type fault struct {
	name string
	err  error
}

// A content is what a file holds. Its err is why it cannot be had.
type content struct {
	size int64
	err  error

	file   *os.File // nil where there is only r
	offset int64
	r      io.Reader
}

func (c *content) reader() io.Reader {
	if c.file != nil {
		return io.NewSectionReader(c.file, c.offset, c.size)
	}
	return c.r
}

// copyTo writes the content to an empty file: by sharing its blocks where the
// file system can, else by copying in the kernel, else through a buffer.
func (c *content) copyTo(to *os.File) error {
	if c.err != nil {
		return c.err
	}
	if c.file == nil {
		return checkCopied(io.CopyN(to, c.r, c.size))
	}
	if c.offset%cloneUnit == 0 && c.size > 0 && c.clone(to) {
		return nil
	}
	// A descriptor of our own: the position of the shared one is everybody's.
	from, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", c.file.Fd()))
	if err != nil {
		return checkCopied(io.Copy(to, c.reader()))
	}
	defer from.Close()
	if _, err := from.Seek(c.offset, io.SeekStart); err != nil {
		return err
	}
	return checkCopied(io.CopyN(to, from, c.size)) // copy_file_range
}

// checkCopied tells a source that is too short from a disk that is full.
func checkCopied(_ int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errShort
	}
	return err
}

var errShort = errors.New("it is cut short")

// cloneUnit is the alignment that a range must have to be shared: the block
// size of the file systems that can.
const cloneUnit = 4096

// clone shares the blocks of the content. The last block of a range within a
// file is shared whole, and cut off then.
func (c *content) clone(to *os.File) bool {
	length := uint64(c.size+cloneUnit-1) / cloneUnit * cloneUnit
	if info, err := c.file.Stat(); err != nil || uint64(c.offset)+length > uint64(info.Size()) {
		length = uint64(c.size) // up to the end of the file
	}
	r := unix.FileCloneRange{Src_fd: int64(c.file.Fd()), Src_offset: uint64(c.offset), Src_length: length}
	return unix.IoctlFileCloneRange(int(to.Fd()), &r) == nil && to.Truncate(c.size) == nil
}

// openFiles opens a directory, or an archive.
func openFiles(name string, ended func() error, progress func(n, of int64)) (files, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not stop us
	if err != nil {
		return nil, unwrap(err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, unwrap(err)
	}
	switch {
	case info.IsDir():
		f.Close()
		dir, err := beneath.Open(name)
		return &dirFiles{dir}, unwrap(err)
	case !info.Mode().IsRegular():
		f.Close()
		return nil, fmt.Errorf("not a file: an archive is read twice, so save it to a file first: %w", ErrFormat)
	}
	a, err := openArchive(f, info.Size(), ended, progress)
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

func unwrap(err error) error {
	if inner, ok := err.(*fs.PathError); ok {
		return inner.Err
	}
	return err
}

// dirFiles is a directory. Its owner may change it at any time.
type dirFiles struct{ dir *beneath.Dir }

var _ files = (*dirFiles)(nil)

func (d *dirFiles) list(dir string) ([]entry, error) {
	all, err := d.dir.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, len(all))
	for i, e := range all {
		entries[i] = entry{name: e.Name(), kind: strange}
		switch {
		case e.IsDir():
			entries[i].kind = directory
		case e.Type().IsRegular():
			entries[i].kind = file
		}
	}
	return entries, nil
}

func (d *dirFiles) size(name string) (int64, error) {
	stat, err := d.dir.Lstat(name)
	switch {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, explain(err)
	case stat.Mode&unix.S_IFMT == unix.S_IFLNK:
		return 0, errLink
	case !beneath.IsRegular(stat):
		return 0, beneath.ErrNotRegular
	}
	return stat.Size, nil
}

var errLink = errors.New("it is a symbolic link, and none is followed")

// explain says what the kernel says of a link on the way.
func explain(err error) error {
	if err == unix.ELOOP || err == unix.EXDEV {
		return errLink
	}
	return err
}

func (d *dirFiles) read(name string, limit int64) ([]byte, error) {
	c := d.open(name)
	if c.err != nil {
		return nil, c.err
	}
	defer c.file.Close()
	return readAll(c.file, limit)
}

func (d *dirFiles) head(name string) ([]byte, error) {
	c := d.open(name)
	if c.err != nil {
		return nil, c.err
	}
	defer c.file.Close()
	return io.ReadAll(io.LimitReader(c.file, maxHead))
}

// maxHead is enough to tell how something is compressed, or that it is a text.
const maxHead = 8

func (d *dirFiles) open(name string) *content {
	if _, err := d.size(name); err != nil {
		return &content{err: err}
	}
	f, err := d.dir.OpenRegular(name)
	if err != nil {
		return &content{err: explain(err)}
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return &content{err: err}
	}
	return &content{file: f, size: info.Size()}
}

// readAll reads a file to its end, if that is not too far.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errShort
	}
	return data, err
}

func (d *dirFiles) visit(ctx context.Context, names []string, workers int, f func(string, *content) error) error {
	return each(ctx, names, workers, func(name string) error {
		c := d.open(name)
		if c.file != nil {
			defer c.file.Close()
		}
		return f(name, c)
	})
}

// each calls f for all of a list, for some at once, until one fails.
func each(ctx context.Context, names []string, workers int, f func(name string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan string)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for name := range next {
				if err := f(name); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for _, name := range names {
		select {
		case next <- name:
		case <-ctx.Done():
		}
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}

func (d *dirFiles) faults() []fault { return nil }

func (d *dirFiles) close() error { return d.dir.Close() }

// under joins names; the top is left out.
func under(dir, name string) string { return path.Join(dir, name) }
