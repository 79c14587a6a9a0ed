package index

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// A wal is the log of Badger's memtable, to which a commit has written when it
// returns; syncing it is ours. Badger's own sync would also sync a value log to
// which nothing is ever written, and that is a second flush of the disk's cache
// for each commit.
//
// Badger writes by a memory map and starts another log when a memtable is full,
// the number of which is one more. A full one was synced by the commits that
// filled it, and goes when its table is on the disk.
type wal struct {
	dir    *os.File // kept open: whoever has no descriptor left can still sync
	number int
	file   *os.File
	syncs  atomic.Uint64

	// failed is why a sync has failed. The kernel tells of it once, and what was
	// not written then is a gap at which the next process stops reading; so
	// nothing may come after it.
	failed error
}

// openWAL finds the log that Badger has just begun.
func openWAL(name string) (*wal, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	l := &wal{dir: dir}
	numbers, err := l.numbers()
	if err == nil && len(numbers) == 0 {
		err = fmt.Errorf("there is no log of a memtable: %w", fs.ErrNotExist)
	}
	if err == nil {
		l.number = numbers[len(numbers)-1]
		l.file, err = os.Open(l.path(l.number))
	}
	if err == nil {
		err = l.syncName()
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// numbers returns those of the logs there are, the newest last.
func (l *wal) numbers() (all []int, err error) {
	if _, err := l.dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	names, err := l.dir.Readdirnames(-1)
	for _, name := range names {
		name, ok := strings.CutSuffix(name, ".mem")
		if n, err := strconv.Atoi(name); ok && err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, err
}

func (l *wal) path(number int) string {
	return filepath.Join(l.dir.Name(), fmt.Sprintf("%05d.mem", number))
}

// newest is the log to which Badger writes; empty if that cannot be found out.
func (l *wal) newest() string {
	numbers, err := l.numbers()
	if err != nil || len(numbers) == 0 {
		return ""
	}
	return l.path(numbers[len(numbers)-1])
}

// sync makes all commits durable that have returned. None may be under way.
func (l *wal) sync() error {
	if l.failed == nil {
		l.failed = l.syncAll()
	}
	return l.failed
}

// syncAll syncs the log, and those that were begun since. One commit can fill
// several, and one that is gone again has its table on the disk.
func (l *wal) syncAll() error {
	if err := l.syncFile(); err != nil {
		return err
	}
	numbers, err := l.numbers()
	if err != nil {
		return err
	}
	begun := l.number
	for _, n := range numbers {
		if n <= begun {
			continue
		}
		next, err := os.Open(l.path(n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		l.file.Close()
		l.file, l.number = next, n
		if err := l.syncFile(); err != nil {
			return err
		}
	}
	if l.number == begun {
		return nil
	}
	return l.syncName()
}

func (l *wal) syncFile() error {
	l.syncs.Add(1)
	return l.file.Sync()
}

func (l *wal) syncName() error {
	l.syncs.Add(1)
	return l.dir.Sync()
}

func (l *wal) close() error { return errors.Join(l.file.Close(), l.dir.Close()) }
