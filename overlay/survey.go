package overlay

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// A survey is what an upper directory says of the registry's tree. Its paths
// are the tree's.
type survey struct {
	root  *os.Root // keeps what a user of the mount has put there from leading out
	links []link
	blobs []blob
	dirs  map[string]bool // directories of the grammar
	// gone are the names that something below has and the mount has not: those
	// with a whiteout, and those of directories that replace the ones below.
	gone    []string
	seen    map[string]bool // links and blobs, also such as cannot be taken
	emptied []digest.Digest // blobs' directories with nothing in them any more
	refused refusals
}

type link struct {
	layout.Path
	name   string
	target digest.Digest
	time   time.Time
}

type blob struct {
	digest digest.Digest
	name   string
	stamp  stamp
}

// A stamp tells whether a file is still what it was: nobody sets a ctime.
type stamp struct {
	ino   uint64
	size  int64
	ctime syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	st := info.Sys().(*syscall.Stat_t)
	return stamp{st.Ino, st.Size, st.Ctim}
}

// take reads an upper directory. The blobs come last: a registry writes them
// before the links that name them, so none is missed whose link is seen.
func take(dir string) (*survey, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &survey{root: root, dirs: make(map[string]bool), seen: make(map[string]bool)}
	blobs := layout.Path{Kind: layout.Blobs}.String()
	err = s.walk(dir, dir, blobs)
	if err == nil {
		err = s.walk(dir, filepath.Join(dir, blobs), "")
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

func (s *survey) close() error { return s.root.Close() }

func (s *survey) walk(root, top, skip string) error {
	return filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil // it has gone meanwhile
		}
		if err != nil {
			return err
		}
		name := relative(root, path)
		if name == skip && name != "" && entry.IsDir() {
			return fs.SkipDir
		}
		return s.visit(path, name, entry)
	})
}

func (s *survey) visit(path, name string, entry fs.DirEntry) error {
	at := layout.Parse(name)
	switch {
	case at.Kind == layout.Other && entry.IsDir():
		return fs.SkipDir
	case at.Kind == layout.Other, at.Kind == layout.Temp:
		return nil // nobody has a use for half a rename
	case isWhiteout(entry):
		s.gone = append(s.gone, name)
	case entry.IsDir() && at.Kind.IsDir():
		return s.visitDir(path, name, at)
	case entry.Type() != 0 || at.Kind.IsDir():
		s.refuse(name, time.Time{}, errors.New("not what belongs there"))
		if entry.IsDir() {
			return fs.SkipDir
		}
	default:
		return s.visitFile(name, at, entry)
	}
	return nil
}

func (s *survey) visitDir(path, name string, at layout.Path) error {
	s.dirs[name] = true
	opaque := isOpaque(path)
	if opaque {
		s.gone = append(s.gone, name)
	}
	if at.Kind != layout.BlobDir || opaque || isCopiedUp(path) {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) == 0 {
		s.emptied = append(s.emptied, at.Digest)
	}
	return nil
}

func (s *survey) visitFile(name string, at layout.Path, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return nil // it has gone meanwhile
	}
	s.seen[name] = true
	if at.Kind == layout.BlobData {
		s.blobs = append(s.blobs, blob{at.Digest, name, stampOf(info)})
		return nil
	}
	d, err := s.readLink(name)
	if err == nil && at.Digest != "" && at.Digest != d {
		err = errors.New("link names " + d.String())
	}
	if err != nil {
		s.refuse(name, info.ModTime(), err)
		return nil
	}
	s.links = append(s.links, link{at, name, d, info.ModTime()})
	return nil
}

// maxLink bounds what is read of a link; the longest digest has 135 bytes.
const maxLink = 1 << 10

func (s *survey) readLink(name string) (digest.Digest, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxLink))
	if err != nil {
		return "", err
	}
	return layout.ParseLink(content)
}

func (s *survey) refuse(name string, at time.Time, err error) {
	s.refused.add(Refusal{Path: name, Reason: err.Error(), time: at})
}
