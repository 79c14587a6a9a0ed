package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
)

// movePlain moves the plain files of a tree to another one on the same disk,
// each as high up as it goes: an upload as a whole. What the grammar knows
// stays. Nobody else uses either of the trees.
func movePlain(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := relative(from, path)
		if layout.Parse(rel).Kind != layout.Other || isWhiteout(entry) {
			return nil
		}
		if err := moveInto(path, filepath.Join(to, rel)); err != nil {
			return err
		}
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a release that never had any
	}
	return err
}

// removeEmpty removes a tree of directories, as far as they are empty.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeEmpty(filepath.Join(dir, e.Name())))
		}
	}
	if removeErr := os.Remove(dir); !errors.Is(removeErr, unix.ENOTEMPTY) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// relative is a path of the registry's tree, "" being the top.
func relative(root, path string) string {
	if path == root {
		return ""
	}
	return path[len(root)+1:]
}

// moveInto renames a file, and makes the directories above its new name. It
// replaces nothing.
func moveInto(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	return nil
}
