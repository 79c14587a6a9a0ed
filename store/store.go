// Package store is a store's directory: its format, its lock, and what it is
// made of, the blobs and the index, opened together.
//
// A store is opened by one process at a time, which holds the lock until
// [Store.Close]. Blobs may be read without the lock, see package cas.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
)

// Format is the version of the store's layout on disk that this program reads
// and writes: docs/format.md.
const Format = 1

// The names in a store's directory, apart from the registry's own tree.
const (
	formatFile = "regfs.json"
	lockFile   = "lock"
	socketFile = "control.sock"
	logFile    = "server.log"
	mountsFile = "mounts.json"
	indexDir   = "index"
	releases   = "releases" // the plain files of each
	holds      = "holds"    // who reads blobs and has the store not open
	incoming   = "incoming" // what imports bring, before it is a blob
)

// What is wrong with a store. Each is wrapped with the directory and what to
// do.
var (
	ErrNoStore = errors.New("no regfs store")
	ErrLocked  = errors.New("store is in use by another process")
	ErrFormat  = errors.New("store format is not supported")
)

// A Store is an open store.
type Store struct {
	Dir   string
	Blobs *cas.Store
	Index *index.DB
	lock  *os.File
}

type format struct {
	Format int `json:"format"`
	// Index is the ID of the store's index, from the first time that it is opened.
	Index string `json:"index,omitempty"`
}

// Init makes a store in dir, which may exist if it is empty. Only the owner
// may enter it.
func Init(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if len(entries) > 0 {
		return notEmpty(dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return writeFormat(dir, format{Format: Format})
}

func notEmpty(dir string) error {
	if err := Check(dir); err == nil {
		return fmt.Errorf("make store: %s is a store already: %w", dir, fs.ErrExist)
	}
	return fmt.Errorf("make store: %s is not empty; give a new directory: %w", dir, fs.ErrExist)
}

func writeFormat(dir string, f format) error {
	data, err := json.Marshal(f)
	if err == nil {
		err = WriteFile(filepath.Join(dir, formatFile), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// Check says whether dir is a store that this program can use.
func Check(dir string) error {
	_, err := readFormat(dir)
	return err
}

func readFormat(dir string) (f format, err error) {
	data, err := os.ReadFile(filepath.Join(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("%s: %w; make one with \"regfs init\", or name another with --store or REGFS_STORE", dir, ErrNoStore)
	}
	if err != nil {
		return f, fmt.Errorf("open store: %w", err)
	}
	if err := json.Unmarshal(data, &f); err != nil || f.Format < 1 {
		return f, fmt.Errorf("%s: %s is damaged: %w", dir, formatFile, ErrFormat)
	}
	if f.Format > Format {
		return f, fmt.Errorf("%s: format %d is newer than this regfs, which knows up to %d; use a newer regfs: %w", dir, f.Format, Format, ErrFormat)
	}
	return f, nil
}

// Open locks a store and opens it. What an earlier process left in the store's
// tmp is brought to an end, or thrown away.
func Open(dir string, log *slog.Logger) (*Store, error) {
	return open(dir, log, func(s *Store) error { return s.openIndex(log) })
}

func open(dir string, log *slog.Logger, openIndex func(*Store) error) (*Store, error) {
	if err := Check(dir); err != nil {
		return nil, err
	}
	if err := checkOwner(dir); err != nil {
		return nil, err
	}
	warnOfOthers(dir, log)
	lock, err := acquire(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{Dir: dir, lock: lock}
	err = s.openBlobs()
	if err == nil {
		err = openIndex(s)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) openBlobs() (err error) {
	if s.Blobs, err = cas.Open(s.Dir); err != nil {
		return err
	}
	return errors.Join(s.Blobs.DiscardTemp(), s.discardIncoming())
}

// openIndex opens the index that is the store's, and no other: Badger makes a
// new one where there is none.
func (s *Store) openIndex(log *slog.Logger) error {
	f, err := readFormat(s.Dir) // again: under the lock
	if err != nil {
		return err
	}
	if s.Index, err = index.OpenKnown(filepath.Join(s.Dir, indexDir), f.Index, log); err != nil {
		return err
	}
	if f.Index != "" {
		return nil
	}
	f.Index = s.Index.ID()
	return writeFormat(s.Dir, f)
}

// discardIncoming removes what imports have not finished; mostly there is
// nothing. A command may live still and write there, so it loses its directory
// in one step, to where the next process removes it if this one is killed.
func (s *Store) discardIncoming() error {
	from, temp := filepath.Join(s.Dir, incoming), filepath.Join(s.Dir, "tmp")
	err := os.Remove(from)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return err
	}
	to, err := os.MkdirTemp(temp, incoming)
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(from, filepath.Join(to, incoming)), os.RemoveAll(to))
}

// checkOwner keeps root from leaving files in another user's store that its
// owner could not open again.
func checkOwner(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to the user with the number %d; run regfs as that user: %w", dir, st.Uid, fs.ErrPermission)
	}
	return nil
}

// warnOfOthers: a store is as safe as its directory, and the one that has it.
func warnOfOthers(dir string, log *slog.Logger) {
	if info, err := os.Stat(dir); err == nil && info.Mode()&0o022 != 0 {
		log.Warn("others can write to the store's directory; chmod 0700 it", "dir", dir)
	}
	above := filepath.Dir(dir)
	if info, err := os.Stat(above); err == nil && info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		log.Warn("anybody can put another directory in the store's place; chmod o-w the one above", "dir", above)
	}
}

func acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	return nil, fmt.Errorf("lock store: %w", err)
}

// Close closes the store and gives up its lock.
func (s *Store) Close() error {
	var errs []error
	if s.Blobs != nil {
		errs = append(errs, s.Blobs.Close())
	}
	if s.Index != nil {
		errs = append(errs, s.Index.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Socket is the path of the control socket of a store.
func Socket(dir string) string { return filepath.Join(dir, socketFile) }

// Log is the path of the log of a server that has nobody's terminal.
func Log(dir string) string { return filepath.Join(dir, logFile) }

// Mounts is the path of the note of what a store's server has mounted.
func Mounts(dir string) string { return filepath.Join(dir, mountsFile) }

// Probe opens a file of the store's disk, by which a mount finds out what the
// disk can do.
func (s *Store) Probe() (*os.File, error) { return os.Open(filepath.Join(s.Dir, formatFile)) }

// PlainDir is where a release's plain files lie, relative to the store's
// directory.
func PlainDir(release string) string { return filepath.Join(releases, release, "files") }

// SnapshotFile has the names of a release, for the day when the index is lost,
// relative to the store's directory.
func SnapshotFile(release string) string { return filepath.Join(releases, release, "snapshot.json") }

// OverlayDir is where a release lies while it is mounted by overlayfs, relative
// to the store's directory.
func OverlayDir(release string) string { return filepath.Join(releases, release, "overlay") }

// ReleaseDir is where all lies that a release has outside of the index, relative
// to the store's directory.
func ReleaseDir(release string) string { return filepath.Join(releases, release) }

// IncomingDir is where an import puts its files, relative to the store's
// directory. What a process that was killed has left there, the next one
// removes.
func IncomingDir(id string) string { return filepath.Join(incoming, id) }

// RefusedDir is where that is put which an overlay held and the store could not
// take, relative to the store's directory.
func RefusedDir(release string) string { return filepath.Join(releases, release, "refused") }
