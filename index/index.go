// Package index keeps which names a release gives to which blobs: layer links,
// manifests, tags. It is the only user of Badger, and opens no blob.
//
// A [DB] holds every release of a store. A [Release] that is opened lives in
// memory whole, with what follows from its manifests: which blobs they need,
// and which layer links a registry would find if it had written them. Its
// records in Badger are the durable copy, and the memory is rebuilt from them
// at the next [DB.Open].
//
// A change is visible as soon as its method is called, and durable when the
// method returns nil; methods that do not wait say so. When a change cannot
// be written, it is taken back and its caller told, together with all changes
// that came after it.
package index

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// A DB is the index of one store. One process only may open it.
type DB struct {
	badger *badger.DB
	wal    *wal
	writer *writer
	log    *slog.Logger
	id     string

	// learnt are facts on their way to the disk, and those that got there since
	// the index was opened: digest → *manifest.Manifest.
	learnt sync.Map

	// answered is what KnowsManifest has found out from the disk, digest → bool:
	// each lookup of a layer that a release has not linked asks for it.
	answered sync.Map

	shelf shelf // facts that were read from the disk

	followed atomic.Bool // a journal is kept

	generations sync.Map // release → *atomic.Uint64: see Generation

	creating sync.Mutex // makes one step of the look for a release and its making; taken before a Release's mu

	mu       sync.Mutex // guards what follows; taken before a Release's mu, never held while waiting for the writer
	open     map[string]*Release
	removing map[string]bool // releases that are being removed, and cannot be opened
	moving   map[string]bool // and those that are being renamed
}

// Open opens the index in dir, and makes one where there is none.
func Open(dir string, log *slog.Logger) (*DB, error) { return OpenKnown(dir, "", log) }

// open opens an index, and asks check whether it is the right one before it is
// written to.
func open(dir string, log *slog.Logger, check func(*DB) error) (*DB, error) {
	space := &space{dir: dir}
	if err := space.makeRoom(); err != nil {
		return nil, fmt.Errorf("open index %s: %w", dir, err)
	}
	b, err := openBadger(dir)
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w", dir, err)
	}
	wal, err := openWAL(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open index %s: %w", dir, err), b.Close())
	}
	db := &DB{
		badger: b, wal: wal, log: log,
		open: make(map[string]*Release), removing: make(map[string]bool), moving: make(map[string]bool),
	}
	db.writer = newWriter(b, wal, space, db.reload)
	space.open(wal.newest())
	err = check(db)
	var followed bool
	if err == nil {
		followed, err = db.isFollowed()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open index %s: %w", dir, err), db.Close())
	}
	db.followed.Store(followed)
	return db, nil
}

// badgerOptions are small on purpose: an index of 100 releases of 300 images
// is 30 MB on disk. Values stay in the LSM tree (a value log loses them on
// power loss). That writes are synced before they are acknowledged is for the
// writer to see to: see wal.
func badgerOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(false).
		WithNumVersionsToKeep(1).
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithValueThreshold(maxValue).
		WithValueLogFileSize(16 << 20).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithNumCompactors(2).
		WithDetectConflicts(false). // the writer is the only one who writes
		WithMetricsEnabled(false).
		WithLogger(nil)
}

// Syncs is how often the index has waited for the disk since it was opened.
func (db *DB) Syncs() uint64 { return db.wal.syncs.Load() }

// Close waits for the changes under way and closes the index.
func (db *DB) Close() error {
	db.writer.close()
	space := db.writer.space
	full := space.makeRoom()
	err := errors.Join(db.wal.close(), db.badger.Close())
	if err != nil { // else there was room enough
		err = errors.Join(err, full)
	}
	space.takeBallast()
	space.close()
	return err
}

// Open returns the release of that name. All who have it open share one
// Release; each closes it once.
func (db *DB) Open(name string) (*Release, error) {
	if err := ValidRelease(name); err != nil {
		return nil, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if r, ok := db.open[name]; ok {
		r.users++
		return r, nil
	}
	if db.moving[name] {
		return nil, &releaseError{fmt.Sprintf("release %s is being renamed", name), syscall.EBUSY}
	}
	if db.removing[name] {
		return nil, noRelease(name)
	}
	info, err := db.release(name)
	if err != nil {
		return nil, err
	}
	r := &Release{Info: info, db: db, users: 1, sealed: info.Document}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("release %s: %w", name, err)
	}
	db.open[name] = r
	return r, nil
}

// reload throws away what the open releases hold in memory and reads it anew,
// after a write has not gone through.
func (db *DB) reload() {
	defer db.answered.Clear()
	defer db.learnt.Clear() // after the releases' locks were had: see remember
	db.mu.Lock()
	defer db.mu.Unlock()
	for name, r := range db.open {
		if err := r.load(); err != nil {
			db.log.Error("release cannot be read back after a failed write", "release", name, "err", err)
		}
	}
}

// Manifest returns what is known of a manifest; fs.ErrNotExist if nothing is.
func (db *DB) Manifest(d digest.Digest) (*manifest.Manifest, error) {
	if m, ok := db.learnt.Load(d); ok {
		return m.(*manifest.Manifest), nil
	}
	if m, ok := db.shelf.take(d); ok {
		return m, nil
	}
	value, err := db.get(factsKey(d))
	if err != nil {
		return nil, err
	}
	m, err := decodeFacts(value)
	if err == nil {
		db.shelf.put(d, m)
	}
	return m, err
}

// KnowsManifest says whether some release has linked the manifest, or an index
// that contains it. What an index lists as a manifest and is none does not
// count.
func (db *DB) KnowsManifest(d digest.Digest) bool {
	if m, ok := db.learnt.Load(d); ok {
		return m.(*manifest.Manifest).MediaType != ""
	}
	if known, ok := db.answered.Load(d); ok {
		return known.(bool)
	}
	m, err := db.Manifest(d)
	known := err == nil && m.MediaType != ""
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		db.answered.Store(d, known)
	}
	return known
}

// EverLinked says whether some release has linked the blob in the repository,
// or needs it there.
func (db *DB) EverLinked(repo string, d digest.Digest) bool {
	_, err := db.get(everKey(repo, d))
	return err == nil
}

// EverRepository says whether some release has linked a blob in the
// repository, or in one below it.
func (db *DB) EverRepository(name string) bool {
	return db.has(append([]byte{keyEver}, name+"\x00"...)) || db.has(append([]byte{keyEver}, name+"/"...))
}

func (db *DB) get(key []byte) (value []byte, err error) {
	defer guard(&err)()
	err = db.badger.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, fs.ErrNotExist
	}
	return value, err
}

func (db *DB) has(prefix []byte) bool {
	found := errors.New("found")
	err := db.scan(prefix, func(_, _ []byte) error { return found })
	return err == found
}

// scan calls f with each record whose key begins with prefix. Key and value
// are only good until f returns.
func (db *DB) scan(prefix []byte, f func(key, value []byte) error) error {
	return db.view(func(txn *badger.Txn) error { return scanIn(txn, prefix, f) })
}

// view reads in one transaction: all that f sees is of the same moment.
func (db *DB) view(f func(*badger.Txn) error) (err error) {
	defer guard(&err)()
	return db.badger.View(f)
}

func scanIn(txn *badger.Txn, prefix []byte, f func(key, value []byte) error) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		err := item.Value(func(value []byte) error { return f(item.Key(), value) })
		if err != nil {
			return err
		}
	}
	return nil
}
