// Package overlay shows a release by kernel overlayfs, where FUSE is not to be
// had, and brings what the registry wrote there into the store and the index.
//
// Two directories lie below the release's own: the links of all releases by
// which layers are found ([Links]), and the store itself with its blobs. What
// the release says (manifests, tags, what was removed) is laid out as files
// before the mount, and read back from the files after it: [Overlay.Sync]
// while it is mounted, [Overlay.Finish] when it is not any more.
//
// The release's directory, the upper one, is there exactly as long as there may
// be something to read back. So whoever finds it finishes it, and a server that
// was killed at any point loses nothing. The mount needs no server.
package overlay

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/store"
)

// The directories of an overlay, in the one that [store.OverlayDir] names.
const (
	// upperDir is what the registry writes to.
	upperDir = "upper"
	// draftDir is an upper directory before it is whole, or after it was read
	// back. Nothing follows from its links; its plain files are the release's.
	draftDir = "draft"
	workDir  = "work"
)

// An Overlay is one release as an overlay, mounted or not. Its methods may be
// called from many goroutines.
type Overlay struct {
	Release string
	store   *store.Store
	log     *slog.Logger

	mu      sync.Mutex       // held by whatever reads or changes the upper directory
	entered map[string]stamp // blobs that a Sync has entered, by path
	pins    *cas.Pins        // every blob, while there may be something to read back; nil if there is nothing
}

// New returns the overlay of a release. It does nothing yet.
func New(s *store.Store, release string, log *slog.Logger) *Overlay {
	return &Overlay{Release: release, store: s, log: log.With("release", release), entered: make(map[string]stamp)}
}

// Pending lists the releases that have something to be finished, or are
// mounted.
func Pending(s *store.Store) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(globEscape(s.Dir), store.OverlayDir("*")))
	var all []string
	for _, dir := range found {
		all = append(all, filepath.Base(filepath.Dir(dir)))
	}
	return all, err
}

func globEscape(path string) string {
	escaped := make([]byte, 0, len(path))
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, path[i])
	}
	return string(escaped)
}

// Pending says whether there may be something in the upper directory that the
// index does not know.
func (o *Overlay) Pending() bool {
	_, err := os.Lstat(o.dir(upperDir))
	return err == nil
}

// Since is when the release was laid out.
func (o *Overlay) Since() time.Time {
	info, err := os.Stat(o.dir(""))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime().UTC()
}

// Guard pins every blob, until what the overlay has is read back: nobody sees
// what is looked up on an overlay, and its links name what the index does not
// know yet. If there is nothing to be read back, it does nothing. Mount, Sync
// and Finish do it themselves; who finds an overlay that a dead server has left
// calls it. Why is for whoever asks.
func (o *Overlay) Guard(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Pending() {
		o.guard(why)
	}
}

// guard pins every blob. mu is held.
func (o *Overlay) guard(why string) {
	if o.pins == nil {
		o.pins = o.store.Blobs.NewPins(why)
		o.pins.AddAll()
	}
}

// unguard ends it, if there is nothing to be read back. mu is held.
func (o *Overlay) unguard() {
	if o.pins != nil && !o.Pending() {
		o.pins.Release()
		o.pins = nil
	}
}

func (o *Overlay) dir(name string) string {
	return filepath.Join(o.store.Dir, store.OverlayDir(o.Release), name)
}

func (o *Overlay) plainDir() string { return filepath.Join(o.store.Dir, store.PlainDir(o.Release)) }

// Mount lays the release out and mounts it, for all users or for the one who
// mounts; read-only, if it is sealed. What an earlier mount has left is finished
// first.
func (o *Overlay) Mount(mountpoint string, others bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.guard(o.Release + " is mounted by overlayfs at " + mountpoint)
	defer o.unguard()
	if err := Check(o.store.Dir); err != nil {
		return err
	}
	if err := o.prepare(others); err != nil {
		return err
	}
	readOnly, err := o.isSealed()
	if err != nil {
		return errors.Join(err, o.retire())
	}
	if err := o.attach(mountpoint, readOnly); err != nil {
		return errors.Join(err, o.retire())
	}
	return nil
}

// ReadOnly says whether the release is mounted read-only, as it is sealed.
func (o *Overlay) ReadOnly() bool {
	sealed, err := o.isSealed()
	return err == nil && sealed
}

func (o *Overlay) isSealed() (bool, error) {
	release, err := o.store.Index.Open(o.Release)
	if err != nil {
		return false, err
	}
	defer release.Close()
	return release.Sealed() != "", nil
}

// prepare makes the upper directory. Until it is whole it has another name.
func (o *Overlay) prepare(others bool) error {
	// What is pending would not be seen below.
	if err := o.store.Blobs.Settle(); err != nil {
		return err
	}
	if err := layOut(o.store); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir(""), 0o700); err != nil {
		return err
	}
	if err := o.discardDraft(); err != nil {
		return err
	}
	filled, err := o.fill(o.dir(draftDir))
	if err != nil {
		return err
	}
	if !others { // the mount's top has the mode of the upper directory
		if err := os.Chmod(o.dir(draftDir), 0o700); err != nil {
			return err
		}
	}
	if err := movePlain(o.plainDir(), o.dir(draftDir)); err != nil {
		return err
	}
	// An empty directory that stays would be one of the release's later on.
	if err := removeEmpty(o.plainDir()); err != nil {
		return err
	}
	// What is laid out and not on the disk would be missed after a power loss,
	// and taken for removed.
	if filled {
		if err := syncAll(o.dir("")); err != nil {
			return err
		}
	}
	if err := remakeWork(o.dir(workDir)); err != nil {
		return err
	}
	return o.rename(draftDir, upperDir)
}

func remakeWork(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// rename gives a directory its other name, on the disk too.
func (o *Overlay) rename(from, to string) error {
	if err := os.Rename(o.dir(from), o.dir(to)); err != nil {
		return err
	}
	return errors.Join(store.SyncDir(o.dir("")), store.SyncDir(filepath.Dir(o.dir(""))), store.SyncDir(filepath.Dir(filepath.Dir(o.dir("")))))
}

// retire takes the upper directory away, when nothing in it but the plain
// files is needed any more.
func (o *Overlay) retire() error {
	if err := o.rename(upperDir, draftDir); err != nil {
		return err
	}
	if err := o.discardDraft(); err != nil {
		return err
	}
	clear(o.entered)
	return os.RemoveAll(o.dir(""))
}

// discardDraft gives the plain files of a draft back to the release and removes
// the rest.
func (o *Overlay) discardDraft() error {
	if _, err := os.Lstat(o.dir(draftDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := movePlain(o.dir(draftDir), o.plainDir()); err != nil {
		return err
	}
	if err := store.SyncDir(o.plainDir()); err != nil {
		return err
	}
	return os.RemoveAll(o.dir(draftDir))
}
