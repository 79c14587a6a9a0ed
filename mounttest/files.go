package mounttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var fileSteps = []step{
	{"create_write_read", testCreateWriteRead},
	{"append", testAppend},
	{"truncate_down_and_up", testTruncate},
	{"pwrite_leaves_holes", testHoles},
	{"o_trunc", testOpenTruncate},
	{"o_excl", testExclusive},
	{"unlinked_while_open", testUnlinkOpen},
	{"chmod_of_unlinked", testChangeUnlinked},
	{"rename_over", testRenameOver},
	{"rename_over_open", testRenameOverOpen},
	{"rename_no_replace", testRenameNoReplace},
	{"renamed_while_open", testRenameOpen},
	{"symlink", testSymlink},
	{"hard_link", testHardLink},
	{"chmod", testChmod},
	{"chown", testChown},
	{"utimes", testUtimes},
	{"times_follow_writes", testWriteTimes},
	{"mmap_read", testMmapRead},
	{"mmap_write", testMmapWrite},
	{"dup", testDup},
	{"fsync", testFsync},
	{"fallocate", testFallocate},
	{"concurrent_writers", testConcurrentWriters},
	{"readers_and_a_writer", testReadersAndWriter},
	{"read_only_descriptor", testReadOnlyDescriptor},
	{"large", testLarge},
	{"special_names", testSpecialNames},
	{"statfs", testStatfs},
}

func testCreateWriteRead(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	for _, size := range []int{0, 1, 4095, 4096, 4097, 1<<20 + 17} {
		content := noise(t.Name()+fmt.Sprint(size), size)
		writeFile(t, p, content)
		hasContent(t, p, content)
	}
	ok(t, os.Remove(p))
	absent(t, p)
}

func testAppend(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("one "))
	f := must(os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0))(t)
	g := must(os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0))(t)
	for _, w := range []struct {
		f *os.File
		s string
	}{{f, "two "}, {g, "three "}, {f, "four"}} {
		must(w.f.WriteString(w.s))(t)
	}
	ok(t, errors.Join(f.Close(), g.Close()))
	hasContent(t, p, []byte("one two three four"))
}

func testTruncate(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("0123456789"))
	ok(t, os.Truncate(p, 4))
	hasContent(t, p, []byte("0123"))
	ok(t, os.Truncate(p, 8))
	hasContent(t, p, []byte("0123\x00\x00\x00\x00"))
	f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
	defer f.Close()
	ok(t, f.Truncate(2))
	hasContent(t, p, []byte("01"))
	ok(t, f.Truncate(3))
	if info := must(f.Stat())(t); info.Size() != 3 {
		t.Errorf("fstat says %d bytes, want 3", info.Size())
	}
}

func testHoles(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.Create(p))(t)
	must(f.WriteAt([]byte("end"), 1<<20))(t)
	must(f.WriteAt([]byte("mid"), 5000))(t)
	ok(t, f.Close())
	want := make([]byte, 1<<20+3)
	copy(want[5000:], "mid")
	copy(want[1<<20:], "end")
	hasContent(t, p, want)
}

func testOpenTruncate(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("a long first content"))
	old := must(os.Open(p))(t)
	defer old.Close()
	f := must(os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0))(t)
	hasContent(t, p, nil)
	must(f.WriteString("short"))(t)
	ok(t, f.Close())
	hasContent(t, p, []byte("short"))
	same(t, "what the descriptor of before reads", must(io.ReadAll(old))(t), []byte("short"))
}

func testExclusive(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600))(t)
	ok(t, f.Close())
	_, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	is(t, err, fs.ErrExist)

	// Of many who ask at once, one gets it.
	q := filepath.Join(dir, "race")
	won := make(chan bool, 16)
	for range cap(won) {
		go func() {
			f, err := os.OpenFile(q, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			f.Close()
			won <- err == nil
		}()
	}
	winners := 0
	for range cap(won) {
		if <-won {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d created the file, want 1", winners, cap(won))
	}
}

func testUnlinkOpen(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("still here"))
	f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
	defer f.Close()
	ok(t, os.Remove(p))
	absent(t, p)
	same(t, "unlinked file", must(io.ReadAll(f))(t), []byte("still here"))
	must(f.WriteString(", and more"))(t)
	if info := must(f.Stat())(t); info.Size() != 20 {
		t.Errorf("unlinked file has %d bytes, want 20", info.Size())
	}
	ok(t, f.Truncate(5))
	writeFile(t, p, []byte("another"))
	same(t, "unlinked file", must(io.ReadAll(io.NewSectionReader(f, 0, 99)))(t), []byte("still"))
	hasContent(t, p, []byte("another"))
}

func testChangeUnlinked(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.Create(p))(t)
	defer f.Close()
	ok(t, os.Remove(p))
	ok(t, f.Chmod(0o600)) // whether it shows afterwards matters to nobody
}

func testRenameOver(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("new"))
	writeFile(t, b, []byte("old"))
	ok(t, os.Rename(a, b))
	absent(t, a)
	hasContent(t, b, []byte("new"))
	is(t, os.Rename(a, b), fs.ErrNotExist)
	sameList(t, "directory", names(t, dir), []string{"b"})
}

func testRenameOverOpen(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("new"))
	writeFile(t, b, []byte("old"))
	f := must(os.Open(b))(t)
	defer f.Close()
	ok(t, os.Rename(a, b))
	same(t, "replaced file", must(io.ReadAll(f))(t), []byte("old"))
	hasContent(t, b, []byte("new"))
}

func testRenameNoReplace(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("new"))
	writeFile(t, b, []byte("old"))
	move := func() error {
		return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE)
	}
	is(t, move(), fs.ErrExist)
	hasContent(t, b, []byte("old"))
	ok(t, os.Remove(b))
	ok(t, move())
	hasContent(t, b, []byte("new"))
}

func testRenameOpen(t *testing.T, dir string) {
	sub := filepath.Join(dir, "sub")
	ok(t, os.Mkdir(sub, 0o755))
	p := filepath.Join(sub, "file")
	f := must(os.Create(p))(t)
	must(f.WriteString("before "))(t)
	ok(t, os.Rename(p, filepath.Join(dir, "moved")))
	ok(t, os.Rename(sub, filepath.Join(dir, "sub2")))
	must(f.WriteString("after"))(t)
	ok(t, f.Sync())
	ok(t, f.Close())
	hasContent(t, filepath.Join(dir, "moved"), []byte("before after"))
}

func testSymlink(t *testing.T, dir string) {
	writeFile(t, filepath.Join(dir, "file"), []byte("content"))
	for name, target := range map[string]string{
		"relative": "file", "absolute": filepath.Join(dir, "file"), "dangling": "../../nowhere/at/all",
	} {
		p := filepath.Join(dir, name)
		ok(t, os.Symlink(target, p))
		if got := must(os.Readlink(p))(t); got != target {
			t.Errorf("%s points to %q, want %q", name, got, target)
		}
		if mode := must(os.Lstat(p))(t).Mode(); mode.Type() != fs.ModeSymlink {
			t.Errorf("%s has mode %v", name, mode)
		}
		past := unix.NsecToTimespec(1e18)
		ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{past, past}, unix.AT_SYMLINK_NOFOLLOW))
		if at := must(os.Lstat(p))(t).ModTime().UnixNano(); at != 1e18 {
			t.Errorf("%s has the time %d", name, at)
		}
	}
	if at := must(os.Stat(filepath.Join(dir, "file")))(t).ModTime().UnixNano(); at == 1e18 {
		t.Error("the time of a link was set on what it points to")
	}
	hasContent(t, filepath.Join(dir, "relative"), []byte("content"))
	hasContent(t, filepath.Join(dir, "absolute"), []byte("content"))
	_, err := os.Stat(filepath.Join(dir, "dangling"))
	is(t, err, fs.ErrNotExist)
	is(t, os.Symlink("x", filepath.Join(dir, "file")), fs.ErrExist)
	ok(t, os.Remove(filepath.Join(dir, "relative")))
	present(t, filepath.Join(dir, "file"))
}

func testHardLink(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("one"))
	ok(t, os.Link(a, b))
	if inodeOf(t, a) != inodeOf(t, b) {
		t.Error("two names of a file have two inode numbers")
	}
	if n := must(os.Stat(a))(t).Sys().(*syscall.Stat_t).Nlink; n != 2 {
		t.Errorf("link count %d, want 2", n)
	}
	writeFile(t, b, []byte("two"))
	hasContent(t, a, []byte("two"))
	ok(t, os.Remove(a))
	hasContent(t, b, []byte("two"))
	ok(t, os.Chmod(b, 0o600))
	if n := must(os.Stat(b))(t).Sys().(*syscall.Stat_t).Nlink; n != 1 {
		t.Errorf("link count %d, want 1", n)
	}
	is(t, os.Link(b, dir), fs.ErrExist)
}

func testChmod(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, nil)
	for _, mode := range []fs.FileMode{0o600, 0o755, 0o444, 0o640 | fs.ModeSetgid, 0o755 | fs.ModeSetuid, 0o644} {
		ok(t, os.Chmod(p, mode))
		if got := must(os.Stat(p))(t).Mode(); got != mode {
			t.Errorf("mode %v, want %v", got, mode)
		}
	}
	sub := filepath.Join(dir, "sub")
	ok(t, os.Mkdir(sub, 0o700))
	ok(t, os.Chmod(sub, 0o1777&0o777|fs.ModeSticky))
	if got := must(os.Stat(sub))(t).Mode(); got != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("mode %v of a sticky directory", got)
	}
}

func testChown(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("only root may chown")
	}
	p, l := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	writeFile(t, p, nil)
	ok(t, os.Symlink("file", l))
	ok(t, os.Chown(p, 1234, 5678))
	ok(t, os.Chown(p, -1, 99))
	ok(t, os.Lchown(l, 7, 8))
	for path, want := range map[string][2]uint32{p: {1234, 99}, l: {7, 8}} {
		st := must(os.Lstat(path))(t).Sys().(*syscall.Stat_t)
		if st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", path, st.Uid, st.Gid, want)
		}
	}
}

func testUtimes(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, nil)
	a, m := time.Unix(1_000_000_000, 123_456_789), time.Unix(1_500_000_000, 987_654_321)
	for _, path := range []string{p, dir} {
		ok(t, os.Chtimes(path, a, m))
		st := must(os.Stat(path))(t).Sys().(*syscall.Stat_t)
		if got := time.Unix(st.Atim.Unix()); !got.Equal(a) {
			t.Errorf("%s: atime %v, want %v", path, got, a)
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(m) {
			t.Errorf("%s: mtime %v, want %v", path, got, m)
		}
	}
}

func testWriteTimes(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("x"))
	long := time.Unix(1_000_000_000, 0)
	ok(t, os.Chtimes(p, long, long))
	f := must(os.OpenFile(p, os.O_WRONLY, 0))(t)
	must(f.WriteString("y"))(t)
	ok(t, f.Close())
	if got := must(os.Stat(p))(t).ModTime(); time.Since(got) > time.Minute {
		t.Errorf("mtime %v after a write", got)
	}
}

func testMmapRead(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	content := noise(t.Name(), 100_000)
	writeFile(t, p, content)
	for name, flags := range map[string]int{"private": unix.MAP_PRIVATE, "shared": unix.MAP_SHARED} {
		f := must(os.Open(p))(t)
		m := must(unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, flags))(t)
		ok(t, f.Close())
		same(t, name+" mapping", m, content)
		ok(t, unix.Munmap(m))
	}
}

func testMmapWrite(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, make([]byte, 10_000))
	f := must(os.OpenFile(p, os.O_RDWR, 0))(t)
	defer f.Close()
	m := must(unix.Mmap(int(f.Fd()), 0, 10_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))(t)
	copy(m[5000:], "through the mapping")
	ok(t, unix.Msync(m, unix.MS_SYNC))
	ok(t, unix.Munmap(m))
	got := must(os.ReadFile(p))(t)
	same(t, "mapped file", got[5000:5019], []byte("through the mapping"))
}

func testDup(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.Create(p))(t)
	fd := must(unix.Dup(int(f.Fd())))(t)
	g := os.NewFile(uintptr(fd), "dup")
	must(f.WriteString("one "))(t)
	must(g.WriteString("two "))(t)
	ok(t, f.Close())
	must(g.WriteString("three"))(t)
	ok(t, g.Sync())
	ok(t, g.Close())
	hasContent(t, p, []byte("one two three"))
}

func testFsync(t *testing.T, dir string) {
	f := must(os.Create(filepath.Join(dir, "file")))(t)
	must(f.WriteString("x"))(t)
	ok(t, f.Sync())
	ok(t, unix.Fdatasync(int(f.Fd())))
	ok(t, f.Close())
	d := must(os.Open(dir))(t)
	defer d.Close()
	ok(t, d.Sync())
	ok(t, unix.Fdatasync(int(d.Fd())))
}

func testFallocate(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.Create(p))(t)
	defer f.Close()
	ok(t, unix.Fallocate(int(f.Fd()), 0, 0, 8192))
	hasContent(t, p, make([]byte, 8192))
}

func testConcurrentWriters(t *testing.T, dir string) {
	const writers, chunk, chunks = 8, 1000, 50
	p := filepath.Join(dir, "file")
	writeFile(t, p, nil)
	want := make([]byte, writers*chunks*chunk)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			for c := range chunks {
				off := (c*writers + w) * chunk
				content := noise(fmt.Sprint(t.Name(), w, c), chunk)
				copy(want[off:], content)
				if _, err := f.WriteAt(content, int64(off)); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	hasContent(t, p, want)
}

func testReadersAndWriter(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	f := must(os.Create(p))(t)
	r := must(os.Open(p))(t)
	defer r.Close()
	for i := range 50 {
		line := fmt.Sprintf("line %04d\n", i)
		must(f.WriteString(line))(t)
		buf := make([]byte, len(line))
		must(io.ReadFull(r, buf))(t)
		same(t, "read beside a writer", buf, []byte(line))
	}
	ok(t, f.Close())
}

func testReadOnlyDescriptor(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	writeFile(t, p, []byte("x"))
	f := must(os.Open(p))(t)
	defer f.Close()
	_, err := f.WriteString("y")
	is(t, err, syscall.EBADF)
	is(t, f.Truncate(0), syscall.EINVAL)
	w := must(os.OpenFile(p, os.O_WRONLY, 0))(t)
	defer w.Close()
	_, err = w.Read(make([]byte, 1))
	is(t, err, syscall.EBADF)
}

func testLarge(t *testing.T, dir string) {
	p := filepath.Join(dir, "file")
	content := noise(t.Name(), 24<<20)
	f := must(os.Create(p))(t)
	must(io.CopyBuffer(struct{ io.Writer }{f}, bytes.NewReader(content), make([]byte, 3<<20+5)))(t)
	ok(t, f.Sync())
	ok(t, f.Close())
	hasContent(t, p, content)
	f = must(os.Open(p))(t)
	defer f.Close()
	buf := make([]byte, 777)
	must(f.ReadAt(buf, 12345678))(t)
	same(t, "middle", buf, content[12345678:12345678+777])
}

func testSpecialNames(t *testing.T, dir string) {
	special := []string{" ", "a b", "new\nline", "\xff\xfe not UTF-8", "ümläut", "-rf", "...", "a\\b", "*", "docker.", "link", "data", "_layers"}
	for _, name := range special {
		writeFile(t, filepath.Join(dir, name), []byte(name))
		hasContent(t, filepath.Join(dir, name), []byte(name))
	}
	sameList(t, "directory", names(t, dir), special)
}

func testStatfs(t *testing.T, dir string) {
	var st unix.Statfs_t
	ok(t, unix.Statfs(dir, &st))
	if st.Bsize < 512 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Files == 0 || st.Namelen != 255 {
		t.Errorf("statfs says %+v", st)
	}
}
