package mounttest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
)

var commitClauses = []clause{
	{"M5_mismatch", testMismatch},
	{"M5_bad_link", testBadLink},
	{"M5_whole_or_not_at_all", testWhole},
	{"M5_not_stored_again", testStoredOnce},
	{"M5_damaged_is_replaced", testDamagedReplaced},
	{"M6_immutable", testImmutable},
	{"M6_writer_of_the_upload", testUploadWriterLate},
	{"M6_mapping_of_the_upload", testUploadMapped},
	{"M6_rewritten_under_readers", testRewrittenUnderReaders},
}

func (m Mounts) storeBlob(d digest.Digest) string {
	return filepath.Join(m.Store, layout.BlobDataPath(d))
}

// stored is the file of a committed blob in the store, where it is before long.
func (m Mounts) stored(t *testing.T, d digest.Digest) string {
	t.Helper()
	name := m.storeBlob(d)
	if !m.within(func() bool { _, err := os.Lstat(name); return err == nil }) {
		t.Fatalf("%s is not there long after the commit", name)
	}
	return name
}

// testMismatch: content that its name does not fit is refused, on each of the
// ways that lead to a blob.
func testMismatch(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m5-mismatch", ReuseStore)
	for name, write := range map[string]func(d digest.Digest, content []byte) error{
		"upload": func(d digest.Digest, content []byte) error {
			u := must(registry3(dir).newUpload("repo"))(t)
			ok(t, u.write(content))
			err := u.move(d)
			hasContent(t, u.data(), content)
			ok(t, u.cancel())
			return err
		},
		"temp": func(d digest.Digest, content []byte) error {
			r := registry3(dir)
			return r.put(r.blob(d), content)
		},
		"in_place_synced": func(d digest.Digest, content []byte) error {
			return writeInPlace(registry2(dir).blob(d), content, (*os.File).Sync)
		},
		"in_place_closed": func(d digest.Digest, content []byte) error {
			return writeInPlace(registry2(dir).blob(d), content, (*os.File).Close)
		},
		"plain_file": func(d digest.Digest, content []byte) error {
			p := filepath.Join(dir, "some-file")
			writeFile(t, p, content)
			defer os.Remove(p)
			return os.Rename(p, registry2(dir).blob(d))
		},
	} {
		t.Run(name, func(t *testing.T) {
			promised, written := noise(t.Name()+"promised", 500), noise(t.Name()+"written", 500)
			d := digest.FromBytes(promised)
			ok(t, os.MkdirAll(filepath.Dir(registry2(dir).blob(d)), 0o777))
			if write(d, written) == nil {
				t.Error("wrong content is taken without an error")
			}
			absent(t, registry2(dir).blob(d))
			absent(t, registry2(dir).blob(digest.FromBytes(written)))
			absent(t, m.storeBlob(d))
			absent(t, m.storeBlob(digest.FromBytes(written)))
			sameList(t, "blob's directory", names(t, filepath.Dir(registry2(dir).blob(d))), nil)
			logged(t, m, d.String())
			logged(t, m, digest.FromBytes(written).String())
			// And it is no worse for the next who comes with the right bytes.
			ok(t, registry2(dir).put(registry2(dir).blob(d), promised))
			checkBlob(t, registry2(dir), promised)
		})
	}
}

// logged waits for the log to say something: it comes from another process.
func logged(t *testing.T, m Mounts, want string) {
	t.Helper()
	if !m.within(func() bool { return strings.Contains(m.Log(), want) }) {
		t.Errorf("the log does not name %s", want)
	}
}

// writeInPlace writes as 2.8 does, and returns what the last call says.
func writeInPlace(path string, content []byte, last func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return last(f)
}

func testBadLink(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m5-link", ReuseStore)
	for name, style := range map[string]func(string) registry{"2.8": registry2, "3.x": registry3} {
		t.Run(name, func(t *testing.T) {
			r := style(dir)
			img, other := newImage(t.Name(), 1), newImage(t.Name()+"other", 1)
			ok(t, r.pushImage("repo", "v1", img))
			before := find(t, dir)
			d := other.digest()
			for what, content := range map[string]string{
				"empty": "", "text": "hello", "short digest": "sha256:abcd", "unknown algorithm": "md5:d41d8cd98f00b204e9800998ecf8427e",
				"another's digest": string(digest.FromString("another")), "two lines": string(d) + "\n" + string(d),
			} {
				for kind, path := range map[string]string{
					"layer": r.layer("repo", d), "revision": r.revision("repo", d), "current": r.current("repo", "v1"), "history": r.history("repo", "v1", d),
				} {
					if kind == "current" && what == "another's digest" {
						continue // a tag may point at anything
					}
					if r.put(path, []byte(content)) == nil {
						t.Errorf("%s: a %s link is taken without an error", what, kind)
					}
				}
			}
			checkLink(t, r.current("repo", "v1"), img.digest())
			absent(t, r.layer("repo", d))
			absent(t, r.revision("repo", d))
			// A manifest's link may only name a manifest.
			blob := noise(t.Name(), 400)
			b := digest.FromBytes(blob)
			ok(t, r.put(r.blob(b), blob))
			if r.put(r.revision("repo", b), []byte(b)) == nil {
				t.Error("a blob that is no manifest is linked as one")
			}
			ok(t, r.deleteBlob(b))
			for _, d := range []digest.Digest{d, b} {
				ok(t, os.RemoveAll(filepath.Dir(r.revision("repo", d))))
				ok(t, os.RemoveAll(filepath.Dir(r.layer("repo", d))))
				ok(t, os.RemoveAll(filepath.Dir(r.history("repo", "v1", d))))
			}
			os.Remove(filepath.Dir(filepath.Dir(r.blob(b)))) // the prefix, if nothing else is in it
			sameList(t, "release", findFiles(t, dir), minusDirs(before))
		})
	}
}

func minusDirs(all []string) []string {
	var files []string
	for _, p := range all {
		if !strings.HasSuffix(p, "/") {
			files = append(files, p)
		}
	}
	return files
}

// testWhole: from when a blob is there, all of it is.
func testWhole(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m5-whole", ReuseStore)
	other := m.Mount(t, "m5-whole-other", ReuseStore)
	for i := range 8 {
		content := noise(fmt.Sprint(t.Name(), i), 400_000)
		d := digest.FromBytes(content)
		done := make(chan struct{})
		var wg sync.WaitGroup
		for _, root := range []string{dir, other} {
			wg.Go(func() {
				p := registry{root: root}.blob(d)
				for seen := false; !seen; {
					select {
					case <-done:
						seen = true // once more, and it must be there
					default:
					}
					if got, err := os.ReadFile(p); err == nil {
						same(t, "blob read while it is committed", got, content)
					} else if seen {
						t.Error(err)
					}
				}
			})
		}
		r := []registry{registry2(dir), registry3(dir)}[i%2]
		if i < 4 {
			ok(t, r.put(r.blob(d), content))
		} else {
			ok(t, r.push("repo", content))
		}
		close(done)
		wg.Wait()
	}
}

func testStoredOnce(t *testing.T, m Mounts) {
	content := noise(t.Name(), 10_000)
	d := digest.FromBytes(content)
	r := registry3(m.Mount(t, "m5-once-a", ReuseStore))
	u := must(r.newUpload("repo"))(t)
	ok(t, u.write(content))
	upload := inodeOf(t, u.data())
	ok(t, u.commit(d))
	first := inodeOf(t, m.stored(t, d))
	if first != upload {
		t.Errorf("the upload was inode %d of the disk, the blob is %d: its bytes were moved twice", upload, first)
	}
	if mode := must(os.Stat(m.stored(t, d)))(t).Mode(); mode != 0o444 {
		t.Errorf("blob has mode %v in the store", mode)
	}
	for i, again := range []registry{r, registry2(r.root), registry3(m.Mount(t, "m5-once-b", ReuseNone))} {
		ok(t, again.put(again.blob(d), content))
		ok(t, again.push(fmt.Sprint("repo", i), content))
		checkBlob(t, again, content)
	}
	if now := inodeOf(t, m.stored(t, d)); now != first {
		t.Errorf("blob is inode %d, was %d: it was stored again", now, first)
	}
}

// testDamagedReplaced: a blob of a wrong size in the store is repaired by who
// brings the right one.
func testDamagedReplaced(t *testing.T, m Mounts) {
	content := noise(t.Name(), 10_000)
	d := digest.FromBytes(content)
	r := registry3(m.Mount(t, "m5-damaged", ReuseStore))
	ok(t, r.push("repo", content))
	ok(t, os.Truncate(m.stored(t, d), 5000))
	ok(t, r.push("repo", content))
	checkBlob(t, r, content)
}

// testImmutable: nobody changes a blob.
func testImmutable(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m6-immutable", ReuseStore))
	content, other := noise(t.Name(), 10_000), noise(t.Name()+"other", 10_000)
	d := digest.FromBytes(content)
	ok(t, r.push("repo", content))
	p := r.blob(d)
	attacks := map[string]func() error{
		"write and sync":   func() error { return writeInPlace(p, other, (*os.File).Sync) },
		"write and close":  func() error { return writeInPlace(p, other, (*os.File).Close) },
		"truncate by name": func() error { return os.Truncate(p, 10) },
		"truncate to zero": func() error { return writeInPlace(p, nil, (*os.File).Sync) },
		"temp over it":     func() error { return r.put(p, other) },
		"one byte": func() error {
			f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
			defer f.Close()
			must(f.WriteAt([]byte{content[77] + 1}, 77))(t)
			return f.Sync()
		},
		"append": func() error {
			f := must(os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0))(t)
			defer f.Close()
			must(f.WriteString("more"))(t)
			return f.Sync()
		},
		"mapping": func() error {
			f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
			defer f.Close()
			b, err := unix.Mmap(int(f.Fd()), 0, 100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			b[0]++
			return unix.Munmap(b)
		},
		"rename away":    func() error { return os.Rename(p, filepath.Join(r.root, "mine")) },
		"hard link":      func() error { return os.Link(p, filepath.Join(r.root, "mine")) },
		"directory away": func() error { return os.Rename(filepath.Dir(p), filepath.Join(r.root, "mine")) },
		"exchange": func() error {
			writeFile(t, filepath.Join(r.root, "bait"), other)
			defer os.Remove(filepath.Join(r.root, "bait"))
			return unix.Renameat2(unix.AT_FDCWD, filepath.Join(r.root, "bait"), unix.AT_FDCWD, p, unix.RENAME_EXCHANGE)
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			if attack() == nil {
				t.Error("no error")
			}
			checkBlob(t, r, content)
			same(t, "store's file", must(os.ReadFile(m.stored(t, d)))(t), content)
		})
	}
	// What is let pass must change nothing either.
	ok(t, os.Chmod(p, 0o777))
	_, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	is(t, err, syscall.EEXIST)
	f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
	ok(t, f.Close())
	checkBlob(t, r, content)
	if mode := must(os.Stat(m.stored(t, d)))(t).Mode(); mode != 0o444 {
		t.Errorf("blob has mode %v in the store", mode)
	}
	sameList(t, "release", findFiles(t, r.root), []string{layout.BlobDataPath(d), layout.LayerLinkPath("repo", d)})
}

// testUploadWriterLate: who still has the upload open when it becomes a blob
// writes into nothing.
func testUploadWriterLate(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m6-late", ReuseStore))
	content := noise(t.Name(), 10_000)
	d := digest.FromBytes(content)
	u := must(r.newUpload("repo"))(t)
	ok(t, u.write(content))
	f := must(os.OpenFile(u.data(), os.O_RDWR, 0))(t)
	defer f.Close()
	ok(t, u.commit(d))
	f.WriteAt([]byte("changed"), 0)
	f.Truncate(3)
	f.Sync()
	checkBlob(t, r, content)
	same(t, "store's file", must(os.ReadFile(m.stored(t, d)))(t), content)
}

// A mapping outlives the descriptor it was made from.
func testUploadMapped(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m6-mapped", ReuseStore))
	content := noise(t.Name(), 10_000)
	d := digest.FromBytes(content)
	u := must(r.newUpload("repo"))(t)
	ok(t, u.write(content))
	f := must(os.OpenFile(u.data(), os.O_RDWR, 0))(t)
	mapping, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, f.Close())
	if errors.Is(err, unix.ENODEV) {
		return // no such mappings here
	}
	ok(t, err)
	defer unix.Munmap(mapping)
	ok(t, u.commit(d))
	copy(mapping, "changed")
	ok(t, unix.Msync(mapping, unix.MS_SYNC))
	checkBlob(t, r, content)
	same(t, "store's file", must(os.ReadFile(m.stored(t, d)))(t), content)
}

func testRewrittenUnderReaders(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m6-readers", ReuseStore)
	content := noise(t.Name(), 150_000)
	p := registry2(dir).blob(digest.FromBytes(content))
	ok(t, registry2(dir).put(p, content))
	f := must(os.Open(p))(t)
	defer f.Close()
	mapping := must(unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_SHARED))(t)
	defer unix.Munmap(mapping)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				same(t, "mapping", mapping, content)
				got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
				if err != nil {
					t.Error("read by descriptor:", err)
				}
				same(t, "descriptor", got, content)
				if got, err = os.ReadFile(p); err != nil {
					t.Error(err)
				}
				same(t, "opened anew", got, content)
				if info, err := f.Stat(); err != nil || info.Size() != int64(len(content)) {
					t.Errorf("fstat: %v, %v", info, err)
				}
			}
		})
	}
	for i := range 60 {
		r := []registry{registry2(dir), registry3(dir)}[i%2]
		if err := r.put(p, content); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
