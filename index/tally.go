package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	badger "github.com/dgraph-io/badger/v4"
)

// A tally says how many records of each kind there must be: of a release, or
// of the whole index. It is written in the transaction that changes their
// number. Where the disk has rotted, Badger does not find keys, and says
// nothing; who counts what is found, and compares, notices.
type tally struct {
	// Records has the kinds' letters: those of [kindOf].
	Records map[string]int64 `json:"records"`
	// Changes counts the transactions, of the whole index only.
	Changes uint64 `json:"changes,omitempty"`
}

func newTally() *tally { return &tally{Records: make(map[string]int64)} }

// whole stands for the index in place of a release's name, which is not empty.
const whole = ""

func tallyKey(release string) []byte { return []byte(string(keyTally) + release) }

// kindOf says to which tallies a record counts, and as what: its release's, or
// the index's, or both. A key that is none of ours counts, too: it would be
// missed.
func kindOf(key []byte) (release, inRelease, inWhole string) {
	switch {
	case len(key) == 0 || key[0] == keyTally:
		return "", "", ""
	case key[0] == keyRelease && len(key) > 1:
		return string(key[1:]), string(keyRelease), string(keyRelease)
	case key[0] == keyIn:
		if name, rest, ok := bytes.Cut(key[1:], []byte{0}); ok && len(name) > 0 && len(rest) > 0 {
			return string(name), string(rest[:1]), ""
		}
	}
	return "", "", string(key[:1])
}

// add counts one record, or takes one away.
func (t *tally) add(kind string, n int64) {
	if t.Records[kind] += n; t.Records[kind] == 0 {
		delete(t.Records, kind)
	}
}

// tallies are those that a transaction changes.
type tallies struct {
	txn *badger.Txn
	all map[string]*tally
}

func newTallies(txn *badger.Txn) tallies { return tallies{txn, make(map[string]*tally)} }

// note counts a record that is about to be written.
func (ts tallies) note(r record) error {
	_, err := ts.txn.Get(r.key)
	there := err == nil
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		return err
	}
	if there == (r.value != nil) {
		return nil // put over another, or deleted what is not there
	}
	n := int64(1)
	if there {
		n = -1
	}
	return ts.count(r.key, n)
}

func (ts tallies) count(key []byte, n int64) error {
	release, inRelease, inWhole := kindOf(key)
	if release != "" {
		t, err := ts.of(release)
		if err != nil {
			return err
		}
		t.add(inRelease, n)
	}
	if inWhole != "" {
		t, err := ts.of(whole)
		if err != nil {
			return err
		}
		t.add(inWhole, n)
	}
	return nil
}

func (ts tallies) of(release string) (*tally, error) {
	if t, ok := ts.all[release]; ok {
		return t, nil
	}
	t, err := readTally(ts.txn, release)
	if errors.Is(err, errNoTally) {
		// A new release; or the tally has rotted. Then it is begun anew, does not
		// agree with what there is, and that is noticed.
		t, err = newTally(), nil
	}
	ts.all[release] = t
	return t, err
}

var errNoTally = errors.New("no count of the records")

func readTally(txn *badger.Txn, release string) (*tally, error) {
	item, err := txn.Get(tallyKey(release))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, errNoTally
	}
	if err != nil {
		return nil, err
	}
	t := newTally()
	err = item.Value(func(value []byte) error {
		if err := json.Unmarshal(value, t); err != nil {
			return fmt.Errorf("%w: %w", errNoTally, err)
		}
		return nil
	})
	return t, err
}

// write puts the tallies into the transaction. Of a release that has gone with
// all its records nothing is left.
func (ts tallies) write() error {
	t, err := ts.of(whole)
	if err != nil {
		return err
	}
	t.Changes++
	for release, t := range ts.all {
		if len(t.Records) == 0 && release != whole {
			if err := ts.txn.Delete(tallyKey(release)); err != nil {
				return err
			}
			continue
		}
		value, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if err := ts.txn.Set(tallyKey(release), value); err != nil {
			return err
		}
	}
	return nil
}

// recount counts all records, and writes the tallies anew. The index was changed
// at least so often.
func (db *DB) recount(changes uint64) (err error) {
	db.writer.serial.Lock()
	defer db.writer.serial.Unlock()
	defer db.writer.setUnsynced(true)
	defer guard(&err)()
	return db.badger.Update(func(txn *badger.Txn) error {
		ts := newTallies(txn)
		old, err := ts.of(whole)
		if err != nil {
			return err
		}
		ts.all[whole] = newTally()
		ts.all[whole].Changes = max(old.Changes, changes)
		err = scanIn(txn, nil, func(key, _ []byte) error {
			if release, _, _ := kindOf(key); release != "" && ts.all[release] == nil {
				ts.all[release] = newTally()
			}
			if key[0] == keyTally && len(key) > 1 && ts.all[string(key[1:])] == nil {
				ts.all[string(key[1:])] = newTally() // and is deleted, if nothing is found of it
			}
			return ts.count(key, 1)
		})
		if err != nil {
			return err
		}
		return ts.write()
	})
}

// parts cuts records into what fits into one transaction together with its
// tallies: Badger takes 2.4 MB and 26,000 keys with our options (15 % of a
// memtable, checkSize in its txn.go).
func (rs records) parts(f func(records) error) error {
	const maxBytes, maxRecords = 1 << 20, 2000
	for len(rs) > 0 {
		n, size := 0, 0
		for n < len(rs) && n < maxRecords && (n == 0 || size+rs[n].size() <= maxBytes) {
			size += rs[n].size()
			n++
		}
		for n < len(rs) && rs[n].joined {
			n++
		}
		if err := f(rs[:n]); err != nil {
			return err
		}
		rs = rs[n:]
	}
	return nil
}

func (r record) size() int { return len(r.key) + len(r.value) }
