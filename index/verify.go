package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// Damage is something that is wrong with the index.
type Damage struct {
	Release string `json:"release,omitempty"` // empty if it is no single one's
	Problem string `json:"problem"`
}

func (d Damage) String() string {
	if d.Release == "" {
		return d.Problem
	}
	return "release " + d.Release + ": " + d.Problem
}

// ErrDamaged is what every [DamagedError] is.
var ErrDamaged = errors.New("the index is damaged")

// A DamagedError says that the index is not what was written to it. Its message
// is bounded, the list is not.
type DamagedError struct {
	Damage []Damage
	// Closed says that the index cannot be opened.
	Closed bool
}

func (e *DamagedError) Error() string {
	const most = 5
	var parts []string
	for _, d := range e.Damage[:min(len(e.Damage), most)] {
		parts = append(parts, d.String())
	}
	if more := len(e.Damage) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	remedy := "see \"regfs fsck\""
	if e.Closed {
		remedy = "\"regfs fsck --rebuild-index\" makes a new one"
	}
	return "the index is damaged (" + remedy + "): " + strings.Join(parts, "; ")
}

func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Verify reads the whole index as it is on the disk, and says what is wrong
// with it in a [DamagedError]: blocks that are not what Badger wrote, records
// that nobody can read or that nobody writes, and records that are not there
// though they were counted. What it reads is of one moment; changes may go on.
//
// Not seen is what Badger has thrown away without a word with all that came
// after it, the end of its log: the index is then what it was a while ago, and
// as consistent as it was.
func (db *DB) Verify(ctx context.Context) error {
	v := verification{db: db, ctx: ctx, found: map[string]*tally{whole: newTally()}}
	v.checksums()
	if err := db.view(v.scan); err != nil {
		var damaged *DamagedError
		if !errors.As(err, &damaged) {
			return fmt.Errorf("verify index: %w", err)
		}
		v.damage = append(v.damage, damaged.Damage...)
	}
	if len(v.damage) > 0 {
		return &DamagedError{Damage: v.damage}
	}
	return nil
}

type verification struct {
	db     *DB
	ctx    context.Context
	seen   int
	found  map[string]*tally
	named  map[string]int          // problems of a release that were listed
	bad    func(key, value []byte) // called with each record that cannot be read
	damage []Damage
}

// maxProblems is how many single records of a release are listed.
const maxProblems = 20

func (v *verification) report(release, format string, args ...any) {
	v.damage = append(v.damage, Damage{release, fmt.Sprintf(format, args...)})
}

func (v *verification) record(release string, key, value []byte, err error) {
	if v.bad != nil {
		v.bad(key, value)
		release, inRelease, inWhole := kindOf(key)
		v.tally(release, inRelease, -1)
		v.tally(whole, inWhole, -1)
	}
	if v.named == nil {
		v.named = make(map[string]int)
	}
	switch v.named[release]++; {
	case v.named[release] < maxProblems:
		v.report(release, "record %.200q: %v", key, err)
	case v.named[release] == maxProblems:
		v.report(release, "and more records that cannot be read")
	}
}

// checksums has Badger read all blocks of all tables. Where one is damaged, it
// means to return an error, and panics on the way.
func (v *verification) checksums() {
	err := func() (err error) {
		defer guard(&err)()
		return v.db.badger.VerifyChecksum()
	}()
	var damaged *DamagedError
	switch {
	case err == nil:
	case errors.As(err, &damaged):
		v.report(whole, "a table's block is not what was written: %s", damaged.Damage[0].Problem)
	default:
		v.report(whole, "a table's block is not what was written: %v", err)
	}
}

func (v *verification) scan(txn *badger.Txn) error {
	var r *Release // of which the records at hand are
	err := scanIn(txn, nil, func(key, value []byte) error {
		if v.seen%1024 == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		v.seen++
		release, inRelease, inWhole := kindOf(key)
		v.tally(release, inRelease, 1)
		v.tally(whole, inWhole, 1)
		if inRelease != "" && inWhole == "" {
			if r == nil || r.Name != release {
				r = &Release{Info: Info{Name: release}, db: v.db}
				r.clear()
			}
			if err := r.loadRecord(string(key[len(release)+2:]), value); err != nil {
				v.record(release, key, value, err)
			}
			return nil
		}
		if err := checkOther(key, value); err != nil {
			v.record(release, key, value, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.compare(txn)
}

func (v *verification) tally(release, kind string, n int64) {
	if kind == "" {
		return
	}
	if v.found[release] == nil {
		v.found[release] = newTally()
	}
	v.found[release].add(kind, n)
}

// compare holds what was found against what was counted, also of releases of
// which nothing was found.
func (v *verification) compare(txn *badger.Txn) error {
	err := scanIn(txn, []byte{keyTally}, func(key, _ []byte) error {
		if name := string(key[1:]); v.found[name] == nil {
			v.found[name] = newTally()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, release := range slices.Sorted(maps.Keys(v.found)) {
		var damaged *DamagedError
		err := checkTally(txn, release, v.found[release])
		if err != nil && !errors.As(err, &damaged) {
			return err
		}
		if err != nil {
			v.damage = append(v.damage, damaged.Damage...)
		}
		if release != whole && v.found[release].Records[string(keyRelease)] == 0 && len(v.found[release].Records) > 0 {
			v.report(release, "records of a release that there is not")
		}
	}
	return nil
}

// checkTally says whether what was found is what there must be.
func checkTally(txn *badger.Txn, release string, found *tally) error {
	want, err := readTally(txn, release)
	if errors.Is(err, errNoTally) {
		return &DamagedError{Damage: []Damage{{release, err.Error()}}}
	}
	if err != nil {
		return err
	}
	var problems []string
	kinds := maps.Clone(want.Records)
	maps.Copy(kinds, found.Records)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if is, must := found.Records[kind], want.Records[kind]; is != must {
			problems = append(problems, fmt.Sprintf("%d %s where there must be %d", is, kindName(kind), must))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return &DamagedError{Damage: []Damage{{release, strings.Join(problems, ", ")}}}
}

func kindName(kind string) string {
	name, ok := map[string]string{
		string(keyRelease): "releases", string(keyFacts): "facts of manifests", string(keyEver): "pairs of repository and blob",
		string(keyJournal): "journal entries", string(keyStore): "IDs", string(keyLayer): "layer links", string(keyRevision): "manifests",
		string(keyTag): "tags", string(keyTagIndex): "entries of tags' history", string(keyBlob): "blobs", string(keyDir): "directories",
	}[kind]
	if !ok {
		return fmt.Sprintf("records of the kind %q", kind)
	}
	return name
}

func checkRelease(value []byte) error {
	var r releaseRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return err
	}
	if r.Renamed != "" {
		return ValidRelease(r.Renamed)
	}
	if r.Sealed == "" {
		return nil
	}
	return r.Sealed.Validate()
}

// checkOther reads a record that is no release's own, or the release's itself.
func checkOther(key, value []byte) error {
	rest := string(key[1:])
	switch key[0] {
	case keyRelease:
		return errors.Join(ValidRelease(rest), checkRelease(value))
	case keyFacts:
		_, err := decodeFacts(value)
		return errors.Join(digest.Digest(rest).Validate(), err)
	case keyJournal, keyEver:
		if _, ok := parsePair(key[1:]); !ok && !(key[0] == keyJournal && rest == "") {
			return errors.New("no repository and digest")
		}
		return nil
	case keyTally:
		return json.Unmarshal(value, newTally())
	case keyStore:
		return nil
	}
	return errors.New("a key that is none of regfs's")
}
