package archive

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// dump describes a tree: path, mode, content.
func dump(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		lines = append(lines, strings.Join([]string{rel, info.Mode().String(), info.ModTime().UTC().String(), digest.FromBytes(data).String()}, " "))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// compressed stores what content is compressed to, and makes a member of the
// content.
func (f *fixture) compressed(path, content string, compress func(string) string) {
	f.Helper()
	blob := compress(content)
	d := f.put(blob)
	f.members[len(f.members)-1] = Member{Path: path, Size: int64(len(content)), Blob: d, Unpacked: digest.FromString(content)}
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

func zstded(s string) string {
	w, _ := zstd.NewWriter(nil)
	return string(w.EncodeAll([]byte(s), nil))
}

func asIs(s string) string { return s }

func (f *fixture) fillAll() {
	f.fillLarge()
	f.compressed("layers/gzip", strings.Repeat("gzip", 1<<18), gzipped)
	f.compressed("layers/zstd", strings.Repeat("zstd", 1<<18), zstded)
	f.compressed("layers/plain", strings.Repeat("none", 1<<18), asIs)
	f.compressed("layers/empty", "", asIs)
	f.members = append(f.members, Member{Path: "layers/again", Same: "layers/gzip"})
}

func TestTreeIsWhatTheTarUnpacksTo(t *testing.T) {
	f := setup(t)
	f.fillAll()
	tree, untarred := t.TempDir(), t.TempDir()
	told := int64(0)
	f.must(f.members.WriteDir(t.Context(), tree, f.blobs, Options{Verify: true, Progress: func(n int64) { told += n }}))
	cmd := exec.Command("tar", "-xf", "-", "-C", untarred)
	cmd.Stdin = bytes.NewReader(f.tar())
	f.must(cmd.Run())
	if got, want := dump(t, tree), dump(t, untarred); got != want {
		t.Errorf("tree:\n%s\nuntarred:\n%s", got, want)
	}
	if told != f.members.Bytes() {
		t.Errorf("Progress told %d bytes of %d", told, f.members.Bytes())
	}
}

// Who writes into a tree must not write into the store.
func TestTreeIsNotTheStore(t *testing.T) {
	f := setup(t)
	f.fillAll()
	dir := t.TempDir()
	f.must(f.members.WriteDir(t.Context(), dir, f.blobs, Options{}))
	for _, m := range f.members {
		if m.Blob == "" {
			continue
		}
		var theirs, ours syscall.Stat_t
		f.must(errors.Join(syscall.Stat(filepath.Join(dir, m.Path), &theirs), syscall.Stat(f.path(m.Blob), &ours)))
		if theirs.Ino == ours.Ino && theirs.Dev == ours.Dev {
			t.Errorf("%s is the store's own file", m.Path)
		}
		f.must(os.WriteFile(filepath.Join(dir, m.Path), []byte("overwritten"), 0o600))
	}
	f.must(f.members.WriteDir(t.Context(), t.TempDir(), f.blobs, Options{Verify: true}))
}

func TestUnpackedIsChecked(t *testing.T) {
	for name, spoil := range map[string]func(*Member){
		"longer":  func(m *Member) { m.Size-- },
		"shorter": func(m *Member) { m.Size++ },
		"other":   func(m *Member) { m.Unpacked = digest.FromString("other") },
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			f.compressed("layer", strings.Repeat("x", 1<<20), gzipped)
			spoil(&f.members[0])
			var wrong *SizeError
			var corrupt *cas.CorruptError
			err := f.members.WriteTar(t.Context(), new(bytes.Buffer), f.blobs, Options{})
			if !errors.As(err, &wrong) && !errors.As(err, &corrupt) {
				t.Errorf("WriteTar: %v", err)
			}
			if err := f.members.WriteDir(t.Context(), t.TempDir(), f.blobs, Options{}); err == nil {
				t.Error("WriteDir found nothing wrong")
			}
		})
	}
	t.Run("damaged stream", func(t *testing.T) {
		f := setup(t)
		f.compressed("layer", strings.Repeat("x", 1<<20), gzipped)
		f.overwrite(f.members[0].Blob, gzipped(strings.Repeat("x", 1<<20))[:500])
		err := f.members.WriteTar(t.Context(), new(bytes.Buffer), f.blobs, Options{})
		if at := new(BlobError); !errors.As(err, &at) {
			t.Errorf("WriteTar: %v", err)
		}
	})
}
