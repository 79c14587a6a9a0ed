package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/fsck"
	"github.com/regfs/regfs/gc"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/mountpoint"
	"github.com/regfs/regfs/overlay"
)

// A GCRequest asks for garbage to be collected: POST /v1/gc. The answer is
// lines of JSON, each a [GCNews], the last one with the end.
type GCRequest struct {
	DryRun bool          `json:"dry_run"`
	Grace  time.Duration `json:"grace"` // nanoseconds
	// Keep says which releases stay; nil: all.
	Keep *Retention `json:"keep"`
}

// A Retention says which releases stay: the newest, those that are named, and
// those that are mounted.
type Retention struct {
	Last  int      `json:"last"`
	Names []string `json:"names"`
}

// GCNews is one line of the answer: one of its fields.
type GCNews struct {
	Plan *GCPlan    `json:"plan,omitempty"`
	Gone *gc.Amount `json:"gone,omitempty"` // so far
	End  *GCEnd     `json:"end,omitempty"`
	Err  *Error     `json:"err,omitempty"`
}

// A GCPlan is what is to be removed, and why the rest stays.
type GCPlan struct {
	RemoveReleases []string `json:"remove_releases"`
	*gc.Plan
	Seconds GCTimes `json:"seconds"`
}

// GCTimes say how long it took to check the index, to find in it what is
// needed, and to look at the store.
type GCTimes struct {
	Verify float64 `json:"verify"`
	Mark   float64 `json:"mark"`
	Survey float64 `json:"survey"`
}

// A GCEnd is what has been removed.
type GCEnd struct {
	Gone gc.Amount `json:"gone"`
}

// collect collects garbage and tells of it while it does. When the caller has
// gone, it stops.
func (s *Server) collect(w http.ResponseWriter, r *http.Request) {
	if !s.using.TryRLock() {
		s.fail(w, ErrLeaving)
		return
	}
	defer s.using.RUnlock()
	var req GCRequest
	err := decode(r, &req)
	if err == nil && (req.Grace < 0 || req.Keep != nil && req.Keep.Last < 0) {
		err = fmt.Errorf("gc: a negative number: %w", ErrUsage)
	}
	if err == nil {
		err = s.beginCollecting()
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	defer s.endCollecting()
	ctx, cancel := s.untilLeaving(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/jsonl")
	out, flusher := json.NewEncoder(w), http.NewResponseController(w)
	tell := func(news GCNews) {
		if out.Encode(news) == nil { // else the caller has gone
			flusher.Flush()
		}
	}
	if err := s.runGC(ctx, req, tell); err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		tell(GCNews{Err: newError(err)})
	}
}

func (s *Server) beginCollecting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collecting {
		return fmt.Errorf("gc: another one is running: %w", syscall.EBUSY)
	}
	if s.renaming > 0 {
		return fmt.Errorf("gc: a release is being renamed: %w", syscall.EBUSY)
	}
	s.collecting = true
	return nil
}

func (s *Server) endCollecting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collecting = false
	s.leaveIfIdle()
}

// runGC removes releases first, then what nobody needs any more. Before either
// the index is held against itself and what was written down: a release that is
// gone cannot be brought back, and a blob neither.
func (s *Server) runGC(ctx context.Context, req GCRequest, tell func(GCNews)) error {
	if err := s.trustIndex(ctx, req.Keep != nil); err != nil {
		return failedGC(err)
	}
	remove, err := s.releasesToGo(req.Keep)
	if err != nil {
		return err
	}
	s.settleAll()
	if !req.DryRun {
		if err := s.removeReleases(ctx, remove); err != nil {
			return err
		}
	}
	run := gc.Collector{
		Blobs: s.store.Blobs, Index: s.store.Index, Grace: req.Grace,
		Unlink:   func(pairs []index.Pair) error { return overlay.RemoveLinks(s.store, pairs) },
		LeaveOut: func(name string) bool { return req.DryRun && slices.Contains(remove, name) },
	}.Begin()
	defer run.End()
	pins, err := s.pinHeld()
	if err != nil {
		return err
	}
	defer pins()
	dead, err := s.pinForTheDead()
	if err != nil {
		return err
	}
	defer dead()
	plan, err := run.Plan(ctx)
	if err != nil {
		return failedGC(err)
	}
	tell(GCNews{Plan: &GCPlan{RemoveReleases: remove, Plan: plan, Seconds: GCTimes{
		plan.Verify.Seconds(), plan.Mark.Seconds(), plan.Survey.Seconds(),
	}}})
	var gone gc.Amount
	if !req.DryRun {
		gone, err = run.Sweep(ctx, func(gone gc.Amount) { tell(GCNews{Gone: &gone}) })
		s.log.Info("garbage collected", "blobs", gone.Blobs, "bytes", gone.Bytes, "err", err)
	}
	if err != nil {
		return failedGC(err)
	}
	tell(GCNews{End: &GCEnd{gone}})
	return nil
}

// trustIndex verifies the index before releases go; else the run does so.
func (s *Server) trustIndex(ctx context.Context, releases bool) error {
	if releases {
		if err := s.store.Index.Verify(ctx); err != nil {
			return err
		}
	}
	return fsck.Trust(ctx, s.store)
}

// failedGC says what went wrong, and of which kind it is.
func failedGC(err error) error {
	var doubt *gc.DoubtError
	var inUse *index.InUseError
	if errors.As(err, &doubt) || errors.As(err, &inUse) {
		return fmt.Errorf("gc: %w; nothing more is removed, see \"regfs fsck\": %w", err, ErrDoubt)
	}
	return fmt.Errorf("gc: %w", err)
}

// releasesToGo chooses releases. Those that are half removed go, too.
func (s *Server) releasesToGo(keep *Retention) ([]string, error) {
	half, err := s.store.Index.Removing()
	if err != nil {
		return nil, err
	}
	remove := []string{}
	for _, r := range half {
		remove = append(remove, r.Name)
	}
	if keep == nil {
		return remove, nil
	}
	all, err := s.store.Index.Releases()
	if err != nil {
		return nil, err
	}
	for _, name := range keep.Names {
		if !slices.ContainsFunc(all, func(r index.Info) bool { return r.Name == name }) {
			return nil, fmt.Errorf("gc: --keep %s: there is no such release: %w", name, ErrUsage)
		}
	}
	stays := s.unremovable()
	for _, r := range all[:max(0, len(all)-keep.Last)] {
		if !slices.Contains(keep.Names, r.Name) && !stays[r.Name] {
			remove = append(remove, r.Name)
		}
	}
	return remove, nil
}

// unremovable are the releases that are mounted, or were by overlayfs and are
// not read back.
func (s *Server) unremovable() map[string]bool {
	stays := make(map[string]bool)
	for _, m := range s.serving() {
		stays[m.Release] = true
	}
	pending, _ := overlay.Pending(s.store) // errs on a bad pattern only
	for _, name := range pending {
		stays[name] = true
	}
	return stays
}

// removeReleases removes releases. One that was mounted a moment ago stays.
func (s *Server) removeReleases(ctx context.Context, names []string) error {
	for _, name := range names {
		err := s.eliminate(ctx, name, false)
		if errors.Is(err, syscall.EBUSY) {
			s.log.Warn("release stays", "release", name, "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settleAll reads back what overlays have, as far as it can. What they have
// still, they guard.
func (s *Server) settleAll() {
	pending, _ := overlay.Pending(s.store) // errs on a bad pattern only
	for _, name := range pending {
		if report, err := s.settle(name); err != nil || len(report.Refused) > 0 {
			s.log.Error("overlay", "release", name, "err", errors.Join(err, refused(name, report)))
		}
		s.overlay(name).Guard("what overlayfs wrote to " + name + " is not read back")
	}
}

// pinHeld pins what other processes read.
func (s *Server) pinHeld() (release func(), err error) {
	held, err := s.store.Held()
	if err != nil {
		return nil, fmt.Errorf("gc: %w", err)
	}
	var all []*cas.Pins
	for _, h := range held {
		pins := s.store.Blobs.NewPins(h.Why)
		if h.All {
			pins.AddAll()
		}
		for _, d := range h.Blobs {
			pins.Add(d)
		}
		all = append(all, pins)
	}
	return func() {
		for _, pins := range all {
			pins.Release()
		}
	}, nil
}

// pinsOf makes the pins of a mount. In the place of a dead one it may have users
// who remember what they saw through that.
func (s *Server) pinsOf(req MountRequest, replace bool) *cas.Pins {
	at := fmt.Sprintf("the mount of %s at %s", req.Release, req.Mountpoint)
	if !replace {
		return s.store.Blobs.NewPins("seen through " + at)
	}
	pins := s.store.Blobs.NewPins(at + " was restored after a crash; what was seen through it before is not known")
	pins.AddAll()
	return pins
}

// pinForTheDead pins all blobs while a dead server's mount is there: it may be
// restored under users who remember what they saw.
func (s *Server) pinForTheDead() (release func(), err error) {
	ours := s.mountpoints()
	found, err := mountpoint.All()
	if err != nil {
		return nil, fmt.Errorf("gc: %w", err)
	}
	maps.Copy(ours, s.mountpoints()) // some have come, some have gone
	live := make(map[mountpoint.Device]bool)
	for _, at := range found {
		live[at.Device] = live[at.Device] || ours[at.Mountpoint]
	}
	for _, at := range found {
		if at.Type == mountpoint.Fuse && at.Store == s.store.Dir && !live[at.Device] {
			pins := s.store.Blobs.NewPins("the mount at " + at.Mountpoint + " is dead; mount it again, or umount it")
			pins.AddAll()
			return pins.Release, nil
		}
	}
	return func() {}, nil
}

func (s *Server) mountpoints() map[string]bool {
	all := make(map[string]bool)
	for _, m := range s.serving() {
		all[m.Mountpoint] = true
	}
	return all
}
