package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/layout"
)

// A fixture is a store, and members that a test gives it.
type fixture struct {
	*testing.T
	dir     string
	blobs   *cas.Store
	members Archive
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, dir: t.TempDir()}
	var err error
	f.blobs, err = cas.Open(f.dir)
	f.must(err)
	t.Cleanup(func() { f.blobs.Close() })
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// put stores a blob, and makes it the next member.
func (f *fixture) put(content string) digest.Digest {
	f.Helper()
	d := digest.FromString(content)
	w, err := f.blobs.NewWriter()
	f.must(err)
	defer w.Close()
	_, err = w.File().WriteString(content)
	f.must(err)
	_, err = w.Commit(d)
	f.must(err)
	f.must(f.blobs.Settle())
	f.members = append(f.members, Member{Path: layout.BlobDataPath(d), Size: int64(len(content)), Blob: d})
	return d
}

func (f *fixture) path(d digest.Digest) string { return filepath.Join(f.dir, layout.BlobDataPath(d)) }

// overwrite damages a blob.
func (f *fixture) overwrite(d digest.Digest, content string) {
	f.Helper()
	f.must(os.Chmod(f.path(d), 0o600))
	f.must(os.WriteFile(f.path(d), []byte(content), 0o600))
}

// fillLarge makes blobs on both sides of all limits.
func (f *fixture) fillLarge() {
	f.Helper()
	f.put(strings.Repeat("a", alignFrom-1))
	f.put(strings.Repeat("b", alignFrom))
	f.put(strings.Repeat("c", bufferSize+17))
	f.put(strings.Repeat("d", 20<<20+4095)) // several calls of copying, and a rest
	f.members = append(f.members, Member{Path: "text", Size: 5, Text: "hello"})
}

// tar returns the tar, and checks its size on the way.
func (f *fixture) tar() []byte {
	f.Helper()
	var out bytes.Buffer
	told := int64(0)
	f.must(f.members.WriteTar(f.Context(), &out, f.blobs, Options{Verify: true, Progress: func(n int64) { told += n }}))
	if size := int64(out.Len()); f.members.Size() != size || told != size {
		f.Errorf("tar has %d bytes, Size said %d, Progress %d", size, f.members.Size(), told)
	}
	return out.Bytes()
}
