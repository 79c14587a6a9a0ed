package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Hold keeps blobs in a store that is open in no process of ours: a command
// that reads them, such as an export, has one. It is a file in the store's
// directory, locked as long as its process lives; whoever removes blobs asks
// [Store.Held] first. It needs no server, and survives one.
//
// A new hold is one of all blobs, until [Hold.Only] says which.
type Hold struct {
	file *os.File
	name string
}

// NewHold makes a hold. Why is what it is for, in one line.
func NewHold(dir, why string) (*Hold, error) {
	h, err := newHold(filepath.Join(dir, holds), why)
	if err != nil {
		return nil, fmt.Errorf("hold blobs: %w", err)
	}
	return h, nil
}

func newHold(dir, why string) (*Hold, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	file, err := os.CreateTemp(dir, newHoldPrefix)
	if err != nil {
		return nil, err
	}
	h := &Hold{file: file, name: file.Name()}
	if err := h.show(why); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
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
	dir, base := filepath.Split(h.name)
	name := filepath.Join(dir, strings.TrimPrefix(base, newHoldPrefix))
	if err := os.Rename(h.name, name); err != nil {
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
func (h *Hold) Close() error { return errors.Join(os.Remove(h.name), h.file.Close()) }

// A Held is a hold of another process.
type Held struct {
	Why   string
	All   bool
	Blobs []digest.Digest
}

// Held lists the holds there are, and removes those of processes that died.
func (s *Store) Held() ([]Held, error) {
	dir := filepath.Join(s.Dir, holds)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("holds: %w", err)
	}
	var all []Held
	for _, e := range entries {
		if info, err := e.Info(); strings.HasPrefix(e.Name(), newHoldPrefix) && (err != nil || time.Since(info.ModTime()) < time.Minute) {
			continue // nobody goes by it yet
		}
		held, live, err := readHold(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("holds: %w", err)
		}
		if live {
			all = append(all, held)
		}
	}
	return all, nil
}

func readHold(name string) (held Held, live bool, err error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Held{}, false, nil // it has just ended
	}
	if err != nil {
		return Held{}, false, err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return Held{}, false, ignoreMissing(os.Remove(name))
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
