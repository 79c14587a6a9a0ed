package index

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	badger "github.com/dgraph-io/badger/v4"
)

// An index has an ID, by which a store knows its own: Badger opens any
// directory of its files, and makes a new database where there is none.

// OpenKnown opens the index in dir, which must be there and have that ID. Where
// id is empty it is Open.
func OpenKnown(dir, id string, log *slog.Logger) (*DB, error) {
	if id != "" && !exists(dir) {
		return nil, fmt.Errorf("open index %s: %w", dir, broken("it is missing"))
	}
	return open(dir, log, func(db *DB) error {
		if id == "" {
			return db.identify(rand.Text(), 0)
		}
		return db.recognize(id)
	})
}

// Create makes a new index in dir, with an ID, or one that it makes up. It says
// that it was changed so often already, so that it is not older than the one
// that it replaces.
func Create(dir, id string, changes uint64, log *slog.Logger) (*DB, error) {
	if exists(dir) {
		return nil, fmt.Errorf("make index %s: %w", dir, fs.ErrExist)
	}
	if id == "" {
		id = rand.Text()
	}
	return open(dir, log, func(db *DB) error { return db.identify(id, changes) })
}

// ID returns the index's ID.
func (db *DB) ID() string { return db.id }

func exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, badger.ManifestFilename))
	return err == nil
}

// recognize refuses an index that is not the one that is expected.
func (db *DB) recognize(id string) error {
	value, err := db.get([]byte{keyStore})
	if errors.Is(err, fs.ErrNotExist) {
		return broken("it is not this store's, or was begun anew")
	}
	if err == nil && string(value) != id {
		return broken("it is another store's")
	}
	db.id = id
	return err
}

// identify gives an index an ID that has none, and counts its records if it is
// older than its counts, too.
func (db *DB) identify(id string, changes uint64) error {
	value, err := db.get([]byte{keyStore})
	if err == nil {
		db.id = string(value)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := db.get(tallyKey(whole)); errors.Is(err, fs.ErrNotExist) {
		if err := db.recount(changes); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	db.id = id
	return db.writer.wait(db.writer.enqueue(records{put([]byte{keyStore}, []byte(id))}))
}
