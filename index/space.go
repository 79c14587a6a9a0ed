package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Badger writes through memory maps of files that are mostly holes. A page for
// which the disk has no room is then no error, but a SIGBUS, which ends the
// process. Four things keep that from happening:
//
//   - Below MinFree no change is taken: see checkSpace.
//   - The log to which each change goes is given its blocks when it is begun, so
//     that a disk that others fill in the middle of a change is none of its.
//   - Each change begins with a write of the ordinary kind, which fails like one.
//   - A ballast is kept, which is given up while Badger opens and closes the
//     index: both write files, and a server must come up, and down, on a disk
//     that is full.
//
// What is left is a table that is written in the background while others take
// the last of 64 MiB. The next process finds everything that was acknowledged.
const (
	// logSize is what a memtable's log grows to: the memtable and the largest
	// transaction (15 % of it).
	logSize = 20 << 20
	// ballastSize is for a log, a table of a whole memtable, and small files.
	ballastSize = 40 << 20
	// logShare is how much of a log may be counted on: Badger begins another one
	// when the memtable is full, 16 MiB, and the log of a change that has
	// just done so has up to 3 MiB that were counted before.
	logShare = 8 << 20
	// slack is left to others on a disk that is full: a server makes a socket and
	// a small file or two before it serves.
	slack = 4 << 20
	// openFree is what Badger needs to open an index at all.
	openFree = 1 << 20

	ballastFile = "ballast"
)

// A space is the room that an index has on its disk.
type space struct {
	dir   string
	log   string // the newest log
	ready bool   // it has its blocks
	whole bool   // the ballast is
	given int64  // of the ballast, so that Badger could open the index

	logged int64 // what was written to the log, at most

	probed *os.File // the ballast, nil where it cannot be opened
}

func (s *space) free() (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// probe finds out whether the disk takes writes at all: on one that has failed,
// or has become read-only, a page of a memory map is a SIGBUS.
func (s *space) probe() error {
	if s.probed == nil {
		return nil
	}
	if _, err := s.probed.WriteAt([]byte{0}, 0); err != nil {
		return &refusal{"write index", err}
	}
	return nil
}

// open is called when Badger has opened the index, with the log that it has
// begun.
func (s *space) open(log string) {
	s.takeRoom(log)
	s.probed, _ = openOwn(s.ballastName(), os.O_CREATE)
}

func (s *space) close() {
	if s.probed != nil {
		s.probed.Close()
	}
}

// makeRoom gives up the ballast if Badger needs it, and refuses to go on if that
// is not enough.
func (s *space) makeRoom() error {
	free, err := s.free()
	if errors.Is(err, syscall.ENOENT) {
		return nil // it is made first of all
	}
	if err != nil || free >= MinFree {
		return err
	}
	s.given, s.whole = s.ballast(), false
	// Not removed: XFS gives the blocks of a removed file back a little later.
	if f, err := openOwn(s.ballastName(), 0); err == nil {
		if err := errors.Join(f.Truncate(0), f.Close()); err != nil {
			return err
		}
	}
	if free, err = s.free(); err == nil && free < openFree {
		err = fmt.Errorf("%d KiB free, %d MiB needed: %w", free>>10, openFree>>20, syscall.ENOSPC)
	}
	return err
}

// takeRoom takes what the ballast and the newest log need, as far as it is to be had.
// It is called after each change. What a file system cannot do is left undone.
func (s *space) takeRoom(log string) {
	if log != "" && log != s.log {
		s.ready = allocate(log, 0, logSize) == nil
		s.log, s.logged = log, 0
	}
	if !s.whole {
		s.takeBallast()
	}
}

// holds says whether the log has blocks for a change of that size, and is not
// left for another one: such a change needs no room.
func (s *space) holds(size int64) bool { return s.ready && s.logged+size <= logShare }

// inLog is what records take in the log and in the memtable, at most: Badger's
// own heads and nodes, and the tallies that go with them.
func (rs records) inLog() (size int64) {
	for _, r := range rs {
		size += int64(r.size()) + 256
	}
	return size + 1024
}

// takeBallast takes what is above the low-water mark; and what was given up, too,
// if there is nothing above.
func (s *space) takeBallast() {
	free, err := s.free()
	if err != nil {
		return
	}
	had := s.ballast()
	room := max(int64(free)-MinFree, min(s.given, int64(free)-slack), 0)
	size := min(ballastSize, had+room)
	if size > had {
		_ = allocate(s.ballastName(), os.O_CREATE, size)
	}
	s.given, s.whole = 0, size == ballastSize
}

func (s *space) ballastName() string { return filepath.Join(s.dir, ballastFile) }

func (s *space) ballast() int64 {
	info, err := os.Lstat(s.ballastName())
	if err != nil {
		return 0
	}
	return info.Size()
}

// allocate gives a file its blocks up to a size. The content stays.
func allocate(name string, flags int, size int64) error {
	f, err := openOwn(name, flags)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close())
}

// openOwn opens a file of the index for writing, and not what a link leads to.
func openOwn(name string, flags int) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flags, 0o600)
}
