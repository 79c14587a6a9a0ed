package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Rename gives a release another name. Its records carry the name, so they are
// written under the new one while that release is being made (see
// [Release.Fork]); then both releases' own records are exchanged in one
// transaction. Then move moves what the release has elsewhere, and at last the old
// records go. Interrupted before the exchange, the release has its old name, and
// after it the new one; what is left to be done is for [DB.Tidy].
// One that somebody has open is EBUSY.
func (db *DB) Rename(old, name string, move func(old, name string) error) error {
	if err := errors.Join(ValidRelease(old), ValidRelease(name)); err != nil {
		return err
	}
	if err := db.beginMoving(old); err != nil {
		return err
	}
	defer db.endMoving(old)
	db.creating.Lock()
	defer db.creating.Unlock()
	if err := db.writer.settle(); err != nil {
		return err
	}
	info, err := db.release(old)
	if err != nil {
		return err
	}
	rs, err := db.vacate(name)
	if err != nil {
		return err
	}
	record := releaseRecord{Created: info.Created, Sealed: info.Document, Making: true}
	making, err := json.Marshal(record)
	if err != nil {
		return err
	}
	record.Making = false
	made, err := json.Marshal(record)
	if err != nil {
		return err
	}
	gone, err := json.Marshal(releaseRecord{Created: info.Created, Making: true, Renamed: name})
	if err != nil {
		return err
	}
	copied, err := db.copies(old, name)
	if err != nil {
		return err
	}
	rs = append(append(records{put(releaseKey(name), making)}, rs...), copied...)
	if err := db.writer.wait(db.writer.enqueue(rs)); err != nil {
		return err
	}
	exchange := records{put(releaseKey(name), made), put(releaseKey(old), gone)}
	exchange[1].joined = true
	if err := db.writer.wait(db.writer.enqueue(exchange)); err != nil {
		return err
	}
	db.nextGeneration(name)
	return db.finishRename(old, name, move)
}

func (db *DB) beginMoving(name string) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.open[name] != nil || db.moving[name] || db.removing[name] {
		return fmt.Errorf("it is in use: %w", syscall.EBUSY)
	}
	db.moving[name] = true
	return nil
}

func (db *DB) endMoving(name string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.moving, name)
}

// copies are a release's records under another name.
func (db *DB) copies(old, name string) (rs records, err error) {
	from, to := releasePrefix(old), releasePrefix(name)
	err = db.scan(from, func(key, value []byte) error {
		rs = append(rs, put(append(slices.Clone(to), key[len(from):]...), value))
		return nil
	})
	return rs, err
}

func (db *DB) finishRename(old, name string, move func(old, name string) error) error {
	if err := move(old, name); err != nil {
		return err
	}
	return db.erase(old)
}

// Tidy does what is left to be done when a process was killed: of releases that
// were being renamed, and of those that were being made, which are not there and
// leave nothing. Nobody may be at work on the index.
func (db *DB) Tidy(move func(old, name string) error) error {
	left := make(map[string]string)
	err := db.scan([]byte{keyRelease}, func(key, value []byte) error {
		var r releaseRecord
		if json.Unmarshal(value, &r) == nil && r.Making {
			left[string(key[1:])] = r.Renamed
		}
		return nil
	})
	for old, name := range left {
		if name == "" {
			err = errors.Join(err, db.erase(old))
		} else if _, there := db.release(name); there == nil {
			err = errors.Join(err, db.finishRename(old, name, move))
		} else {
			err = errors.Join(err, there)
		}
	}
	return err
}

// erase removes all records of a release that is not there.
func (db *DB) erase(name string) error {
	rs, err := db.removals(name)
	if err != nil {
		return err
	}
	return db.writer.wait(db.writer.enqueue(append(rs, del(releaseKey(name)))))
}

// removals are the records that remove all of a release's records but its own.
func (db *DB) removals(name string) (rs records, err error) {
	err = db.scan(releasePrefix(name), func(key, _ []byte) error {
		rs = append(rs, del(slices.Clone(key)))
		return nil
	})
	return rs, err
}
