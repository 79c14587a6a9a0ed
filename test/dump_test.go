package test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A dump is a tree as text, one line a file: path, size, digest. A directory
// is its path with a slash at the end.
type dump []string

func fileLine(path string, r io.Reader) (string, error) {
	d := digest.Canonical.Digester()
	n, err := io.Copy(d.Hash(), r)
	return fmt.Sprintf("%s %d %s", path, n, d.Digest()), err
}

func (d dump) keep(f func(line string) bool) dump {
	var kept dump
	for _, line := range d {
		if f(line) {
			kept = append(kept, line)
		}
	}
	return kept
}

// files leaves out the directories.
func (d dump) files() dump {
	return d.keep(func(line string) bool { return !strings.HasSuffix(line, "/") })
}

// withoutUploads leaves out the empty directories that a registry's uploads
// leave in each repository: an export has none.
func (d dump) withoutUploads() dump {
	return d.keep(func(line string) bool { return !strings.HasSuffix(line, "/_uploads/") })
}

// names leaves of each line the path.
func (d dump) names() (names []string) {
	for _, line := range d {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names
}

// dumpDir reads a directory.
func dumpDir(t *testing.T, dir string) dump {
	t.Helper()
	var all dump
	ok(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, name)
		if err != nil || rel == "." {
			return err
		}
		if e.IsDir() {
			all = append(all, rel+"/")
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		line, err := fileLine(rel, f)
		all = append(all, line)
		return err
	}))
	return all
}

// dumpTar reads a tar file.
func dumpTar(t *testing.T, name string) dump {
	t.Helper()
	var all dump
	eachMember(t, name, func(h *tar.Header, r io.Reader, _ int64) {
		switch name := path.Clean(h.Name); {
		case name == ".":
		case h.Typeflag == tar.TypeDir:
			all = append(all, name+"/")
		default:
			line, err := fileLine(name, r)
			ok(t, err)
			all = append(all, line)
		}
	})
	return all
}

// eachMember reads a tar; at is where a member's content begins.
func eachMember(t *testing.T, name string, do func(h *tar.Header, content io.Reader, at int64)) {
	t.Helper()
	f, err := os.Open(name)
	ok(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		ok(t, err)
		at, err := f.Seek(0, io.SeekCurrent)
		ok(t, err)
		do(h, r, at)
	}
}
