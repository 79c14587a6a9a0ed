package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A part is a file that is not whole yet, perhaps begun by a process that was
// killed.
type part struct {
	file *os.File
	name string // that it will have
	left int64  // bytes that the file has and that are not compared yet
	kept int64  // bytes that were found right
	read []byte // what they are compared by
}

// partName is where a file lies until it is whole.
func partName(name string) string {
	return filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".part")
}

// openPart opens the part of a file, or makes it. Two processes that write the
// same file would spoil it, so one waits for nobody and is refused.
func openPart(name string, fits func(*os.File, int64) error) (*part, error) {
	p := &part{name: name}
	var err error
	p.file, err = os.OpenFile(partName(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	var made bool
	if err = p.claim(); err == nil {
		made = p.left == 0
		if fits != nil {
			err = fits(p.file, p.left)
		}
	}
	if err != nil {
		if made { // what somebody left is still good for later
			err = errors.Join(err, os.Remove(p.file.Name()))
		}
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// claim makes sure that the file is ours alone: its name can be guessed by
// others where the directory is theirs too.
func (p *part) claim() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.file.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: p.file.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a file of our own; remove it: %w", p.file.Name(), fs.ErrExist)
	}
	err := unix.Flock(int(p.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is being written by another export: %w", p.name, unix.EBUSY)
	}
	// While we waited for the file, another may have finished and named it.
	var now unix.Stat_t
	if err := unix.Lstat(p.file.Name(), &now); err != nil || now.Ino != st.Ino || now.Dev != st.Dev {
		return fmt.Errorf("%s was written by another export this moment: %w", p.name, unix.EBUSY)
	}
	p.left = st.Size // where there are no locks, there is none
	return nil
}

// Plain returns the file when there is nothing left to compare, and nil until
// then.
func (p *part) Plain() *os.File {
	if p.left > 0 {
		return nil
	}
	return p.file
}

// Write writes, or finds that the bytes are there already.
func (p *part) Write(data []byte) (n int, err error) {
	if p.left > 0 {
		if n, err = p.compare(data); err != nil || n == len(data) {
			return n, err
		}
	}
	m, err := p.file.Write(data[n:])
	return n + m, err
}

// compare passes over bytes that the file has. At the first that are others,
// the file ends.
func (p *part) compare(data []byte) (int, error) {
	want := data[:min(int64(len(data)), p.left)]
	if cap(p.read) < len(want) {
		p.read = make([]byte, len(want))
	}
	got := p.read[:len(want)]
	if _, err := io.ReadFull(p.file, got); err != nil {
		return 0, err
	}
	if bytes.Equal(got, want) {
		p.left -= int64(len(want))
		p.kept += int64(len(want))
		return len(want), nil
	}
	p.left, p.read = 0, nil
	if err := p.file.Truncate(p.kept); err != nil {
		return 0, err
	}
	_, err := p.file.Seek(p.kept, io.SeekStart)
	return 0, err
}

// finish gives the file its name.
func (p *part) finish() error {
	err := p.sync()
	if err == nil {
		err = os.Rename(p.file.Name(), p.name)
	}
	return errors.Join(err, p.file.Close(), syncDir(p.name))
}

// sync makes the file whole: what an older one has behind its end is cut off.
func (p *part) sync() error {
	if p.left > 0 {
		if err := p.file.Truncate(p.kept); err != nil {
			return err
		}
	}
	err := p.file.Chmod(0o644)
	if err == nil {
		err = p.file.Sync()
	}
	return err
}

// giveUp removes the file, unless somebody will come back to it.
func (p *part) giveUp(err error, o Options) error {
	info, _ := p.file.Stat()
	if o.Interrupted != nil && o.Interrupted(err) && info != nil && info.Size() > 0 {
		return &Kept{errors.Join(err, p.file.Close()), p.file.Name(), info.Size()}
	}
	return errors.Join(err, os.Remove(p.file.Name()), p.file.Close())
}

// syncDir makes a file's name durable.
func syncDir(name string) error {
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, unix.EINVAL) { // a file system that cannot
		err = nil
	}
	return errors.Join(err, dir.Close())
}
