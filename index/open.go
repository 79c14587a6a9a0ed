package index

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// openBadger opens the database, if Badger can be trusted with it. It opens
// tables in goroutines of its own, where one that is cut short is a panic that
// nobody can catch, and one whose own index is damaged is passed over without a
// word; and it deletes all tables if its list of them is missing.
func openBadger(dir string) (b *badger.DB, err error) {
	if err := checkTables(dir); err != nil {
		return nil, err
	}
	if err := removeUnbegun(dir); err != nil {
		return nil, err
	}
	if b, err = guarded(dir); err != nil {
		err = judge(err)
	}
	return b, err
}

// judge tells an index that is damaged from a disk that does not do what it
// should, and from an index that somebody else has open.
func judge(err error) error {
	if damaged := new(DamagedError); errors.As(err, &damaged) {
		damaged.Closed = true
		return err
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) && errno != syscall.EINVAL || strings.Contains(err.Error(), "directory lock") {
		return err
	}
	return broken("%v", err)
}

func guarded(dir string) (b *badger.DB, err error) {
	defer guard(&err)()
	return badger.Open(badgerOptions(dir))
}

// removeUnbegun removes the log files that a process which was killed has made
// and not yet given their size. Badger takes them for new ones, which it does
// not expect there, and does not open.
func removeUnbegun(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		files, _ := fs.Glob(os.DirFS(dir), pattern) // errs on a bad pattern only
		for _, name := range files {
			name = filepath.Join(dir, name)
			stat, err := os.Lstat(name)
			if err == nil && stat.Mode().IsRegular() && stat.Size() == 0 {
				err = os.Remove(name)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTables looks at each table that Badger would open.
func checkTables(dir string) error {
	list, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return checkEmpty(dir)
	}
	if err != nil {
		return err
	}
	defer list.Close()
	manifest, _, err := badger.ReplayManifestFile(list, 0, badgerOptions(dir))
	if err != nil {
		return broken("%s: %v", badger.ManifestFilename, err)
	}
	for _, id := range slices.Sorted(maps.Keys(manifest.Tables)) {
		name := table.NewFilename(id, dir)
		if err := checkTable(name, manifest.Tables[id]); err != nil {
			return broken("%s: %v", filepath.Base(name), err)
		}
	}
	return nil
}

// checkEmpty says whether a directory may be made an index.
func checkEmpty(dir string) error {
	for _, pattern := range []string{"*.sst", "*.mem"} {
		if files, _ := filepath.Glob(filepath.Join(dir, pattern)); len(files) > 0 {
			return broken("%s is missing", badger.ManifestFilename)
		}
	}
	return nil
}

// checkTable opens a table as Badger does, where a panic can be caught.
func checkTable(name string, m badger.TableManifest) (err error) {
	stat, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the file is missing")
	case err != nil:
		return err
	case stat.Size() == 0:
		return errors.New("the file is empty")
	}
	defer func() {
		if recover() != nil {
			err = errors.New("the file is cut short, or is no table")
		}
	}()
	file, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	options := badgerOptions("")
	_, err = table.OpenTable(file, table.Options{
		ReadOnly: true, TableSize: uint64(options.BaseTableSize), BlockSize: options.BlockSize, Compression: m.Compression,
	})
	if err != nil {
		return err // and the file is closed
	}
	return file.Close(-1)
}

func broken(format string, args ...any) error {
	return &DamagedError{Damage: []Damage{{Problem: fmt.Sprintf(format, args...)}}, Closed: true}
}
