package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/cas"
)

// into writes the tar into a file, writes a mark behind the tar, and checks what the
// file has then.
func (f *fixture) into(file *os.File, before []byte) {
	f.Helper()
	want := append(before, f.tar()...)
	for _, verify := range []bool{false, true} {
		told := int64(0)
		f.must(f.members.WriteTar(f.Context(), file, f.blobs, Options{Verify: verify, Progress: func(n int64) { told += n }}))
		if told != f.members.Size() {
			f.Errorf("Progress told %d bytes of %d", told, f.members.Size())
		}
		_, err := file.WriteString("mark")
		f.must(err)
		got, err := os.ReadFile(file.Name())
		f.must(err)
		if !bytes.HasPrefix(got, append(want, "mark"...)) {
			f.Errorf("verify %v: the file is not what was there, the tar and the mark", verify)
		}
		want = append(append(want, "mark"...), want[len(before):]...) // once more behind it
	}
}

func TestIntoFiles(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	open := func(t *testing.T, dir string, flags int, before string) *os.File {
		name := filepath.Join(dir, "tar")
		f.must(os.WriteFile(name, []byte(before), 0o600))
		file, err := os.OpenFile(name, os.O_RDWR|flags, 0)
		f.must(err)
		t.Cleanup(func() { file.Close() })
		return file
	}
	t.Run("new", func(t *testing.T) { f.into(open(t, t.TempDir(), 0, ""), nil) })
	t.Run("appending", func(t *testing.T) {
		f.into(open(t, t.TempDir(), os.O_APPEND, "before"), []byte("before"))
	})
	t.Run("longer", func(t *testing.T) {
		f.into(open(t, t.TempDir(), 0, strings.Repeat("x", 100<<20)), nil)
	})
	for _, at := range []int{7, alignment} {
		t.Run("not at its beginning", func(t *testing.T) {
			before := bytes.Repeat([]byte("x"), at)
			file := open(t, t.TempDir(), 0, string(before))
			_, err := file.Seek(0, io.SeekEnd)
			f.must(err)
			f.into(file, before)
		})
	}
	t.Run("of another file system", func(t *testing.T) {
		dir, err := os.MkdirTemp("/dev/shm", "regfs-test-")
		if err != nil {
			t.Skipf("NOT TESTED: %v", err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		f.into(open(t, dir, 0, ""), nil)
	})
}

func TestIntoStreams(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	want := f.tar()
	for name, open := range map[string]func() (r, w *os.File){
		"pipe":          f.pipe,
		"blocking pipe": f.blockingPipe,
		"socket":        f.socket,
	} {
		t.Run(name, func(t *testing.T) {
			r, w := open()
			failed := make(chan error, 1)
			go func() {
				failed <- errors.Join(f.members.WriteTar(f.Context(), w, f.blobs, Options{Verify: true}), w.Close())
			}()
			got, err := io.ReadAll(r)
			f.must(errors.Join(err, r.Close(), <-failed))
			if !bytes.Equal(got, want) {
				t.Error("what came out is not the tar")
			}
		})
	}
}

func (f *fixture) pipe() (r, w *os.File) {
	f.Helper()
	r, w, err := os.Pipe()
	f.must(err)
	return r, w
}

// blockingPipe is what a shell gives.
func (f *fixture) blockingPipe() (r, w *os.File) {
	f.Helper()
	var fds [2]int
	f.must(unix.Pipe2(fds[:], unix.O_CLOEXEC))
	return os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
}

func (f *fixture) socket() (r, w *os.File) {
	f.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	f.must(err)
	return os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
}

func TestIntoWhatIsNoFile(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	defer l.Close()
	go func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_ = errors.Join(f.members.WriteTar(f.Context(), conn, f.blobs, Options{}), conn.Close())
		}
	}()
	conn, err := l.Accept()
	f.must(err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	f.must(err)
	if !bytes.Equal(got, f.tar()) {
		t.Error("what came out is not the tar")
	}
}

func TestReaderGone(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	r, w := f.blockingPipe()
	defer w.Close()
	go func() {
		_, _ = io.CopyN(io.Discard, r, 4<<20)
		r.Close()
	}()
	err := f.members.WriteTar(t.Context(), w, f.blobs, Options{})
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("WriteTar: %v", err)
	}
}

// blobFile is a file of its own that stands for a blob.
func blobFile(t *testing.T, size int64) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "blob"))
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// Only what is left of a blob's last block passes through this process.
func TestKernelCopies(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *os.File{
		"file":      func(t *testing.T) *os.File { return blobFile(t, 0) },
		"/dev/null": func(*testing.T) *os.File { f, _ := os.OpenFile(os.DevNull, os.O_WRONLY, 0); return f },
	} {
		t.Run(name, func(t *testing.T) {
			size := copying.most + 17
			o := newOutput(open(t), nil)
			if err := o.copy(t.Context(), blobFile(t, size), size, nil); err != nil {
				t.Fatal(err)
			}
			if len(o.buffer) != 17 || o.at != size {
				t.Errorf("%d bytes passed, %d written", len(o.buffer), o.at)
			}
		})
	}
}

func TestBlobShrinksWhileItIsCopied(t *testing.T) {
	const alignFrom = int64(alignFrom)
	for _, size := range []struct{ Want, Got int64 }{{5, 4}, {2 * alignFrom, alignFrom + 5}, {alignFrom, 0}} {
		for _, w := range []io.Writer{io.Discard, blobFile(t, 0)} {
			err := newOutput(w, nil).copy(t.Context(), blobFile(t, size.Got), size.Want, nil)
			var wrong *SizeError
			if !errors.As(err, &wrong) || *wrong != SizeError(size) {
				t.Errorf("copy to a %T: %v", w, err)
			}
		}
	}
	gone := blobFile(t, 5)
	gone.Close()
	if err := newOutput(io.Discard, nil).copy(t.Context(), gone, 5, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("copy: %v", err)
	}
}

// A way that is refused is tried once, and the next one takes over; what is a
// fault ends the export.
func TestWayIsRefused(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	want := f.tar()
	export := func(t *testing.T, fault error) (calls int, out []byte, err error) {
		file := blobFile(t, 0)
		o := newOutput(file, nil)
		failing := way{func(int, int, int64, int64) (int64, error) { calls++; return 0, fault }, 1 << 20}
		o.ways = []way{failing, copying}
		w := &tarWriter{out: o, blobs: f.blobs}
		err = w.writeEntries(t.Context(), f.members)
		f.must(o.flush())
		out, readErr := os.ReadFile(file.Name())
		f.must(readErr)
		return calls, out, err
	}
	for _, fault := range append(refusals, nil) {
		calls, out, err := export(t, fault)
		if calls != 1 || err != nil || !bytes.Equal(out, want[:len(want)-trailerSize]) {
			t.Errorf("%v: tried %d times, %d bytes of %d, %v", fault, calls, len(out), len(want), err)
		}
	}
	for _, fault := range []error{unix.ENOSPC, unix.EIO, unix.EDQUOT} {
		calls, _, err := export(t, fault)
		if calls != 1 || !errors.Is(err, fault) || !strings.HasSuffix(err.Error(), ": "+fault.Error()) {
			t.Errorf("%v: tried %d times, %v", fault, calls, err)
		}
	}
}

func TestCancelledWhileTheKernelCopies(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the test")
	told := int64(0)
	err := f.members.WriteTar(ctx, blobFile(t, 0), f.blobs, Options{Progress: func(n int64) {
		if told += n; n >= copying.most {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) || told > 12<<20 {
		t.Errorf("WriteTar: %v, after %d bytes", err, told)
	}
}

func TestVerifyWhileTheKernelCopies(t *testing.T) {
	f := setup(t)
	content := strings.Repeat("x", 20<<20)
	layer := f.put(content)
	f.overwrite(layer, content[1:]+"y")
	err := f.members.WriteTar(t.Context(), blobFile(t, 0), f.blobs, Options{Verify: true})
	var corrupt *cas.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Want != layer {
		t.Errorf("WriteTar: %v", err)
	}
}

func TestNothingIsSharedAcrossFileSystems(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	file, err := os.CreateTemp("/dev/shm", "regfs-test-")
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if n := f.members.Shared(file, f.blobs); n != 0 {
		t.Errorf("%d bytes", n)
	}
	if info, err := file.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("the file has %d bytes afterwards, %v", info.Size(), err)
	}
}

// A late file compares first, as one does that goes on where another stopped.
type late struct {
	file *os.File
	left int
}

func (l *late) Write(p []byte) (int, error) {
	if l.left > 0 {
		l.left -= len(p)
	}
	return l.file.Write(p)
}

func (l *late) Plain() *os.File {
	if l.left > 0 {
		return nil
	}
	return l.file
}

func TestBecomesAFile(t *testing.T) {
	f := setup(t)
	f.fillLarge()
	for _, left := range []int{0, 1, 3 << 20, 1 << 30} {
		l := &late{blobFile(t, 0), left}
		f.must(f.members.WriteTar(t.Context(), l, f.blobs, Options{}))
		got, err := os.ReadFile(l.file.Name())
		f.must(err)
		if !bytes.Equal(got, f.tar()) {
			t.Errorf("plain after %d bytes: the file is not the tar", left)
		}
	}
	o := newOutput(&late{blobFile(t, 0), 0}, nil)
	if len(o.ways) == 0 {
		t.Error("the kernel's ways are not taken")
	}
}
