package cas

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// commit puts a blob, at its place.
func (f *fixture) commit(content string) digest.Digest {
	f.T.Helper()
	d := f.put(content)
	f.must(f.Settle())
	return d
}

// A damaged blob is absent after its quarantine, kept, and can be committed
// anew; what was put aside before is not overwritten.
func TestQuarantine(t *testing.T) {
	f := setup(t)
	d := f.commit("content")
	for _, place := range []string{d.Encoded(), d.Encoded() + ".2", d.Encoded() + ".3"} {
		f.must(os.Remove(f.path(blobPath(d))))
		f.write(blobPath(d), "damaged in "+place)
		to, err := f.Quarantine(d)
		f.must(err)
		if to != "quarantine/sha256/"+place {
			t.Errorf("it is at %s", to)
		}
		if _, err := f.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat: %v", err)
		}
		if data, err := os.ReadFile(f.path(to)); string(data) != "damaged in "+place {
			t.Errorf("what was put aside is %q, %v", data, err)
		}
		f.commit("content")
		if info, err := f.Stat(d); err != nil || info.Size != 7 {
			t.Errorf("committed again: %v, %v", info, err)
		}
	}
}

// A blob that is whole stays.
func TestQuarantineOfWholeBlob(t *testing.T) {
	f := setup(t)
	d := f.commit("content")
	if _, err := f.Quarantine(d); !errors.Is(err, ErrWhole) {
		t.Errorf("got %v", err)
	}
	if _, err := f.Stat(d); err != nil {
		t.Error(err)
	}
}

// Whatever stands in a blob's place goes, and nothing that it points at.
func TestQuarantineOddFiles(t *testing.T) {
	f := setup(t)
	f.write("precious", "somebody's")
	for i, make := range []func(string) error{
		func(name string) error { return os.Symlink("../../../../../../../precious", name) },
		func(name string) error { return os.Mkdir(name, 0o755) },
	} {
		d := digest.FromString(string(rune('a' + i)))
		f.must(os.MkdirAll(path.Dir(f.path(blobPath(d))), 0o755))
		f.must(make(f.path(blobPath(d))))
		_, err := f.Quarantine(d)
		f.must(err)
		if _, err := f.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat: %v", err)
		}
	}
	if data, _ := os.ReadFile(f.path("precious")); string(data) != "somebody's" {
		t.Errorf("a symlink was followed: %q", data)
	}
	if _, err := f.Quarantine(digest.FromString("absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an absent blob: %v", err)
	}
	if _, err := f.Quarantine("sha256:../../precious"); err == nil {
		t.Error("a bad digest is taken")
	}
}

// The blob's directory is synced after the one that it went to.
func TestQuarantineSyncs(t *testing.T) {
	f := setup(t)
	d := f.commit("content")
	var synced []string
	f.disk.syncDir = func(name string) error { synced = append(synced, name); return nil }
	f.must(os.Remove(f.path(blobPath(d))))
	f.write(blobPath(d), "damaged")
	_, err := f.Quarantine(d)
	f.must(err)
	if want := []string{"quarantine/sha256", "quarantine", ".", path.Dir(blobPath(d))}; !slices.Equal(synced, want) {
		t.Errorf("synced %q", synced)
	}
	f.commit("content")
	f.disk.syncDir = func(string) error { return errFault }
	if _, err := f.Quarantine(d); !errors.Is(err, errFault) {
		t.Errorf("a sync that fails: %v", err)
	}
}

func TestInspect(t *testing.T) {
	f := setup(t)
	d := f.commit("content")
	all := func(leftover time.Duration) (flaws []Flaw) {
		f.Inspect(leftover, func(flaw Flaw) bool { flaws = append(flaws, flaw); return true })
		return flaws
	}
	if flaws := all(time.Hour); len(flaws) > 0 {
		t.Errorf("flaws of a sound store: %v", flaws)
	}
	f.must(os.Chmod(f.path(blobPath(d)), 0o666))
	f.write(path.Dir(blobPath(d))+"/more", "")
	f.write("tmp/left", "")
	flaws := all(-time.Hour)
	if len(flaws) != 3 {
		t.Fatalf("flaws: %v", flaws)
	}
	f.must(f.Protect(d))
	for _, flaw := range flaws {
		if flaw.Kind == Leftover {
			f.must(f.DiscardLeftover(flaw))
		} else if err := f.DiscardLeftover(flaw); err == nil {
			t.Errorf("%s was discarded", flaw.Path)
		}
	}
	if flaws = all(-time.Hour); len(flaws) != 1 || !strings.HasSuffix(flaws[0].Path, "/more") {
		t.Errorf("flaws in the end: %v", flaws)
	}
	n := 0
	f.write("docker/registry/v2/blobs/a", "")
	f.write("docker/registry/v2/blobs/b", "")
	f.Inspect(-time.Hour, func(Flaw) bool { n++; return false })
	if n != 1 {
		t.Errorf("it goes on after it was stopped: %d", n)
	}
}

func TestAfter(t *testing.T) {
	f := setup(t)
	var all []digest.Digest
	for i := range 40 {
		all = append(all, f.commit(string(rune('a'+i))))
	}
	slices.Sort(all)
	for i := -1; i < len(all); i += 13 {
		from := digest.Digest("")
		if i >= 0 {
			from = all[i]
		}
		var got []digest.Digest
		for info, err := range f.After(from) {
			f.must(err)
			got = append(got, info.Digest)
		}
		if !slices.Equal(got, all[i+1:]) {
			t.Errorf("after %d: %d blobs, want %d", i, len(got), len(all)-i-1)
		}
	}
}
