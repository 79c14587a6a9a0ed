package index

import (
	"errors"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// A Glance looks names up in releases without opening them: in their records,
// all of one moment. It is for finding out which of many releases to open. A
// record that the disk has lost it takes for one that was never there; who
// opens a release is told.
type Glance struct{ txn *badger.Txn }

// Glance calls f with a glance that is good until f returns, and sees all
// changes made so far.
func (db *DB) Glance(f func(Glance) error) error {
	// If a change cannot be written, its caller has been told.
	_ = db.writer.settle()
	return db.view(func(txn *badger.Txn) error { return f(Glance{txn}) })
}

// Tag returns what a tag points at in a release, empty if it is not there.
func (g Glance) Tag(release, repo, tag string) (d digest.Digest, err error) {
	err = g.look(key(release, keyTag, repo, tag), func(value []byte) error {
		_, rest, err := decodeTime(value)
		d = digest.Digest(rest)
		return err
	})
	return d, err
}

// Linked says whether a manifest is linked in a repository of a release.
func (g Glance) Linked(release, repo string, d digest.Digest) (linked bool, err error) {
	err = g.look(key(release, keyRevision, repo, d.String()), func([]byte) error { linked = true; return nil })
	return linked, err
}

func (g Glance) look(key []byte, f func(value []byte) error) error {
	item, err := g.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return item.Value(f)
}
