package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/store"
)

// The links by which a registry finds the layers of all releases, as files:
// STORE/overlay/links. The directory also leads to the blobs. The store itself
// cannot lie below, since it holds the upper directory, and ought not to: its
// index and its socket would be seen. STORE/docker lies there, whose blobs
// stand at another path; an attribute of overlayfs's own says at which, and a
// whiteout hides them at their own.
//
// It grows. What came since the last mount the index has in a journal, so that
// nothing else is looked at; the file STORE/overlay/complete says that there
// was a first time.
func linksDir(dir string) string     { return filepath.Join(dir, "overlay", "links") }
func blobsDir(dir string) string     { return filepath.Join(dir, "docker") }
func completeFile(dir string) string { return filepath.Join(dir, "overlay", "complete") }

// laying keeps two mounts from laying out links at the same time.
var laying sync.Mutex

// layOut brings the links up to date.
func layOut(s *store.Store) error {
	laying.Lock()
	defer laying.Unlock()
	if err := makeGround(s.Dir); err != nil {
		return fmt.Errorf("lay out links: %w", err)
	}
	if err := layOutNew(s); err != nil {
		return fmt.Errorf("lay out links: %w", err)
	}
	return leadToBlobs(s.Dir)
}

// makeGround makes the directories in which links and blobs lie. An overlay
// does not see what comes later into a directory that was missing below it
// when it first looked.
func makeGround(dir string) error {
	for _, path := range []string{
		filepath.Join(linksDir(dir), layout.Root, "repositories"),
		filepath.Join(dir, layout.Root, "blobs"),
	} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	blobs := filepath.Join(dir, layout.Root, "blobs", string(digest.SHA256))
	if _, err := os.Lstat(filepath.Join(blobs, "ff")); err == nil {
		return nil
	}
	for i := range 256 {
		if err := os.MkdirAll(filepath.Join(blobs, fmt.Sprintf("%02x", i)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func layOutNew(s *store.Store) error {
	if !complete(s.Dir) {
		return layOutAll(s)
	}
	pairs, err := s.Index.Journal()
	if err != nil || len(pairs) == 0 {
		return err
	}
	for _, p := range pairs {
		if err := layOutLink(s, p); err != nil {
			return err
		}
	}
	// What is forgotten must not be lost.
	if err := syncAll(s.Dir); err != nil {
		return err
	}
	return s.Index.Forget(pairs)
}

func complete(dir string) bool {
	_, err := os.Lstat(completeFile(dir))
	return err == nil
}

func layOutAll(s *store.Store) error {
	if err := s.Index.Follow(); err != nil {
		return err
	}
	if err := s.Index.Pairs(func(p index.Pair) error { return layOutLink(s, p) }); err != nil {
		return err
	}
	if err := syncAll(s.Dir); err != nil {
		return err
	}
	if err := os.WriteFile(completeFile(s.Dir), nil, 0o600); err != nil {
		return err
	}
	return store.SyncDir(filepath.Dir(completeFile(s.Dir)))
}

// layOutLink leaves manifests out, as package tree does: registry 2.8 would
// find there what _manifests must not give.
func layOutLink(s *store.Store, p index.Pair) error {
	if s.Index.KnowsManifest(p.Digest) {
		return nil
	}
	return writeLink(filepath.Join(linksDir(s.Dir), layout.LayerLinkPath(p.Repository, p.Digest)), p.Digest)
}

// writeLink makes a link appear whole. One that is there may be empty, or all
// zeros, if the power failed before it was on the disk.
func writeLink(path string, d digest.Digest) error {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == int64(len(d)) {
		if have, err := os.ReadFile(path); err == nil && string(have) == d.String() {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := path + ".new.tmp"
	if err := os.WriteFile(temp, []byte(d), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// leadToBlobs makes the directory in which blobs are found, and takes them
// from where they would be seen otherwise.
func leadToBlobs(dir string) error {
	top, below, _ := strings.Cut(layout.Root, "/")
	blobs := filepath.Join(linksDir(dir), layout.Root, "blobs")
	if err := os.Mkdir(blobs, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unix.Setxattr(blobs, redirectAttr, []byte("/"+below+"/blobs"), 0); err != nil {
		return &fs.PathError{Op: "setxattr", Path: blobs, Err: err}
	}
	entries, err := os.ReadDir(filepath.Join(dir, top))
	for _, e := range entries {
		if e.Name() == top {
			return fmt.Errorf("%s is no directory of a store", filepath.Join(dir, top, top))
		}
		hidden := makeWhiteout(filepath.Join(linksDir(dir), e.Name()))
		if hidden != nil && !errors.Is(hidden, fs.ErrExist) {
			err = errors.Join(err, hidden)
		}
	}
	return err
}
