package fsck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/sealed"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

// Repair is [Check], and mends what it can: blobs that are not what they should
// be are put aside, facts of manifests that are there are read anew, records
// that nobody can read are dropped and the rest is counted anew, and what was
// left half-done is removed. Releases may be mounted and pushed to.
func Repair(ctx context.Context, st *store.Store, log *slog.Logger) (*Report, error) {
	pins := st.Blobs.NewPins("fsck repairs the store")
	defer pins.Release()
	pins.AddAll() // what is derived must not go meanwhile
	report, err := Check(ctx, st)
	if err != nil {
		return nil, err
	}
	r := repair{ctx: ctx, store: st, pins: pins, log: log, report: report}
	for i := range report.Findings {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.mend(&report.Findings[i])
	}
	if err := r.derive(); err != nil {
		return report, err
	}
	r.seal()
	return report, nil
}

type repair struct {
	ctx    context.Context
	store  *store.Store
	pins   *cas.Pins
	log    *slog.Logger
	report *Report
	mended bool // the index
}

func (r *repair) mend(f *Finding) {
	switch f.Kind {
	case Damaged, Unreadable:
		if d := blobOf(f.Object); d != "" {
			o := putAside(r.store.Blobs, d)
			f.Repaired, f.Whole = o.Done, o.Whole
		}
	case Mode:
		r.protect(f)
	case Temporary:
		r.discard(f)
	case Facts:
		r.learn(f)
	}
}

// seal brings the documents of sealed releases back, when their names are what
// they can be.
func (r *repair) seal() {
	for i := range r.report.Findings {
		f := &r.report.Findings[i]
		if f.Kind != Sealed {
			continue
		}
		if err := r.sealIn(strings.TrimPrefix(f.Object, "release ")); err != nil {
			f.Repaired = "not brought back: " + err.Error()
			continue
		}
		f.Repaired, f.Whole = "brought back", true
	}
}

func (r *repair) sealIn(release string) error {
	rel, err := r.store.Index.Open(release)
	if err != nil {
		return err
	}
	defer rel.Close()
	if _, err := sealed.Seal(r.store, rel); err != nil {
		return err
	}
	reading, err := sealed.Read(r.store, rel)
	if err == nil && len(reading.Problems) > 0 {
		err = errors.New(strings.Join(reading.Problems, "; "))
	}
	return err
}

// blobOf returns the digest that a finding is about, if it is about a blob.
func blobOf(object string) digest.Digest {
	d := digest.Digest(object)
	if d.Validate() != nil {
		return ""
	}
	return d
}

// An Outcome is what was done about a damaged blob, and whether all is well
// with it now.
type Outcome struct {
	Done  string `json:"done"`
	Whole bool   `json:"whole"`
}

// Quarantine puts aside those of the blobs that are damaged, so that a push
// brings them back.
func Quarantine(ctx context.Context, st *store.Store, blobs []digest.Digest) (map[digest.Digest]Outcome, error) {
	all := make(map[digest.Digest]Outcome)
	for _, d := range blobs {
		if err := errors.Join(ctx.Err(), d.Validate()); err != nil {
			return all, err
		}
		all[d] = putAside(st.Blobs, d)
	}
	return all, nil
}

const putAsideTo = "put aside to "

func putAside(blobs *cas.Store, d digest.Digest) Outcome {
	if isWhole(blobs, d) {
		return Outcome{"whole by now", true}
	}
	to, err := blobs.Quarantine(d)
	switch {
	case errors.Is(err, cas.ErrWhole):
		return Outcome{"whole by now", true}
	case errors.Is(err, fs.ErrNotExist):
		return Outcome{"gone by now", false}
	case err != nil:
		return Outcome{"not put aside: " + err.Error(), false}
	}
	return Outcome{putAsideTo + to + "; push an image that has it", false}
}

func isWhole(blobs *cas.Store, d digest.Digest) bool {
	file, err := blobs.Open(d)
	if err != nil {
		return false
	}
	defer file.Close()
	got, err := d.Algorithm().FromReader(file)
	return err == nil && got == d
}

func (r *repair) protect(f *Finding) {
	if f.flaw.Kind != cas.WrongMode {
		return // only root could
	}
	if err := r.store.Blobs.Protect(f.flaw.Digest); err != nil {
		f.Repaired = "mode not changed: " + err.Error()
		return
	}
	f.Repaired, f.Whole = "mode changed; its content may have been, too: see --data", true
}

func (r *repair) discard(f *Finding) {
	if err := r.store.Blobs.DiscardLeftover(f.flaw); err != nil {
		f.Repaired = "not removed: " + err.Error()
		return
	}
	f.Repaired, f.Whole = "removed", true
}

// learn reads a manifest of which the index does not know what it needs.
func (r *repair) learn(f *Finding) {
	d := blobOf(f.Object)
	for _, a := range f.Affected {
		if err := r.learnIn(a.Release, d); err != nil {
			f.Repaired = "not read: " + err.Error()
			return
		}
	}
	f.Repaired, f.Whole = "read anew", true
}

func (r *repair) learnIn(release string, d digest.Digest) error {
	rel, err := r.store.Index.Open(release)
	if err != nil {
		return err
	}
	defer rel.Close()
	if rel.Sealed() == "" {
		return r.intake(rel).Blob(d)
	}
	l := learning{blobs: r.store.Blobs, index: r.store.Index, facts: make(index.Facts)}
	if err := l.learn(d, 0); err != nil {
		return err
	}
	return rel.Learn(l.facts)
}

func (r *repair) intake(rel *index.Release) intake.Intake {
	return intake.Intake{
		Blobs: r.store.Blobs, Pins: r.pins, Index: r.store.Index, Release: rel, Log: r.log,
		Finds: func(d digest.Digest) error { _, err := r.store.Blobs.Stat(d); return err },
	}
}

// derive mends the index's own records, and then brings back what the snapshots
// have of the releases that have lost something.
func (r *repair) derive() error {
	damaged := make(map[string]bool) // releases
	broken := false
	for _, f := range r.report.Findings {
		name, ofRelease := strings.CutPrefix(f.Object, "release ")
		if f.Kind == Index {
			broken = true
		}
		if ofRelease && (f.Kind == Index || f.Kind == Release || f.Kind == Sealed) {
			damaged[name] = true
		}
	}
	var text string
	if broken {
		mending, err := r.store.Index.Mend(r.ctx)
		text = summary(mending)
		if len(mending.Dropped) > 0 {
			kept, keepErr := r.keep(mending.Dropped)
			err = errors.Join(err, keepErr)
			text += ", kept in " + kept
		}
		if err != nil {
			r.told(Index, "", "not mended: "+err.Error())
			return nil
		}
	}
	r.told(Index, "index", text)
	for _, name := range slices.Sorted(maps.Keys(damaged)) {
		done := r.restore(name)
		r.told(Index, "release "+name, strings.TrimPrefix(text+", "+done, ", "))
		r.told(Release, "release "+name, done)
	}
	return nil
}

// told enters what was done about findings of a kind; of any object if object
// is empty.
func (r *repair) told(kind Kind, object, done string) {
	for i := range r.report.Findings {
		if f := &r.report.Findings[i]; f.Kind == kind && (object == "" || f.Object == object) && f.Repaired == "" {
			f.Repaired = done
			f.Whole = kind == Release && f.Damage && strings.HasPrefix(done, broughtBack)
		}
	}
}

const broughtBack = "brought back as it was written down"

// restore links what the snapshot of a release has and the release has not.
func (r *repair) restore(name string) string {
	s, err := snapshot.Read(r.store.Dir, name)
	if hasNo(err) {
		return "its names were never written down"
	}
	if err == nil {
		err = r.restoreFrom(name, s)
	}
	if err != nil {
		return "not brought back: " + err.Error()
	}
	return broughtBack
}

func (r *repair) restoreFrom(name string, s *snapshot.Snapshot) error {
	if err := r.store.Index.Revive(name, s.Created); err != nil {
		return err
	}
	release, err := r.store.Index.Open(name)
	if err != nil {
		return err
	}
	defer release.Close()
	back := restoring{blobs: r.store.Blobs, index: r.store.Index, release: release}
	if err := back.whole(r.ctx, s); err != nil {
		return err
	}
	return snapshot.Save(r.store, name)
}

func summary(m index.Mending) string {
	text := "counted anew"
	if n := len(m.Revived); n > 0 {
		text += fmt.Sprintf(", %d releases revived", n)
	}
	if m.Derived > 0 {
		text += fmt.Sprintf(", %d pairs derived", m.Derived)
	}
	if n := len(m.Dropped); n > 0 {
		text += fmt.Sprintf(", %d unreadable records dropped", n)
	}
	return text
}

// keep writes the records that were dropped to a file, as they were.
func (r *repair) keep(all []index.Raw) (name string, err error) {
	name = filepath.Join("quarantine", "index-"+time.Now().UTC().Format("20060102T150405.000000000Z")+".json")
	data, err := json.Marshal(all)
	if err != nil {
		return name, err
	}
	if err := os.MkdirAll(filepath.Join(r.store.Dir, "quarantine"), 0o700); err != nil {
		return name, err
	}
	return name, os.WriteFile(filepath.Join(r.store.Dir, name), append(data, '\n'), 0o600)
}
