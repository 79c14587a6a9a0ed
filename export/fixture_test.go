package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

const foreignLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

// A fixture is a store with one release, to which a test pushes as a registry
// would.
type fixture struct {
	*testing.T
	dir     string
	blobs   *cas.Store
	db      *index.DB
	release *index.Release
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, dir: t.TempDir()}
	var err error
	f.blobs, err = cas.Open(f.dir)
	f.must(err)
	t.Cleanup(func() { f.blobs.Close() })
	f.db, err = index.Open(filepath.Join(f.dir, "index"), slog.New(slog.DiscardHandler))
	f.must(err)
	t.Cleanup(func() { f.db.Close() })
	f.release = f.newRelease("v1")
	return f
}

func (f *fixture) newRelease(name string) *index.Release {
	f.Helper()
	f.must(f.db.Create(name))
	r, err := f.db.Open(name)
	f.must(err)
	f.Cleanup(r.Close)
	return r
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// put stores a blob, and describes it.
func (f *fixture) put(content string) v1.Descriptor {
	f.Helper()
	return f.putAs(digest.SHA256, content)
}

func (f *fixture) putAs(a digest.Algorithm, content string) v1.Descriptor {
	f.Helper()
	d := describeAs(a, content)
	w, err := f.blobs.NewWriter()
	f.must(err)
	defer w.Close()
	_, err = w.File().WriteString(content)
	f.must(err)
	_, err = w.Commit(d.Digest)
	f.must(err)
	f.must(f.blobs.Settle())
	return d
}

// describeAs describes a blob that need not be in any store.
func describeAs(a digest.Algorithm, content string) v1.Descriptor {
	return v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerGzip,
		Digest:    a.FromString(content),
		Size:      int64(len(content)),
	}
}

func lost(content string) v1.Descriptor { return describeAs(digest.SHA256, content) }

func foreign(content string) v1.Descriptor {
	d := lost(content)
	d.MediaType = foreignLayer
	return d
}

// image is the manifest of an image.
func image(config v1.Descriptor, layers ...v1.Descriptor) string {
	config.MediaType = v1.MediaTypeImageConfig
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers}
	m.SchemaVersion = 2
	return encode(m)
}

// list is the manifest of an index.
func list(manifests ...v1.Descriptor) string {
	m := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: manifests}
	m.SchemaVersion = 2
	return encode(m)
}

// child describes an image for an index.
func child(manifest, architecture string) v1.Descriptor {
	d := lost(manifest)
	d.MediaType = v1.MediaTypeImageManifest
	d.Platform = &v1.Platform{OS: "linux", Architecture: architecture}
	return d
}

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// push stores a manifest and links it, and tags it unless the tag is empty.
func (f *fixture) push(repo, tag, content string) digest.Digest {
	f.Helper()
	return f.pushTo(f.release, repo, tag, content)
}

func (f *fixture) pushTo(r *index.Release, repo, tag, content string) digest.Digest {
	f.Helper()
	d := f.put(content).Digest
	f.must(r.LinkManifest(repo, d, f.facts(d, content)))
	if tag != "" {
		f.must(r.AddHistory(repo, tag, d))
		f.must(r.Tag(repo, tag, d))
	}
	return d
}

// facts are those of a manifest and of its children, as far as they are there.
func (f *fixture) facts(d digest.Digest, content string) index.Facts {
	f.Helper()
	m, err := manifest.Parse([]byte(content))
	f.must(err)
	facts := index.Facts{d: m}
	for _, ref := range m.Refs {
		data, err := os.ReadFile(f.path(ref.Digest))
		if ref.Role == manifest.Child && err == nil {
			below, err := manifest.Parse(data)
			f.must(err)
			facts[ref.Digest] = below
		}
	}
	return facts
}

func (f *fixture) path(d digest.Digest) string {
	return filepath.Join(f.dir, layout.BlobDataPath(d))
}

func (f *fixture) remove(d digest.Digest) { f.Helper(); f.must(os.Remove(f.path(d))) }

// overwrite damages a blob.
func (f *fixture) overwrite(d digest.Digest, content string) {
	f.Helper()
	f.must(os.Chmod(f.path(d), 0o600))
	f.must(os.WriteFile(f.path(d), []byte(content), 0o600))
}

func (f *fixture) take() *Inventory {
	f.Helper()
	return Take(f.release, f.blobs)
}

// tar returns the release's tar, from an inventory that has been through a
// socket, and checks its size on the way.
func (f *fixture) tar() []byte {
	f.Helper()
	var inv Inventory
	f.must(json.Unmarshal([]byte(encode(f.take())), &inv))
	var out bytes.Buffer
	var told int64
	options := archive.Options{Verify: true, Progress: func(n int64) { told += n }}
	f.must(inv.WriteTar(f.Context(), &out, f.blobs, options))
	if size := int64(out.Len()); inv.Size() != size || told != size {
		f.Errorf("tar has %d bytes, Size said %d, Progress %d", size, inv.Size(), told)
	}
	return out.Bytes()
}

// dump unpacks a tar with GNU tar, and describes what came out: a line a file,
// with mode, modification time, size and digest; a directory with its mode.
func (f *fixture) dump(tar []byte) string {
	f.Helper()
	return f.unpack(tar, "tar", "-xpf", "-")
}

// unpack is dump with another program, which reads its standard input and
// unpacks to where it is.
func (f *fixture) unpack(tar []byte, command ...string) string {
	f.Helper()
	dir := f.TempDir()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(tar)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		f.Fatalf("%s: %v: %s", command[0], err, out)
	}
	var lines []string
	f.must(filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		line, err := describeFile(name, entry)
		lines = append(lines, strings.TrimPrefix(name, dir+"/")+line)
		return err
	}))
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func describeFile(name string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	if entry.IsDir() { // whose time tar sets before it comes back to write links
		return fmt.Sprintf(" %v", info.Mode()), nil
	}
	line := fmt.Sprintf(" %v %s", info.Mode(), info.ModTime().UTC().Format("2006-01-02"))
	data, err := os.ReadFile(name)
	return line + fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data)), err
}

// A tree is what a tar should unpack to: path → content.
type tree map[string]string

func (t tree) blob(contents ...string) {
	for _, c := range contents {
		t[layout.BlobDataPath(digest.FromString(c))] = c
	}
}

func (t tree) link(path string, d digest.Digest) { t[path] = d.String() }

// dump describes the tree as fixture.dump would.
func (t tree) dump() string {
	lines := make(map[string]bool)
	for path, content := range t {
		lines[fmt.Sprintf("%s -rw-r--r-- 1980-01-01 %d %x", path, len(content), sha256.Sum256([]byte(content)))] = true
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			lines[dir+" drwxr-xr-x"] = true
		}
	}
	return strings.Join(names(lines).sorted(), "\n")
}
