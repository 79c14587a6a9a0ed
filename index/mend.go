package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// A Mending is what [DB.Mend] has done.
type Mending struct {
	Dropped  []Raw    // records that nobody could read
	Revived  []string // releases of which only the record itself was missing
	Derived  int      // pairs of repository and blob that follow from the releases
	Recounts bool     // the counts were wrong
}

// A Raw record is one that cannot be read.
type Raw struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// Mend drops the records that nobody can read, derives what follows from
// others, and counts what there is. What is missing stays missing: after this
// nobody can tell. Where the tables themselves are damaged it does nothing and
// says so, since nobody knows what else they hide.
func (db *DB) Mend(ctx context.Context) (m Mending, err error) {
	v := verification{db: db, ctx: ctx, found: map[string]*tally{whole: newTally()}}
	if v.checksums(); len(v.damage) > 0 {
		return m, fmt.Errorf("the index's tables are damaged; \"regfs fsck --rebuild-index\" makes a new one: %w", &DamagedError{Damage: v.damage})
	}
	v.bad = func(key, value []byte) {
		m.Dropped = append(m.Dropped, Raw{append([]byte{}, key...), append([]byte{}, value...)})
	}
	if err := db.view(v.scan); err != nil {
		return m, fmt.Errorf("mend index: %w", err)
	}
	m.Recounts = len(v.damage) > 0
	if err := db.drop(m.Dropped); err != nil {
		return m, fmt.Errorf("mend index: %w", err)
	}
	if m.Revived, err = db.revive(v.found); err != nil {
		return m, fmt.Errorf("mend index: %w", err)
	}
	if err := db.recount(0); err != nil {
		return m, fmt.Errorf("mend index: %w", err)
	}
	m.Derived, err = db.derive(ctx)
	return m, err
}

func (db *DB) drop(all []Raw) error {
	var rs records
	for _, r := range all {
		rs = append(rs, del(r.Key))
	}
	return db.writer.wait(db.writer.enqueue(rs))
}

// revive gives those releases a record again that have others.
func (db *DB) revive(found map[string]*tally) (names []string, err error) {
	for name, t := range found {
		if name == whole || t.Records[string(keyRelease)] > 0 || len(t.Records) == 0 || ValidRelease(name) != nil {
			continue
		}
		value, err := json.Marshal(releaseRecord{Created: time.Now().UTC()})
		if err != nil {
			return nil, err
		}
		if err := db.writer.wait(db.writer.enqueue(records{put(releaseKey(name), value)})); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// derive enters the pairs that are missing, of all releases that can be opened.
func (db *DB) derive(ctx context.Context) (n int, err error) {
	all, err := db.Releases()
	if err != nil {
		return 0, err
	}
	for _, info := range all {
		r, err := db.Open(info.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return n, err
		}
		rs := r.missingPairs()
		r.Close()
		n += len(rs)
		if err := errors.Join(ctx.Err(), db.writer.wait(db.writer.enqueue(rs))); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (r *Release) missingPairs() (rs records) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for repo, p := range r.repos {
		for d, l := range p.layers {
			if l.listed() && !r.db.EverLinked(repo, d) {
				rs = append(rs, put(everKey(repo, d), nil))
			}
		}
	}
	return rs
}
