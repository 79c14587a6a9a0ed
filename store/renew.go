package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/regfs/regfs/index"
)

// newIndexDir is where an index is made that is to replace the store's. One
// that was not finished is begun anew.
const newIndexDir = indexDir + ".new"

// Renew locks a store and opens it with a new, empty index, in place of one that
// may not even open. It becomes the store's by [Store.Replace]; until then the
// old one is, also after a crash. Read is called when nobody else can change the
// store any more, and says how many changes the new index is to count at least.
func Renew(dir string, read func() (changes uint64, err error), log *slog.Logger) (*Store, error) {
	return open(dir, log, func(s *Store) error {
		changes, err := read()
		if err != nil {
			return err
		}
		f, err := readFormat(dir)
		if err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(dir, newIndexDir)); err != nil {
			return fmt.Errorf("make index: %w", err)
		}
		s.Index, err = index.Create(filepath.Join(dir, newIndexDir), f.Index, changes, log)
		return err
	})
}

// Replace makes the new index the store's, and keeps the old one under another
// name, which it returns; empty if there was none.
func (s *Store) Replace(log *slog.Logger) (aside string, err error) {
	f, err := readFormat(s.Dir)
	if err != nil {
		return "", err
	}
	id := s.Index.ID()
	err = s.Index.Close()
	s.Index = nil
	if err != nil {
		return "", err
	}
	if f.Index == "" {
		f.Index = id
		if err := writeFormat(s.Dir, f); err != nil {
			return "", err
		}
	}
	aside = indexDir + "-" + time.Now().UTC().Format("20060102T150405.000000000Z")
	err = os.Rename(filepath.Join(s.Dir, indexDir), filepath.Join(s.Dir, aside))
	if errors.Is(err, fs.ErrNotExist) {
		aside, err = "", nil
	}
	if err == nil {
		err = os.Rename(filepath.Join(s.Dir, newIndexDir), filepath.Join(s.Dir, indexDir))
	}
	if err == nil {
		err = SyncDir(s.Dir)
	}
	if err != nil {
		return aside, fmt.Errorf("replace index: %w", err)
	}
	return aside, s.openIndex(log)
}
