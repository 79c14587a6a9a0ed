package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Begin returns a release that is not there yet. Its [Release.Enter], called
// once, makes it with all its images, or fails and it is not there; whoever
// wants more of it opens it then. Of two that are begun under one name, one is
// made, and the other is told fs.ErrExist. So is who begins a release that is
// there.
func (db *DB) Begin(name string) (*Release, error) {
	if _, err := db.vacate(name); err != nil {
		return nil, err
	}
	r := &Release{Info: Info{Name: name}, db: db, users: 1, begun: true}
	r.clear()
	return r, nil
}

// vacate says whether a release can be made under a name, and returns the
// records that remove what is left of one that was not made to the end.
func (db *DB) vacate(name string) (records, error) {
	if err := ValidRelease(name); err != nil {
		return nil, err
	}
	_, stands, err := db.record(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // there is nothing without the release's own record
	case err != nil:
		return nil, err
	case stands == removing:
		return nil, &releaseError{fmt.Sprintf("release %s is half removed; \"regfs release rm %s\" removes the rest", name, name), fs.ErrExist}
	case stands == renamed:
		return nil, halfRenamed(name)
	case stands == there:
		return nil, &releaseError{fmt.Sprintf("release %s exists already", name), fs.ErrExist}
	}
	var rs records
	err = db.scan(releasePrefix(name), func(key, _ []byte) error {
		rs = append(rs, del(slices.Clone(key)))
		return nil
	})
	return rs, err
}

// make writes a release that was begun. Its records may be too many for one
// transaction. So the release's own record comes first, and says that it is
// being made: such a release is not there, and belongs to nobody. It comes again
// at the end, and says so no more. What was left by one that was killed between
// the two is removed on the way.
func (r *Release) make(entries []*Entry) error {
	r.db.creating.Lock()
	defer r.db.creating.Unlock()
	remains, err := r.db.vacate(r.Name)
	if err != nil {
		return err
	}
	created := time.Now().UTC()
	first, err := json.Marshal(releaseRecord{Created: created, Making: true})
	if err != nil {
		return err
	}
	last, err := json.Marshal(releaseRecord{Created: created})
	if err != nil {
		return err
	}
	return r.durable(func(now time.Time) records {
		r.Created = created
		rs := append(records{put(releaseKey(r.Name), first)}, remains...)
		return append(append(rs, r.enter(entries, now)...), put(releaseKey(r.Name), last))
	})
}
