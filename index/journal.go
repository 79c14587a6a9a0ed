package index

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Pair is a blob in a repository where some release has linked it, or needs
// it: see [DB.EverLinked].
type Pair struct {
	Repository string
	Digest     digest.Digest
}

// A journal keeps the pairs that came after those that somebody has copied
// elsewhere, so that a copy is brought up to date without reading them all.
// There is none until [DB.Follow].

// Follow has the journal kept from now on. What it had is forgotten: the caller
// copies all pairs next, with [DB.Pairs].
func (db *DB) Follow() error {
	db.followed.Store(true)
	db.settle()
	old, err := db.journal()
	if err != nil {
		return err
	}
	rs := records{put([]byte{keyJournal}, nil)}
	for _, p := range old {
		rs = append(rs, del(journalKey(p)))
	}
	return db.writer.wait(db.writer.enqueue(rs))
}

// settle returns when no change is under way that began before: all have been
// handed to the writer.
func (db *DB) settle() {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, r := range db.open {
		r.mu.Lock()
		r.mu.Unlock()
	}
}

// Pairs calls f with every pair.
func (db *DB) Pairs(f func(Pair) error) error {
	if err := db.writer.settle(); err != nil {
		return err
	}
	return db.scan([]byte{keyEver}, func(key, _ []byte) error {
		p, ok := parsePair(key[1:])
		if !ok {
			return nil
		}
		return f(p)
	})
}

// Journal lists the pairs that came since they were last forgotten.
func (db *DB) Journal() ([]Pair, error) {
	if err := db.writer.settle(); err != nil {
		return nil, err
	}
	return db.journal()
}

func (db *DB) journal() ([]Pair, error) {
	var all []Pair
	err := db.scan([]byte{keyJournal}, func(key, _ []byte) error {
		if p, ok := parsePair(key[1:]); ok {
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

// Forget takes pairs out of the journal, which are copied.
func (db *DB) Forget(pairs []Pair) error {
	if len(pairs) == 0 {
		return nil
	}
	var rs records
	for _, p := range pairs {
		rs = append(rs, del(journalKey(p)))
	}
	return db.writer.wait(db.writer.enqueue(rs))
}

// ever returns the records which say that some release has had a blob in a
// repository; in the journal goes what was not known.
func (db *DB) ever(repo string, d digest.Digest) records {
	rs := records{put(everKey(repo, d), nil)}
	if db.followed.Load() && !db.EverLinked(repo, d) {
		rs = append(rs, put(journalKey(Pair{repo, d}), nil))
	}
	return rs
}

// isFollowed says whether a journal is kept.
func (db *DB) isFollowed() (bool, error) {
	_, err := db.get([]byte{keyJournal})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func journalKey(p Pair) []byte {
	return []byte(string(keyJournal) + p.Repository + "\x00" + p.Digest.String())
}

func parsePair(key []byte) (Pair, bool) {
	repo, d, ok := strings.Cut(string(key), "\x00")
	return Pair{repo, digest.Digest(d)}, ok && fs.ValidPath(repo) && digest.Digest(d).Validate() == nil
}
