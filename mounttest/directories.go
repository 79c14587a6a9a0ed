package mounttest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var directorySteps = []step{
	{"mkdir_rmdir", testMkdirRmdir},
	{"wrong_kind", testWrongKind},
	{"rename_directory", testRenameDirectory},
	{"rename_directory_over", testRenameDirectoryOver},
	{"current_directory_renamed", testOpenDirectoryRenamed},
	{"long_names", testLongNames},
	{"deep", testDeep},
	{"5000_entries_while_deleting", testDeleteWhileListing},
	{"rewinddir", testRewinddir},
	{"seekdir", testSeekdir},
	{"inode_numbers_of_entries", testEntryInodes},
	{"types_of_entries", testEntryTypes},
	{"remove_all", testRemoveAll},
	{"concurrent_mkdir_all", testConcurrentMkdirAll},
	{"listed_at_once", testListedAtOnce},
	{"inode_reuse", testInodeReuse},
}

func testMkdirRmdir(t *testing.T, dir string) {
	sub := filepath.Join(dir, "sub")
	ok(t, os.Mkdir(sub, 0o750))
	if mode := must(os.Stat(sub))(t).Mode(); mode != fs.ModeDir|0o750 {
		t.Errorf("mode %v", mode)
	}
	is(t, os.Mkdir(sub, 0o750), fs.ErrExist)
	writeFile(t, filepath.Join(sub, "file"), nil)
	is(t, unix.Rmdir(sub), syscall.ENOTEMPTY)
	ok(t, os.Remove(filepath.Join(sub, "file")))
	ok(t, unix.Rmdir(sub))
	absent(t, sub)
	is(t, unix.Rmdir(sub), fs.ErrNotExist)
	is(t, os.Mkdir(filepath.Join(sub, "deeper"), 0o750), fs.ErrNotExist)
}

func testWrongKind(t *testing.T, dir string) {
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	writeFile(t, file, nil)
	ok(t, os.Mkdir(sub, 0o755))
	is(t, unix.Rmdir(file), syscall.ENOTDIR)
	is(t, unix.Unlink(sub), syscall.EISDIR)
	is(t, os.Mkdir(file, 0o755), fs.ErrExist)
	is(t, os.Rename(file, sub), syscall.EEXIST) // what os makes of EISDIR
	is(t, unix.Rename(file, sub), syscall.EISDIR)
	is(t, unix.Rename(sub, file), syscall.ENOTDIR)
	is(t, unix.Rename(sub, filepath.Join(sub, "inside")), syscall.EINVAL)
	_, err := os.Stat(filepath.Join(file, "below"))
	is(t, err, syscall.ENOTDIR)
	_, err = os.OpenFile(sub, os.O_WRONLY, 0)
	is(t, err, syscall.EISDIR)
	_, err = os.OpenFile(filepath.Join(dir, "nothing"), os.O_RDONLY, 0)
	is(t, err, fs.ErrNotExist)
}

func testRenameDirectory(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, os.MkdirAll(filepath.Join(a, "x", "y"), 0o755))
	writeFile(t, filepath.Join(a, "x", "y", "file"), []byte("deep"))
	ok(t, os.Rename(a, b))
	absent(t, a)
	hasContent(t, filepath.Join(b, "x", "y", "file"), []byte("deep"))
	writeFile(t, filepath.Join(b, "x", "y", "file2"), []byte("after"))
	ok(t, os.Rename(filepath.Join(b, "x", "y"), filepath.Join(dir, "y")))
	sameList(t, "moved directory", names(t, filepath.Join(dir, "y")), []string{"file", "file2"})
}

func testRenameDirectoryOver(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, os.Mkdir(a, 0o755))
	ok(t, os.Mkdir(b, 0o755))
	writeFile(t, filepath.Join(a, "file"), nil)
	writeFile(t, filepath.Join(b, "old"), nil)
	if err := unix.Rename(a, b); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename over a full directory: %v", err)
	}
	ok(t, os.Remove(filepath.Join(b, "old")))
	ok(t, unix.Rename(a, b))
	sameList(t, "directory", names(t, b), []string{"file"})
}

func testOpenDirectoryRenamed(t *testing.T, dir string) {
	a := filepath.Join(dir, "a")
	ok(t, os.Mkdir(a, 0o755))
	root := must(os.OpenRoot(a))(t)
	defer root.Close()
	ok(t, os.Rename(a, filepath.Join(dir, "b")))
	ok(t, root.WriteFile("file", []byte("by descriptor"), 0o644))
	hasContent(t, filepath.Join(dir, "b", "file"), []byte("by descriptor"))
}

func testLongNames(t *testing.T, dir string) {
	long := strings.Repeat("n", 255)
	writeFile(t, filepath.Join(dir, long), []byte("x"))
	hasContent(t, filepath.Join(dir, long), []byte("x"))
	sameList(t, "directory", names(t, dir), []string{long})
	ok(t, os.Rename(filepath.Join(dir, long), filepath.Join(dir, strings.Repeat("ü", 127))))
	_, err := os.Create(filepath.Join(dir, long+"n"))
	is(t, err, syscall.ENAMETOOLONG)
	is(t, os.Mkdir(filepath.Join(dir, long+"n"), 0o755), syscall.ENAMETOOLONG)
	_, err = os.Stat(filepath.Join(dir, long+"n"))
	is(t, err, syscall.ENAMETOOLONG)
}

func testDeep(t *testing.T, dir string) {
	p := dir
	for range 60 {
		p = filepath.Join(p, strings.Repeat("d", 40))
	}
	ok(t, os.MkdirAll(p, 0o755))
	writeFile(t, filepath.Join(p, "file"), []byte("deep down"))
	hasContent(t, filepath.Join(p, "file"), []byte("deep down"))
}

func manyFiles(t *testing.T, dir string, n int) []string {
	t.Helper()
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("entry-%05d", i)
		writeFile(t, filepath.Join(dir, all[i]), nil)
	}
	return all
}

// testDeleteWhileListing: what was there all the time is listed once, whatever
// becomes of the rest.
func testDeleteWhileListing(t *testing.T, dir string) {
	all := manyFiles(t, dir, 5000)
	sameList(t, "full directory", names(t, dir), all)
	d := must(os.Open(dir))(t)
	defer d.Close()
	var listed []string
	for {
		some, err := d.Readdirnames(100)
		if err == io.EOF {
			break
		}
		ok(t, err)
		listed = append(listed, some...)
		for _, name := range some {
			ok(t, os.Remove(filepath.Join(dir, name)))
		}
	}
	sameList(t, "directory listed while it is emptied", listed, all)
	sameList(t, "emptied directory", names(t, dir), nil)
}

func testRewinddir(t *testing.T, dir string) {
	writeFile(t, filepath.Join(dir, "a"), nil)
	d := must(os.Open(dir))(t)
	defer d.Close()
	sameList(t, "first pass", must(d.Readdirnames(-1))(t), []string{"a"})
	writeFile(t, filepath.Join(dir, "b"), nil)
	ok(t, os.Remove(filepath.Join(dir, "a")))
	must(d.Seek(0, io.SeekStart))(t)
	sameList(t, "after rewinddir", must(d.Readdirnames(-1))(t), []string{"b"})
}

// An entry is what getdents64(2) says.
type entry struct {
	name string
	ino  uint64
	off  int64
	kind byte
}

// getdents reads a directory's entries from where the descriptor stands, as
// much as fits into one small buffer.
func getdents(t *testing.T, fd int) []entry {
	t.Helper()
	buf := make([]byte, 2048)
	n := must(unix.Getdents(fd, buf))(t)
	var all []entry
	for buf = buf[:n]; len(buf) > 0; {
		d := (*unix.Dirent)(unsafe.Pointer(&buf[0]))
		name := buf[unsafe.Offsetof(d.Name):d.Reclen]
		all = append(all, entry{unix.ByteSliceToString(name), d.Ino, d.Off, d.Type})
		buf = buf[d.Reclen:]
	}
	return all
}

func allEntries(t *testing.T, dir string) []entry {
	t.Helper()
	fd := must(unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0))(t)
	defer unix.Close(fd)
	var all []entry
	for {
		some := getdents(t, fd)
		if len(some) == 0 {
			return slices.DeleteFunc(all, func(e entry) bool { return e.name == "." || e.name == ".." })
		}
		all = append(all, some...)
	}
}

func testSeekdir(t *testing.T, dir string) {
	manyFiles(t, dir, 300)
	fd := must(unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0))(t)
	defer unix.Close(fd)
	var all []entry
	for {
		some := getdents(t, fd)
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	for _, i := range []int{0, 1, 50, 150, 298, 7} {
		must(unix.Seek(fd, all[i].off, unix.SEEK_SET))(t)
		next := getdents(t, fd)
		if len(next) == 0 || next[0].name != all[i+1].name {
			t.Errorf("after seekdir behind %q: %d entries, want %q first", all[i].name, len(next), all[i+1].name)
		}
	}
}

func testEntryInodes(t *testing.T, dir string) {
	manyFiles(t, dir, 200)
	ok(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for range 2 {
		for _, e := range allEntries(t, dir) {
			if st := inodeOf(t, filepath.Join(dir, e.name)); st != e.ino {
				t.Fatalf("%s: readdir says inode %d, stat %d", e.name, e.ino, st)
			}
		}
	}
}

func testEntryTypes(t *testing.T, dir string) {
	writeFile(t, filepath.Join(dir, "file"), nil)
	ok(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	ok(t, os.Symlink("file", filepath.Join(dir, "symlink")))
	want := map[string]byte{"file": unix.DT_REG, "sub": unix.DT_DIR, "symlink": unix.DT_LNK}
	for _, e := range allEntries(t, dir) {
		if want[e.name] != e.kind {
			t.Errorf("%s has type %d, want %d", e.name, e.kind, want[e.name])
		}
	}
}

func testRemoveAll(t *testing.T, dir string) {
	top := filepath.Join(dir, "top")
	for i := range 20 {
		sub := filepath.Join(top, fmt.Sprint(i), "below")
		ok(t, os.MkdirAll(sub, 0o755))
		for j := range 10 {
			writeFile(t, filepath.Join(sub, fmt.Sprint(j)), nil)
		}
	}
	ok(t, os.RemoveAll(top))
	absent(t, top)
}

func testConcurrentMkdirAll(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			p := filepath.Join(dir, "a", "b", "c", fmt.Sprint(i%4))
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sameList(t, "directory", names(t, filepath.Join(dir, "a", "b", "c")), []string{"0", "1", "2", "3"})
}

func testListedAtOnce(t *testing.T, dir string) {
	for i := range 100 {
		name := fmt.Sprint(i)
		absent(t, filepath.Join(dir, name))
		writeFile(t, filepath.Join(dir, name), nil)
		sameList(t, "directory", names(t, dir), []string{name})
		ok(t, os.Remove(filepath.Join(dir, name)))
		sameList(t, "directory", names(t, dir), nil)
	}
}

// testInodeReuse: disks give an inode number again as soon as it is free; what
// was known of the old file must not be taken for the new one's.
func testInodeReuse(t *testing.T, dir string) {
	for i := range 300 {
		p := filepath.Join(dir, fmt.Sprint("n", i))
		switch i % 4 {
		case 0:
			ok(t, os.Mkdir(p, 0o755))
		case 1:
			ok(t, os.Symlink(fmt.Sprint("to", i), p))
			if got := must(os.Readlink(p))(t); got != fmt.Sprint("to", i) {
				t.Fatalf("symlink %d points to %s", i, got)
			}
		default:
			content := []byte(fmt.Sprintf("content %d", i*i*i))
			writeFile(t, p, content)
			hasContent(t, p, content)
		}
		ok(t, os.Remove(p))
	}
}
