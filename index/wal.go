package index

import (
	"errors"
	"fmt"
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
	dir    string
	number int
	file   *os.File
	syncs  atomic.Uint64

	// failed is why a sync has failed. The kernel tells of it once, and what was
	// not written then is a gap at which the next process stops reading; so
	// nothing may come after it.
	failed error
}

// openWAL finds the log that Badger has just begun.
func openWAL(dir string) (*wal, error) {
	numbers, err := logs(dir)
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("there is no log of a memtable: %w", fs.ErrNotExist)
	}
	l := &wal{dir: dir, number: numbers[len(numbers)-1]}
	if l.file, err = os.Open(logPath(dir, l.number)); err != nil {
		return nil, err
	}
	return l, l.syncName()
}

// logs returns the numbers of the memtables' logs in dir, the newest last.
func logs(dir string) (numbers []int, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".mem")
		if n, err := strconv.Atoi(name); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

func logPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%05d.mem", number))
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
	numbers, err := logs(l.dir)
	if err != nil {
		return err
	}
	begun := l.number
	for _, n := range numbers {
		if n <= begun {
			continue
		}
		next, err := os.Open(logPath(l.dir, n))
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
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (l *wal) close() error { return l.file.Close() }
