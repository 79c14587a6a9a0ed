// Package tree is the file system without FUSE: what a registry storage tree
// looks like, and what happens when it is written to, over one release of the
// index and the store's blobs.
//
// Lookups see the store, listings see the release: [FS.Stat] and [FS.Open]
// find every blob that the store holds, [FS.ReadDir] shows what the release
// has. Neither of them changes anything.
//
// A path has no leading slash; "" is the top. What a path means says package
// layout. Four kinds of file stand behind the names:
//
//   - a committed blob or a link is read from the store or the index;
//   - a draft is a blob or a link being written in place. It is its writer's
//     own until it is committed by Sync or Flush;
//   - a temp is the sibling of a blob or link that a registry renames over it;
//   - everything else is a plain file in the release's own directory, uploads
//     included.
//
// The package makes no assumption about who calls it, and no use of the
// mount: a registry's storage driver could stand on it as well as FUSE.
package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/regfs/regfs/beneath"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// A Reuse says where the link of a blob resolves that the release has not
// linked itself.
type Reuse string

// The ways of reuse.
const (
	// ReuseStore: in any repository, for every blob of the store.
	ReuseStore Reuse = "store"
	// ReuseRepository: where some release has linked the blob in the same
	// repository.
	ReuseRepository Reuse = "repository"
	// ReuseNone: nowhere; blobs of other releases do not open either.
	ReuseNone Reuse = "none"
)

// Options are a mount's choices. Owner and modes are those of everything but
// plain files, which have their own.
type Options struct {
	Reuse    Reuse
	UID, GID uint32
	FileMode fs.FileMode
	DirMode  fs.FileMode
	// Pins is a set of the store's for what is seen here; nil is a new one. It is
	// released by Close, and when New fails.
	Pins *cas.Pins
	// ReadOnly: nothing can be written, made, renamed or removed. It is EROFS.
	ReadOnly bool
	Log      *slog.Logger
}

// A FS is one release as a file system. Its methods may be called from many
// goroutines.
type FS struct {
	Options
	blobs   *cas.Store
	index   *index.DB
	release *index.Release
	dir     string       // the store's directory, for statfs
	area    string       // where the plain files lie, relative to dir
	plain   *beneath.Dir // the same, opened

	root  bool        // whether the server may give files away
	self  Owner       // whose files it makes
	umask fs.FileMode // what it takes from their modes

	opening sync.RWMutex // held for reading while a plain file is being opened

	mu    sync.Mutex // guards what follows; a leaf: nothing is called under it that blocks
	dirs  names[struct{}]
	temps names[*temp]
	// tempCount is how many temps have a name.
	tempCount int

	private atomic.Uint64 // the last inode number given to a draft or a temp
}

// New makes the file system of a release. dir is the store's directory, area
// the directory below it for the release's plain files, which is made if it is
// not there.
func New(blobs *cas.Store, db *index.DB, release *index.Release, dir, area string, o Options) (*FS, error) {
	if o.Pins == nil {
		o.Pins = blobs.NewPins("seen through a mount of " + release.Name)
	}
	plain, err := openArea(dir, area)
	if err != nil {
		o.Pins.Release()
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, area), Err: err}
	}
	t := &FS{
		umask: umask(), root: os.Geteuid() == 0, self: Owner{uint32(os.Geteuid()), uint32(os.Getegid())},
		Options: o, blobs: blobs, index: db, release: release, dir: dir, area: area, plain: plain,
		dirs: make(names[struct{}]), temps: make(names[*temp]),
	}
	for _, p := range release.Dirs() {
		t.dirs.set(p, struct{}{})
	}
	return t, nil
}

// openArea opens a directory of the store, and makes it if need be. A symlink in
// its place, or on the way there, is not followed.
func openArea(dir, area string) (*beneath.Dir, error) {
	store, err := beneath.Open(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if err := store.MkdirAll(area, 0o700); err != nil {
		return nil, err
	}
	return store.Sub(area)
}

// umask is what the process takes from the mode of a new file. Where it is not
// to be found out, it may be anything.
func umask() fs.FileMode {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fs.ModePerm
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "Umask:"); ok {
			if mask, err := strconv.ParseUint(strings.TrimSpace(value), 8, 32); err == nil {
				return fs.FileMode(mask)
			}
		}
	}
	return fs.ModePerm
}

// Close gives up the plain files' directory, and the blobs that were seen here.
// Open handles stay good.
func (t *FS) Close() error {
	t.Pins.Release()
	return t.plain.Close()
}

// A Kind tells apart what a caller must treat differently.
type Kind int

// The kinds of Attr.
const (
	Dir Kind = iota
	// Blob is a committed blob: its bytes are a file of the store's, and never
	// change.
	Blob
	// Link is a link that is named after what it says: it never changes either.
	Link
	// Small is a tag's link or a draft: served from memory or a private file,
	// which may give way to another at any time.
	Small
	// Temp is what will be renamed over a blob or a link.
	Temp
	// Plain is an ordinary file.
	Plain
	Symlink
)

// Own says whether a name is a plain file's: what stands there, or that nothing
// does, changes only by calls of this file system for that name. A blob's or a
// link's name may come to resolve by what another release brings, and a temp
// is there to become one.
func Own(p string) bool { return layout.Parse(p).Kind == layout.Other }

// Pushed says whether a name is one of a repository's manifests or tags: nothing
// is there that was not pushed to this release.
func Pushed(p string) bool {
	kind := layout.Parse(p).Kind
	return kind >= layout.Manifests && kind <= layout.TagIndexLink
}

// Attr describes a file.
type Attr struct {
	Kind Kind
	// Settled: it goes only when it is removed here, and not when something else
	// is.
	Settled  bool
	Ino      uint64 // stable over mounts, but for drafts and temps
	Mode     fs.FileMode
	Size     int64
	Time     time.Time
	Atime    time.Time // of plain files; zero elsewhere
	Ctime    time.Time // of plain files; zero elsewhere
	UID, GID uint32
	Nlink    uint32
	Blocks   int64 // of 512 bytes; of plain files
}

// Inode numbers: those of the disk for plain files, with the two top bits for
// what is no file of its own there.
const (
	inoNamed   = 1 << 62 // a hash of the path
	inoPrivate = 2 << 62 // a counter
)

func namedIno(p string) uint64 {
	// A strong hash: nodes are told apart by it, and names are a pusher's choice.
	h := sha256.Sum256([]byte(p))
	return binary.BigEndian.Uint64(h[:])&(inoNamed-1) | inoNamed
}

func (t *FS) privateIno() uint64 { return t.private.Add(1) | inoPrivate }

// dirAttr describes a directory of the grammar. All have the release's time:
// one that is there for a lookup, and is made later, must not seem to change
// while tar reads it.
func (t *FS) dirAttr(p string) Attr {
	return Attr{
		Kind: Dir, Ino: namedIno(p), Mode: fs.ModeDir | t.DirMode, Size: 4096, Time: t.release.Created,
		UID: t.UID, GID: t.GID, Nlink: 1, // 1: "not counted", so that find does not trust it
	}
}

func (t *FS) fileAttr(kind Kind, ino uint64, size int64, at time.Time) Attr {
	return Attr{Kind: kind, Ino: ino, Mode: t.FileMode, Size: size, Time: at, UID: t.UID, GID: t.GID, Nlink: 1}
}

// Statfs describes the disk of the store.
func (t *FS) Statfs() (syscall.Statfs_t, error) {
	var st syscall.Statfs_t
	err := syscall.Statfs(t.dir, &st)
	return st, pathError("statfs", "", err)
}

// writable says whether anything may be changed.
func (t *FS) writable(op, p string) error {
	if t.ReadOnly {
		return pathError(op, p, syscall.EROFS)
	}
	return nil
}

func pathError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// names is a set of paths, by directory and name in it.
type names[V any] map[string]map[string]V

func (n names[V]) get(p string) (V, bool) {
	v, ok := n[parent(p)][path.Base(p)]
	return v, ok
}

func (n names[V]) set(p string, v V) {
	dir := parent(p)
	if n[dir] == nil {
		n[dir] = make(map[string]V)
	}
	n[dir][path.Base(p)] = v
}

func (n names[V]) remove(p string) {
	dir := parent(p)
	delete(n[dir], path.Base(p))
	if len(n[dir]) == 0 {
		delete(n, dir)
	}
}

// parent is the directory of a path, "" being the top.
func parent(p string) string {
	if dir := path.Dir(p); dir != "." {
		return dir
	}
	return ""
}
