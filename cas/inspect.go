package cas

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
	"github.com/regfs/regfs/layout"
)

// A Flaw is something in the store's directories that should not be, or not be
// so.
type Flaw struct {
	Path   string        // in the store
	Digest digest.Digest // of the blob whose flaw it is; empty for what is none
	Kind   FlawKind
	Text   string
}

// A FlawKind says what can be done about a flaw.
type FlawKind int

const (
	Foreign    FlawKind = iota // not a blob, and nothing of ours
	Unreadable                 // a blob's file or a directory that cannot be read
	WrongMode                  // a blob that somebody may write to, or its owner not read
	WrongOwner                 // a blob that belongs to another user than the store
	Leftover                   // a file in the directory for files that are being written
)

// Inspect walks the store and yields what is wrong with its files, without
// reading one. What comes and goes meanwhile may be seen or not, and is no
// flaw. Files that are being written are told from those that were left behind
// by the time of the last change, which must be so long ago.
func (s *Store) Inspect(leftover time.Duration, yield func(Flaw) bool) {
	owner, err := s.dir.Lstat(".")
	if err != nil {
		yield(Flaw{Path: ".", Kind: Unreadable, Text: reason(err)})
		return
	}
	i := inspection{store: s, owner: owner.Uid, yield: yield}
	fs.WalkDir(s.dir, blobsDir, i.visit)
	if !i.stopped {
		i.temp(leftover)
	}
}

type inspection struct {
	store   *Store
	owner   uint32
	yield   func(Flaw) bool
	stopped bool
}

func (i *inspection) report(f Flaw) error {
	if i.stopped = i.stopped || !i.yield(f); i.stopped {
		return fs.SkipAll
	}
	return nil
}

func (i *inspection) visit(name string, entry fs.DirEntry, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	at := layout.Parse(name)
	if err != nil {
		return i.report(Flaw{Path: name, Digest: at.Digest, Kind: Unreadable, Text: reason(err)})
	}
	switch {
	case at.Kind == layout.BlobData:
		return i.blob(name, at.Digest)
	case entry.IsDir() && at.Kind.IsDir():
		return nil
	}
	text := "no part of a blob's path"
	if at.Kind.IsDir() {
		text = "not a directory"
	}
	if err := i.report(Flaw{Path: name, Kind: Foreign, Text: text}); err != nil || !entry.IsDir() {
		return err
	}
	return fs.SkipDir
}

func (i *inspection) blob(name string, d digest.Digest) error {
	stat, err := i.store.dir.Lstat(name)
	var f Flaw
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		f = Flaw{Kind: Unreadable, Text: reason(err)}
	case !beneath.IsRegular(stat):
		f = Flaw{Kind: Unreadable, Text: beneath.ErrNotRegular.Error()}
	case stat.Uid != i.owner:
		f = Flaw{Kind: WrongOwner, Text: "belongs to another user than the store"}
	case stat.Mode&0o7777 != blobMode:
		f = Flaw{Kind: WrongMode, Text: "has the mode " + octal(stat.Mode) + ", not " + octal(blobMode)}
	default:
		return nil
	}
	f.Path, f.Digest = name, d
	if err := i.report(f); err != nil {
		return err
	}
	if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fs.SkipDir
	}
	return nil
}

func octal(mode uint32) string {
	const digits = "01234567"
	return string([]byte{'0', digits[mode>>6&7], digits[mode>>3&7], digits[mode&7]})
}

func reason(err error) string {
	if inner := new(fs.PathError); errors.As(err, &inner) {
		err = inner.Err
	}
	return err.Error()
}

// temp looks for what was left in the directory for files that are being
// written.
func (i *inspection) temp(leftover time.Duration) {
	names, err := i.store.tempNames()
	if err != nil {
		i.report(Flaw{Path: tempDir, Kind: Unreadable, Text: reason(err)})
		return
	}
	for _, name := range names {
		at := path.Join(tempDir, name)
		stat, err := i.store.dir.Lstat(at)
		if err != nil || stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		changed := time.Unix(stat.Ctim.Unix())
		if strings.HasSuffix(name, ".from") || time.Since(changed) < leftover {
			continue
		}
		if i.report(Flaw{Path: at, Kind: Leftover, Text: "written by nobody since " + changed.UTC().Format(time.RFC3339)}) != nil {
			return
		}
	}
}
