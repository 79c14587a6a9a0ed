package index

import (
	"fmt"
	"runtime/debug"
)

// guard turns what Badger does upon a damaged file into an error: it panics on
// a block that is cut short, and reads through memory maps, where a disk that
// cannot be read, or a file that has been truncated, is a fault. Use it as
//
//	defer guard(&err)()
//
// Badger's own goroutines are beyond reach: a fault of theirs ends the process.
func guard(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			*err = &DamagedError{Damage: []Damage{{Problem: fmt.Sprintf("it cannot be read: %.200s", fmt.Sprint(p))}}}
		}
	}
}
