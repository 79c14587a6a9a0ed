package index

import (
	"errors"
	"sync"
	"time"
)

// ErrStuck: a change has found no end. Badger waits for room in memory as long
// as it cannot write a table, and tries that for ever.
var ErrStuck = errors.New("the index is stuck: a change has not come to an end for a minute")

// patience is how long a change may take, on a disk that others keep busy too.
const patience = time.Minute

// A breakage is the first failure after which the index is to be opened anew by
// another process. Badger cannot be trusted after an error of the disk: what was
// to be written may be in its memory and not in its log, and whatever follows
// in the log would be lost with it.
type breakage struct {
	once sync.Once
	why  chan error // has the failure, once
}

func newBreakage() *breakage { return &breakage{why: make(chan error, 1)} }

// note tells a failure from what another process would not do better: a change
// that was refused before Badger saw it breaks nothing, and damage stays.
func (b *breakage) note(err error) {
	var refused *refusal
	if err == nil || errors.As(err, &refused) || errors.Is(err, ErrDamaged) {
		return
	}
	b.once.Do(func() { b.why <- err })
}

// watch notes that a change is stuck, unless stop is called in time.
func (b *breakage) watch() (stop func() bool) {
	return time.AfterFunc(patience, func() { b.note(ErrStuck) }).Stop
}

// Broken gives the failure, once, after which this process should end and
// another one open the index. Until then reading works, and changes may fail.
func (db *DB) Broken() <-chan error { return db.writer.broke.why }

// Probe says why the disk takes no changes, if so.
func (db *DB) Probe() error { return db.writer.checkSpace() }

// A refusal is of a change that the disk would not take. Badger has not seen it.
type refusal struct {
	text string
	err  error
}

func (e *refusal) Error() string { return e.text + ": " + e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }
