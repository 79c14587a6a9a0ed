package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// removedAtOnce bounds the records that go in one transaction.
const removedAtOnce = 1000

// RemoveRelease removes a release with all its records; clean removes what it
// has elsewhere, after it has ceased to be a release and before the last trace
// of it has gone. Interrupted at any point it is called again, with or without
// a restart between. One that somebody has open is [syscall.EBUSY].
func (db *DB) RemoveRelease(ctx context.Context, name string, clean func() error) error {
	if err := db.beginRemoving(name); err != nil {
		return fmt.Errorf("remove release %s: %w", name, err)
	}
	defer func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		delete(db.removing, name)
	}()
	if err := db.removeRelease(ctx, name, clean); err != nil {
		return fmt.Errorf("remove release %s: %w", name, err)
	}
	return nil
}

// CheckRemovable says what stands in the way of [DB.RemoveRelease].
func (db *DB) CheckRemovable(name string) error {
	_, _, err := db.record(name)
	if errors.Is(err, fs.ErrNotExist) {
		return noRelease(name)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.open[name] != nil {
		return fmt.Errorf("remove release %s: it is in use: %w", name, syscall.EBUSY)
	}
	return err
}

func (db *DB) beginRemoving(name string) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.open[name] != nil {
		return fmt.Errorf("it is in use: %w", syscall.EBUSY)
	}
	if db.removing[name] {
		return fmt.Errorf("it is being removed already: %w", syscall.EBUSY)
	}
	db.removing[name] = true
	return nil
}

func (db *DB) removeRelease(ctx context.Context, name string, clean func() error) error {
	if err := db.markRemoving(name); err != nil {
		return err
	}
	if err := clean(); err != nil {
		return err
	}
	for {
		rs, err := db.some(releasePrefix(name), removedAtOnce)
		if err != nil {
			return err
		}
		if len(rs) == 0 {
			return db.writer.wait(db.writer.remove(records{del(releaseKey(name))}))
		}
		if err := errors.Join(ctx.Err(), db.writer.wait(db.writer.remove(rs))); err != nil {
			return err
		}
	}
}

// markRemoving makes it no release any more. If one is being made under the
// name, that is done first.
func (db *DB) markRemoving(name string) error {
	db.creating.Lock()
	defer db.creating.Unlock()
	info, stands, err := db.record(name)
	if errors.Is(err, fs.ErrNotExist) {
		return noRelease(name)
	}
	if err == nil && stands == renamed {
		return halfRenamed(name)
	}
	if err != nil {
		return err
	}
	value, err := json.Marshal(releaseRecord{Created: info.Created, Removing: true})
	if err != nil {
		return err
	}
	return db.writer.wait(db.writer.remove(records{put(releaseKey(name), value)}))
}

// some returns the records that delete up to so many keys with a prefix.
func (db *DB) some(prefix []byte, most int) (records, error) {
	var rs records
	err := db.badger.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
		defer it.Close()
		for it.Rewind(); it.Valid() && len(rs) < most; it.Next() {
			rs = append(rs, del(it.Item().KeyCopy(nil)))
		}
		return nil
	})
	return rs, err
}

// An InUseError says that a release needs a blob which a mark has not found to
// be needed: the index on the disk is not what is in memory.
type InUseError struct {
	Release string
	Blob    digest.Digest
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("release %s needs blob %s, and its records do not say so", e.Release, e.Blob)
}

// RemoveBlobs removes all records that name blobs which no release needs, and
// what is known of them as manifests. It returns when that is durable; the
// blobs can go then, and not before. Nobody may link, upload or look for one of
// them from before the mark until they are gone: see cas.Store.Condemn.
func (db *DB) RemoveBlobs(m *Mark, blobs []digest.Digest) error {
	if err := db.checkUnneeded(blobs); err != nil {
		return fmt.Errorf("remove blobs: %w", err)
	}
	var rs records
	for _, d := range blobs {
		rs = append(rs, m.records(d)...)
	}
	if err := db.writer.wait(db.writer.remove(rs)); err != nil {
		return fmt.Errorf("remove blobs: %w", err)
	}
	// Now whoever opens a release reads that they are gone.
	for _, d := range blobs {
		db.learnt.Delete(d)
		db.shelf.remove(d)
		db.answered.Delete(d)
	}
	for _, r := range db.opened() {
		r.forget(blobs)
	}
	return nil
}

// records delete all that names a blob.
func (m *Mark) records(d digest.Digest) records {
	n, b := m.find(d)
	var rs records
	if b.known {
		rs = append(rs, del(factsKey(d)))
	}
	for _, c := range m.claims[n] {
		release := m.releases[c.release].Name
		if c.repo == noRepo {
			rs = append(rs, del(key(release, keyBlob, d.String())))
		} else {
			rs = append(rs, del(key(release, keyLayer, m.repos.all[c.repo], d.String())))
		}
	}
	for _, p := range m.pairs[n] {
		rs = append(rs, del(everKey(p.Repository, p.Digest)), del(journalKey(p)))
	}
	return rs
}

func (db *DB) opened() []*Release {
	db.mu.Lock()
	defer db.mu.Unlock()
	var all []*Release
	for _, r := range db.open {
		all = append(all, r)
	}
	return all
}

func (db *DB) checkUnneeded(blobs []digest.Digest) error {
	for _, r := range db.opened() {
		if d, needed := r.needsOneOf(blobs); needed {
			return &InUseError{r.Name, d}
		}
	}
	return nil
}

func (r *Release) needsOneOf(blobs []digest.Digest) (digest.Digest, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, d := range blobs {
		if b, ok := r.blobs.all[d]; ok && b.needs > 0 || d == r.sealed {
			return d, true
		}
	}
	return "", false
}

// forget takes blobs that are going from the memory of a release. What it has
// hidden it goes on to hide.
func (r *Release) forget(blobs []digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range blobs {
		if b, ok := r.blobs.all[d]; ok && b.mark == own {
			b.mark = unmarked
			r.blobs.tidy(d, b)
		}
		for _, p := range r.repos {
			if l, ok := p.layers[d]; ok && l.mark == own && l.needs == 0 {
				delete(p.layers, d)
			}
		}
	}
}
