package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// noise is bytes of which half can be compressed.
func noise(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	for i := 0; i < size; i += 2048 {
		r.Read(b[i:min(i+1024, size)])
	}
	return b
}

var stream = noise(9<<20 + 17)

// writeStream writes in pieces of all sizes.
func writeStream(w io.Writer) error {
	for at, n := 0, 1; at < len(stream); at, n = at+n, n*7%700_001 {
		n = min(n, len(stream)-at)
		if _, err := w.Write(stream[at : at+n]); err != nil {
			return err
		}
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, names ...string) (all []byte) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(name)
		must(t, err)
		all = append(all, data...)
	}
	return all
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

var errStop = errors.New("stopped by the test")

// begun leaves what an export leaves that was stopped after so many bytes.
func begun(t *testing.T, name string, o Options, bytes int) {
	t.Helper()
	o.Interrupted = func(err error) bool { return errors.Is(err, errStop) }
	err := To(name, o, func(w io.Writer) error {
		_, err := w.Write(stream[:bytes])
		return errors.Join(err, errStop)
	})
	var kept *Kept
	if !errors.As(err, &kept) || !errors.Is(err, errStop) || kept.Bytes != int64(bytes) && o.Compression == None {
		t.Fatalf("stopped: %v", err)
	}
}

// A counting file knows how many bytes were written to the part, and not only
// compared.
func written(t *testing.T, name string, o Options) (fresh int64) {
	t.Helper()
	must(t, To(name, o, func(w io.Writer) error {
		err := writeStream(w)
		if p, ok := w.(*part); ok {
			fresh = int64(len(stream)) - p.kept
		}
		return err
	}))
	return fresh
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	must(t, To(name, Options{}, writeStream))
	if !bytes.Equal(read(t, name), stream) || len(files(t, filepath.Dir(name))) != 1 {
		t.Errorf("not the stream alone: %v", files(t, filepath.Dir(name)))
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestGoesOnWhereItWas(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int
		spoil func(part string) error
		fresh int // at most this many bytes are written anew
	}{
		{"nothing there", 0, func(string) error { return nil }, len(stream)},
		{"a part", 5 << 20, func(string) error { return nil }, len(stream) - 5<<20},
		{"all but its name", len(stream), func(string) error { return nil }, 0},
		{"more than there should be", len(stream), func(p string) error { return appendTo(p, "more") }, 0},
		{"another stream", 5 << 20, func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("x", 1000)), 0o600) }, len(stream)},
		{"a hole, by power failure", 5 << 20, func(p string) error { return errors.Join(os.Truncate(p, 3<<20), os.Truncate(p, 5<<20)) }, len(stream) - 2<<20},
		{"a flipped bit", 5 << 20, func(p string) error { return flip(p, 4<<20) }, len(stream) - 3<<20},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "out")
			if c.bytes > 0 {
				begun(t, name, Options{}, c.bytes)
			}
			must(t, c.spoil(partName(name)))
			if fresh := written(t, name, Options{}); fresh > int64(c.fresh) {
				t.Errorf("%d bytes were written anew, at most %d should be", fresh, c.fresh)
			}
			if !bytes.Equal(read(t, name), stream) || len(files(t, filepath.Dir(name))) != 1 {
				t.Errorf("not the stream alone: %v", files(t, filepath.Dir(name)))
			}
		})
	}
}

func appendTo(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func flip(name string, at int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{0xff}, at)
	return errors.Join(err, f.Close())
}

func TestPartsAreJoinedByCat(t *testing.T) {
	for _, size := range []int64{LeastPart, 4 << 20, int64(len(stream)), int64(len(stream)) + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, "out.tar")
			must(t, To(name, Options{Split: size}, writeStream))
			joined, err := exec.Command("sh", "-c", "cd "+dir+" && sha256sum -c --quiet out.tar.SHA256SUMS && cat out.tar.[0-9][0-9][0-9]").CombinedOutput()
			if err != nil || !bytes.Equal(joined, stream) {
				t.Errorf("joined: %v, %d bytes of %d", err, len(joined), len(stream))
			}
			if want := (len(stream)+int(size)-1)/int(size) + 1; len(files(t, dir)) != want {
				t.Errorf("%v, want %d", files(t, dir), want)
			}
		})
	}
}

func TestPartsGoOnToo(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	o := Options{Split: 2 << 20}
	begun(t, name, o, 7<<20)
	before, err := os.Stat(partName(name + ".000"))
	must(t, err)
	must(t, To(name, o, writeStream))
	after, err := os.Stat(name + ".000")
	must(t, err)
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the first part was written again")
	}
	if !bytes.Equal(read(t, partsOf(name)...), stream) {
		t.Error("not the stream")
	}
}

// A shorter stream must not be followed by the end of a longer one.
func TestPartsOfBeforeAreRemoved(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	must(t, To(name, Options{Split: LeastPart}, writeStream))
	if err := Check(name, Options{Split: LeastPart}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Check: %v", err)
	}
	begun(t, name, Options{Split: LeastPart, Force: true}, 9<<20)
	must(t, To(name, Options{Split: 4 << 20, Force: true}, writeStream))
	if !bytes.Equal(read(t, partsOf(name)...), stream) || len(files(t, filepath.Dir(name))) != 4 {
		t.Errorf("%v", files(t, filepath.Dir(name)))
	}
}

// The programs that customers have must read it, in one go.
func TestCompressed(t *testing.T) {
	for c, program := range map[Compression][]string{Gzip: {"gzip", "-dc"}, Zstd: {"zstd", "-dc"}} {
		t.Run(string(c), func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "out")
			must(t, To(name, Options{Compression: c}, writeStream))
			one := read(t, name)
			if len(one) > len(stream)*6/10 {
				t.Errorf("%d bytes of %d", len(one), len(stream))
			}
			if _, err := exec.LookPath(program[0]); err != nil {
				t.Skipf("NOT TESTED: %v", err)
			}
			cmd := exec.Command(program[0], program[1:]...)
			cmd.Stdin = bytes.NewReader(one)
			got, err := cmd.Output()
			if err != nil || !bytes.Equal(got, stream) {
				t.Errorf("%v, %d bytes of %d", err, len(got), len(stream))
			}
		})
	}
}

func TestCompressedBytesDoNotDependOnProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range []Compression{Gzip, Zstd} {
		var all [][]byte
		for _, n := range []int{1, 7} {
			runtime.GOMAXPROCS(n)
			name := filepath.Join(t.TempDir(), "out")
			must(t, To(name, Options{Compression: c}, writeStream))
			all = append(all, read(t, name))
		}
		if !bytes.Equal(all[0], all[1]) {
			t.Errorf("%s: %d, %d bytes", c, len(all[0]), len(all[1]))
		}
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	for name, o := range map[string]Options{
		"file": {}, "parts": {Split: LeastPart}, "gzip": {Compression: Gzip}, "parts of zstd": {Compression: Zstd, Split: LeastPart},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			err := To(out, o, func(w io.Writer) error { return errors.Join(writeStream(w), errStop) })
			if !errors.Is(err, errStop) || len(files(t, filepath.Dir(out))) > 0 {
				t.Errorf("%v; left: %v", err, files(t, filepath.Dir(out)))
			}
		})
	}
}

func TestNoRoom(t *testing.T) {
	for _, o := range []Options{{}, {Split: LeastPart}} {
		name := filepath.Join(t.TempDir(), "out")
		o.Fits = func(*os.File, int64) error { return syscall.ENOSPC }
		err := To(name, o, writeStream)
		if !errors.Is(err, syscall.ENOSPC) || len(files(t, filepath.Dir(name))) > 0 {
			t.Errorf("%v; left: %v", err, files(t, filepath.Dir(name)))
		}
		if o.Split > 0 {
			continue
		}
		begun(t, name, Options{}, 1<<20)
		o.Fits = func(_ *os.File, kept int64) error { return fmt.Errorf("kept %d: %w", kept, syscall.ENOSPC) }
		err = To(name, o, writeStream)
		if err == nil || !strings.Contains(err.Error(), "kept 1048576") || !slices.Contains(files(t, filepath.Dir(name)), ".out.part") {
			t.Errorf("%v; what was kept is gone", err)
		}
	}
}

func TestOneAtATime(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	err := To(name, Options{}, func(w io.Writer) error {
		if err := To(name, Options{}, writeStream); !errors.Is(err, unix.EBUSY) {
			t.Errorf("the second one: %v", err)
		}
		return writeStream(w)
	})
	if err != nil || !bytes.Equal(read(t, name), stream) {
		t.Errorf("the first one: %v", err)
	}
}

// Whoever may write to the directory knows the part's name.
func TestPartOfSomebodyElse(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("mine"), 0o600))
	for name, plant := range map[string]func(part string) error{
		"symlink":   func(p string) error { return os.Symlink(victim, p) },
		"hard link": func(p string) error { return os.Link(victim, p) },
		"FIFO":      func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			must(t, plant(partName(out)))
			if err := To(out, Options{}, writeStream); err == nil {
				t.Error("was written")
			}
			if string(read(t, victim)) != "mine" {
				t.Error("the victim was written to")
			}
		})
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		name string
		o    Options
		want error
	}{
		{file, Options{}, fs.ErrExist},
		{file, Options{Force: true}, nil},
		{dir, Options{}, unix.EISDIR},
		{filepath.Join(dir, "none", "x"), Options{}, fs.ErrNotExist},
		{"/dev/null", Options{}, nil},
		{"-", Options{}, nil},
	} {
		if err := Check(c.name, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, name := range []string{"-", "/dev/null"} {
		if Check(name, Options{Split: LeastPart}) == nil {
			t.Errorf("%s in parts", name)
		}
	}
}

// inUse is how many bytes are in use: neither garbage nor, after two collections,
// kept in a pool by what came before.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Memory must not grow with the stream: 120 MB go through, and less than 64
// stay.
func TestMemoryIsBounded(t *testing.T) {
	for _, o := range []Options{{Split: 64 << 20}, {Compression: Zstd}, {Compression: Gzip, Split: 64 << 20}} {
		before, most := inUse(), int64(0)
		err := To(filepath.Join(t.TempDir(), "out"), o, func(w io.Writer) error {
			for i := range 120 {
				if _, err := w.Write(stream[i : i+1<<20]); err != nil {
					return err
				}
				if i%20 == 0 {
					most = max(most, inUse()-before)
				}
			}
			return nil
		})
		if err != nil || most > 64<<20 {
			t.Errorf("%+v: %d MiB in use, %v", o, most>>20, err)
		} else {
			t.Logf("%+v: %d MiB", o, most>>20)
		}
	}
}
