package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/store"
)

// Sync brings what was written until now into the store and the index, while
// the release is mounted. Blobs are copied, since the registry may write to the
// files still; where the disk can share extents that takes no space.
func (o *Overlay) Sync() (Report, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.Pending() {
		return Report{}, nil // it has been finished meanwhile
	}
	o.guard("what overlayfs wrote to " + o.Release + " is being read back")
	defer o.unguard()
	report, err := o.sync(true)
	if err != nil {
		return report, fmt.Errorf("sync %s: %w", o.Release, err)
	}
	return report, nil
}

// Finish does the same when the release is not mounted any more, and gives its
// plain files back. Blobs are moved. What cannot be taken is put into
// [store.RefusedDir]. Cut short at any point, it is finished by the next one.
func (o *Overlay) Finish() (Report, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Pending() {
		o.guard("what overlayfs wrote to " + o.Release + " is being read back")
		defer o.unguard()
	}
	report, err := o.finish()
	if err != nil {
		return report, fmt.Errorf("finish the overlay of %s: %w", o.Release, err)
	}
	return report, nil
}

func (o *Overlay) finish() (Report, error) {
	if !o.Pending() {
		if err := o.discardDraft(); err != nil {
			return Report{}, err
		}
		return Report{}, os.RemoveAll(o.dir("")) // nothing, mostly
	}
	if used, err := o.inUse(); err != nil {
		return Report{}, err
	} else if used {
		return Report{}, fmt.Errorf("it is mounted, or a process or another mount namespace, such as a container's, has it still: %w", syscall.EBUSY)
	}
	report, err := o.sync(false)
	if err != nil {
		return report, err
	}
	if err := o.putAside(report.Refused); err != nil {
		return report, err
	}
	return report, o.retire()
}

// putAside moves what was refused to where nothing removes it.
func (o *Overlay) putAside(all []Refusal) error {
	dir := filepath.Join(o.store.Dir, store.RefusedDir(o.Release))
	for _, r := range all {
		to := filepath.Join(dir, r.Path)
		for n := 2; ; n++ {
			err := moveInto(filepath.Join(o.dir(upperDir), r.Path), to)
			if errors.Is(err, fs.ErrExist) {
				to = filepath.Join(dir, fmt.Sprintf("%s.%d", r.Path, n))
				continue
			}
			if errors.Is(err, syscall.ENOTDIR) { // an earlier one is a file where this one has a directory
				to = filepath.Join(fmt.Sprintf("%s.%d", dir, n), r.Path)
				continue
			}
			if err != nil {
				return err
			}
			break
		}
		o.log.Error("refused", "path", r.Path, "err", r.Reason, "now", to)
	}
	return nil
}

// settling is how old a file of a mounted release must be to be refused: a
// younger one may be half-written.
const settling = 2 * time.Second

// sync goes from blobs to links to removals, so that nothing names a blob that
// is not durable, at whatever point it is cut short.
func (o *Overlay) sync(mounted bool) (Report, error) {
	if sealed, err := o.isSealed(); err != nil || sealed {
		return Report{}, err // nothing was written, whatever root may have remounted
	}
	found, err := take(o.dir(upperDir))
	if err != nil {
		return Report{}, err
	}
	defer found.close()
	release, err := o.store.Index.Open(o.Release)
	if err != nil {
		return Report{}, err
	}
	defer release.Close()
	e := newEntry(o, release, found, mounted)
	for _, step := range []func() error{e.blobs, e.store.Blobs.Flush, e.links, e.removals, e.hides, e.dirs, release.Sync} {
		if err := step(); err != nil {
			return e.report, err
		}
	}
	for _, r := range found.refused.all {
		if !mounted || time.Since(r.time) > settling {
			e.report.Refused = append(e.report.Refused, r)
		}
	}
	return e.report, nil
}

// An entry is one reading of an upper directory on its way into the index.
type entry struct {
	*Overlay
	release *index.Release
	found   *survey
	mounted bool
	intake  intake.Intake

	mu      sync.Mutex             // guards what follows
	missing map[digest.Digest]bool // blobs that were refused and that the store has not
	report  Report
}

func newEntry(o *Overlay, release *index.Release, found *survey, mounted bool) *entry {
	e := &entry{Overlay: o, release: release, found: found, mounted: mounted, missing: make(map[digest.Digest]bool)}
	e.intake = intake.Intake{Blobs: o.store.Blobs, Pins: o.pins, Index: o.store.Index, Release: release, Finds: e.finds, Log: o.log}
	return e
}

func (e *entry) finds(d digest.Digest) error {
	if e.release.Blob(d).State == index.Hidden {
		return fs.ErrNotExist
	}
	_, err := e.store.Blobs.Stat(d)
	return err
}

// each calls f for all of a list, a few at a time, and returns the first error.
func each[T any](parallel int, list []T, f func(T) error) error {
	var wg sync.WaitGroup
	slots, errs := make(chan struct{}, parallel), make(chan error, len(list))
	for _, one := range list {
		slots <- struct{}{}
		if len(errs) > 0 {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(one); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// Hashing is for the processors, links are for the disk to take together.
const (
	blobsAtOnce = 4
	linksAtOnce = 64
)

func (e *entry) blobs() error {
	if err := each(blobsAtOnce, e.found.blobs, e.blob); err != nil {
		return err
	}
	return each(blobsAtOnce, e.found.emptied, e.movedBefore)
}

// blob enters a blob, if it is what its name says.
func (e *entry) blob(b blob) error {
	if e.wasEntered(b) {
		return nil
	}
	size, err := e.commit(b)
	var corrupt *cas.CorruptError
	switch {
	case errors.As(err, &corrupt):
		e.refuseBlob(b, corrupt)
		return nil
	case e.mounted && errors.Is(err, fs.ErrNotExist):
		return nil // it has gone meanwhile
	case err != nil:
		return err
	}
	if err := e.intake.Blob(b.digest); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.report.Blobs++
	e.report.Bytes += size
	if e.mounted {
		e.entered[b.name] = b.stamp
	}
	return nil
}

func (e *entry) wasEntered(b blob) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.entered[b.name] != b.stamp {
		return false
	}
	_, err := e.store.Blobs.Stat(b.digest)
	return err == nil
}

func (e *entry) refuseBlob(b blob, err error) {
	e.found.refuse(b.name, time.Unix(b.stamp.ctime.Unix()), err)
	if _, err := e.store.Blobs.Stat(b.digest); err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.missing[b.digest] = true
}

// commit makes a file the store's blob.
func (e *entry) commit(b blob) (int64, error) {
	name := filepath.Join(store.OverlayDir(e.Release), upperDir, b.name)
	if e.mounted {
		return e.commitCopy(name, b.digest)
	}
	// An empty directory in place of the blob's is to say that it was moved,
	// should we be killed now, and not that it was removed.
	if err := makeTransparent(filepath.Join(e.dir(upperDir), filepath.Dir(b.name))); err != nil {
		return 0, err
	}
	w, err := e.store.Blobs.Adopt(name)
	if errors.Is(err, fs.ErrInvalid) { // it has another name
		return e.commitCopy(name, b.digest)
	}
	if err != nil {
		return 0, err
	}
	defer w.Close()
	size, err := w.Commit(b.digest)
	if err != nil {
		return 0, errors.Join(err, w.Return(name))
	}
	return size, nil
}

func (e *entry) commitCopy(name string, d digest.Digest) (int64, error) {
	w, err := e.store.Blobs.Copy(name)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	return w.Commit(d)
}

// movedBefore enters a blob that an earlier Finish has moved into the store,
// and was killed before it entered it.
func (e *entry) movedBefore(d digest.Digest) error {
	if e.release.Blob(d).State != index.Absent && !e.release.Awaits(d) {
		return nil
	}
	if _, err := e.store.Blobs.Stat(d); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return e.intake.Blob(d)
}

// links enters the links that the index has not. Manifests go in the order in
// which they were written: an index comes after what it lists.
func (e *entry) links() error {
	var layers, revisions, tags []link
	for _, l := range e.found.links {
		if e.missing[l.target] {
			e.found.refuse(l.name, l.time, errors.New("names a blob that was refused"))
			continue
		}
		switch {
		case e.known(l):
		case l.Kind == layout.LayerLink:
			layers = append(layers, l)
		case l.Kind == layout.RevisionLink:
			revisions = append(revisions, l)
		default:
			tags = append(tags, l)
		}
	}
	slices.SortStableFunc(revisions, func(a, b link) int { return a.time.Compare(b.time) })
	return errors.Join(
		each(linksAtOnce, layers, e.link),
		each(1, revisions, e.link),
		each(linksAtOnce, tags, e.link),
	)
}

// known says whether a link says nothing new. One that a registry has written
// anew is entered again.
func (e *entry) known(l link) bool {
	var have index.Link
	switch l.Kind {
	case layout.LayerLink:
		have = e.release.Layer(l.Repository, l.target)
	case layout.RevisionLink:
		have, _ = e.release.Revision(l.Repository, l.target)
	case layout.TagCurrentLink:
		have, _ = e.release.TagLink(l.Repository, l.Tag)
	case layout.TagIndexLink:
		have, _ = e.release.HistoryLink(l.Repository, l.Tag, l.target)
	}
	return have.State == index.Linked && have.Digest == l.target && !l.time.After(have.Time)
}

func (e *entry) link(l link) error {
	err := e.intake.Link(l.Path, l.target)
	if errors.Is(err, syscall.EINVAL) {
		e.found.refuse(l.name, l.time, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", l.name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.report.Links++
	return nil
}
