// Package gc finds the blobs that nobody needs any more, and removes them: a
// plan, then its execution. It works while releases are mounted and registries
// push.
//
// What releases need, the index says. What else a blob is kept for: it was
// uploaded a short while ago and its manifest may be on the way; somebody has
// it pinned (package cas), such as a mount through which it was seen; or it came
// after the run began. Everything else goes, what names it first, so that a run
// that is cut short, at whatever point, leaves nothing that names a blob which
// is gone; and the next run finds what it has left.
package gc

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
)

// A Collector is the store whose garbage is collected, and how.
type Collector struct {
	Blobs *cas.Store
	Index *index.DB
	// Unlink removes what names blobs outside of the index, before they go.
	Unlink func([]index.Pair) error
	// Grace is how long a blob stays that was uploaded and that no release needs.
	Grace time.Duration
	// LeaveOut names releases that the plan is to take for removed.
	LeaveOut func(release string) bool
}

// A Run is one collection. It is for one goroutine.
type Run struct {
	Collector
	begun      time.Time
	end        func()
	mark       *index.Mark
	candidates []cas.Place
}

// Begin begins a run, which is to be ended. What was pinned when it began, or
// since, stays pinned until its end.
func (c Collector) Begin() *Run {
	r := &Run{Collector: c, end: c.Blobs.KeepPins()}
	// Coming to its place changes a blob's file, and must not make it a new one.
	// One that cannot, as on a full disk, is for the next run.
	_ = c.Blobs.Settle()
	r.begun = time.Now()
	return r
}

// End ends the run.
func (r *Run) End() { r.end() }

// A DoubtError says that the index contradicts the store. Nothing is removed
// then: what it does not say may be needed.
type DoubtError struct{ Manifest digest.Digest }

func (e *DoubtError) Error() string {
	return fmt.Sprintf("manifest %s is linked and in the store, but the index does not say what it needs", e.Manifest)
}

// prepare finds out what releases need, if the index can be believed.
func (r *Run) prepare(ctx context.Context, p *Plan) error {
	begun := time.Now()
	if err := r.Index.Verify(ctx); err != nil {
		return err
	}
	p.Verify = time.Since(begun)
	begun = time.Now()
	mark, err := r.Index.Mark(ctx, r.LeaveOut)
	if err != nil {
		return err
	}
	p.Mark = time.Since(begun)
	for _, d := range mark.Unknown() {
		if _, err := r.Blobs.Stat(d); err == nil {
			return &DoubtError{d}
		}
	}
	r.mark = mark
	return nil
}
