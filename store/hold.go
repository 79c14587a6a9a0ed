package store

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

// A Hold keeps blobs in a store that is open in no process of ours: a command
// that reads them, such as an export, has one. It is a file in the store's
// directory, locked as long as its process lives; whoever removes blobs asks
// [Store.Held] first. It needs no server, and survives one.
//
// A new hold is one of all blobs, until [Hold.Only] says which.
type Hold struct {
	dir  *beneath.Dir // of all holds
	file *os.File
	name string
}

// NewHold makes a hold. Why is what it is for, in one line.
func NewHold(dir, why string) (*Hold, error) {
	h, err := newHold(dir, why)
	if err != nil {
		return nil, fmt.Errorf("hold blobs: %w", err)
	}
	return h, nil
}

func newHold(store, why string) (*Hold, error) {
	dir, err := openHolds(store, true)
	if err != nil {
		return nil, err
	}
	h := &Hold{dir: dir, name: newHoldPrefix + rand.Text()}
	if h.file, err = dir.OpenFile(h.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		dir.Close()
		return nil, err
	}
	if err := h.show(why); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// openHolds opens the directory of the holds, and no other that a link leads to:
// in it, files are removed.
func openHolds(dir string, make bool) (*beneath.Dir, error) {
	store, err := beneath.Open(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if make {
		if err := store.MkdirAll(holds, 0o700); err != nil {
			return nil, &fs.PathError{Op: "make", Path: filepath.Join(dir, holds), Err: err}
		}
	}
	sub, err := store.Sub(holds)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, holds), Err: err}
	}
	return sub, nil
}

// newHoldPrefix is that of a hold which is not locked yet.
const newHoldPrefix = "new-"

// show locks the file and gives it the name by which it is a hold. One without
// a lock is a dead process's.
func (h *Hold) show(why string) error {
	if err := syscall.Flock(int(h.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(h.file, why); err != nil {
		return err
	}
	name := strings.TrimPrefix(h.name, newHoldPrefix)
	if err := h.dir.Rename(h.name, name, 0); err != nil {
		return err
	}
	h.name = name
	return nil
}

// holdComplete is the last line of a hold that says which blobs it is of.
const holdComplete = "."

// Only says which blobs the hold is of: those, and no others.
func (h *Hold) Only(blobs []digest.Digest) error {
	w := bufio.NewWriter(h.file)
	for _, d := range blobs {
		fmt.Fprintln(w, d)
	}
	fmt.Fprintln(w, holdComplete)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("hold blobs: %w", err)
	}
	return nil
}

// Close ends the hold.
func (h *Hold) Close() error {
	return errors.Join(h.dir.Unlink(h.name), h.file.Close(), h.dir.Close())
}

// A Held is a hold of another process.
type Held struct {
	Why   string
	All   bool
	Blobs []digest.Digest
}

// Held lists the holds there are, and removes those of processes that died.
func (s *Store) Held() ([]Held, error) {
	all, err := held(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("holds: %w", err)
	}
	return all, nil
}

func held(store string) (all []Held, err error) {
	dir, err := openHolds(store, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newHoldPrefix) && isYoung(dir, e.Name()) {
			continue // nobody goes by it yet
		}
		held, live, err := readHold(dir, e.Name())
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: filepath.Join(store, holds, e.Name()), Err: err}
		}
		if live {
			all = append(all, held)
		}
	}
	return all, nil
}

func isYoung(dir *beneath.Dir, name string) bool {
	stat, err := dir.Lstat(name)
	return err != nil || time.Since(time.Unix(stat.Mtim.Unix())) < time.Minute
}

// readHold reads a hold, if it is one: what is no file is nobody's.
func readHold(dir *beneath.Dir, name string) (held Held, live bool, err error) {
	file, err := dir.OpenRegular(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, beneath.ErrNotRegular) {
		return Held{}, false, nil // or it has just ended
	}
	if err != nil {
		return Held{}, false, err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return Held{}, false, ignoreMissing(dir.Unlink(name))
	}
	held.All = true
	lines := bufio.NewScanner(file)
	for first := true; lines.Scan(); first = false {
		switch {
		case first:
			held.Why = lines.Text()
		case lines.Text() == holdComplete:
			held.All = false
		default:
			held.Blobs = append(held.Blobs, digest.Digest(lines.Text()))
		}
	}
	return held, true, lines.Err()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
