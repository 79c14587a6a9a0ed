package tree_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/tree"
)

// A bench is a tree that can be closed and opened again, as by a mount after
// the other.
type bench struct {
	*tree.FS
	t       *testing.T
	dir     string
	blobs   *cas.Store
	index   *index.DB
	release *index.Release
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	b.blobs, err = cas.Open(b.dir)
	b.ok(err)
	b.index, err = index.Open(filepath.Join(b.dir, "index"), log)
	b.ok(err)
	if err := b.index.Create("r"); !errors.Is(err, fs.ErrExist) {
		b.ok(err)
	}
	b.release, err = b.index.Open("r")
	b.ok(err)
	b.FS, err = tree.New(b.blobs, b.index, b.release, b.dir, "files",
		tree.Options{Reuse: tree.ReuseStore, FileMode: 0o644, DirMode: 0o755, Log: log})
	b.ok(err)
}

func (b *bench) close() {
	b.release.Close()
	b.ok(errors.Join(b.FS.Close(), b.index.Close(), b.blobs.Close()))
}

func (b *bench) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

var nobody tree.Owner

// A way is how content comes to be at a path.
type way func(b *bench, p string, content []byte) error

var ways = map[string]way{"in place": inPlace, "by temp": byTemp, "from a plain file": fromPlain}

// inPlace writes a file as 2.8 does.
func inPlace(b *bench, p string, content []byte) error {
	h, _, err := b.Create(p, os.O_WRONLY, 0o644, nobody)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Truncate(0); err != nil {
		return err
	}
	if _, err := h.WriteAt(content, 0); err != nil {
		return err
	}
	return errors.Join(h.Sync(), h.Flush())
}

// byTemp writes it as 3.x does.
func byTemp(b *bench, p string, content []byte) error {
	temp := p + ".0123.tmp"
	h, _, err := b.Create(temp, os.O_WRONLY|os.O_EXCL, 0o644, nobody)
	if err != nil {
		return err
	}
	_, err = h.WriteAt(content, 0)
	if err := errors.Join(err, h.Sync(), h.Flush(), h.Close()); err != nil {
		return err
	}
	if err := b.Rename(temp, p, false); err != nil {
		return errors.Join(err, b.Unlink(temp))
	}
	return nil
}

// fromPlain is how an upload ends. What is refused stays where it was.
func fromPlain(b *bench, p string, content []byte) error {
	if err := inPlace(b, "upload", content); err != nil {
		return err
	}
	if err := b.Rename("upload", p, false); err != nil {
		return errors.Join(err, b.Unlink("upload"))
	}
	return nil
}

func (b *bench) putBlob(content []byte) digest.Digest {
	b.t.Helper()
	d := digest.FromBytes(content)
	b.ok(inPlace(b, layout.BlobDataPath(d), content))
	return d
}

// dump is a tree as text: every path that a listing shows, a directory with a
// slash, a file with its content. What listing and lookup say must agree.
func (b *bench) dump() map[string]string {
	b.t.Helper()
	all := make(map[string]string)
	b.dumpDir("", all)
	return all
}

func (b *bench) dumpDir(dir string, all map[string]string) {
	entries, err := b.ReadDir(dir)
	b.ok(err)
	if !slices.IsSortedFunc(entries, func(x, y tree.Entry) int { return strings.Compare(x.Name, y.Name) }) {
		b.t.Errorf("listing of %q is not sorted", dir)
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name)
		a, err := b.Stat(p)
		b.ok(err)
		if a.Mode.Type() != e.Type || a.Ino != e.Ino {
			b.t.Errorf("%s: listed as %v with inode %d, found as %v with %d", p, e.Type, e.Ino, a.Mode.Type(), a.Ino)
		}
		if a.Kind == tree.Dir {
			all[p+"/"] = ""
			b.dumpDir(p, all)
			continue
		}
		all[p] = b.read(p)
		if a.Size != int64(len(all[p])) {
			b.t.Errorf("%s: size %d, has %d bytes", p, a.Size, len(all[p]))
		}
	}
}

func (b *bench) read(p string) string {
	b.t.Helper()
	h, err := b.Open(p, os.O_RDONLY)
	b.ok(err)
	defer h.Close()
	content, err := io.ReadAll(io.NewSectionReader(h, 0, 1<<30))
	b.ok(err)
	return string(content)
}

// files leaves the directories of the registry's tree out, of which some do
// not outlive a mount.
func files(dump map[string]string) map[string]string {
	kept := make(map[string]string)
	for p, content := range dump {
		if !strings.HasSuffix(p, "/") || !strings.HasPrefix(p, "docker/") {
			kept[p] = content
		}
	}
	return kept
}

func (b *bench) same(what string, got, want map[string]string) {
	b.t.Helper()
	for p, w := range want {
		if g, there := got[p]; !there {
			b.t.Errorf("%s: %s is missing", what, p)
		} else if g != w {
			b.t.Errorf("%s: %s has %.80q, want %.80q", what, p, g, w)
		}
	}
	for p := range got {
		if _, there := want[p]; !there {
			b.t.Errorf("%s: %s is too many", what, p)
		}
	}
}

func imageOf(config, layer digest.Digest) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}]}`, config, layer)
}

func indexOf(child digest.Digest, mediaType string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",`+
		`"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, mediaType, child)
}
