package tree_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/tree"
)

// A symlink in place of a release's directory, or on the way to it, as a restored
// backup may bring it: nothing is opened or made behind it.
func TestAreaIsASymlink(t *testing.T) {
	for _, planted := range []string{"releases", "releases/r", "releases/r/files"} {
		b := newBench(t)
		outside := t.TempDir()
		b.ok(os.MkdirAll(filepath.Join(outside, "r/files/files"), 0o755))
		b.ok(os.MkdirAll(filepath.Dir(filepath.Join(b.dir, planted)), 0o755))
		b.ok(os.Symlink(outside, filepath.Join(b.dir, planted)))
		fs, err := tree.New(b.blobs, b.index, b.release, b.dir, "releases/r/files", tree.Options{Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			fs.Close()
		}
		if !errors.Is(err, syscall.ELOOP) && !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s is a symlink: %v", planted, err)
		}
	}
}

// What has taken the place of a plain file since it was looked up is not opened
// as one, and nobody waits for the other end of a FIFO.
func TestPlainFileExchanged(t *testing.T) {
	b := newBench(t)
	name := filepath.Join(b.dir, "files", "state.json")
	outside := filepath.Join(t.TempDir(), "outside")
	b.ok(os.WriteFile(outside, []byte("secret"), 0o600))
	b.ok(os.WriteFile(name, nil, 0o600))
	_, err := b.Stat("state.json")
	b.ok(err)
	for what, plant := range map[string]func() error{
		"fifo":    func() error { return unix.Mkfifo(name, 0o666) },
		"symlink": func() error { return os.Symlink(outside, name) },
		"socket": func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		},
		"device":    func() error { return unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"directory": func() error { return os.Mkdir(name, 0o755) },
	} {
		b.ok(os.Remove(name))
		if err := plant(); what == "device" && errors.Is(err, syscall.EPERM) {
			b.ok(os.WriteFile(name, nil, 0o600))
			continue // only root makes devices
		} else {
			b.ok(err)
		}
		for _, flags := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC} {
			done := make(chan error, 1)
			go func() {
				h, err := b.Open("state.json", flags)
				if err == nil {
					h.Close()
				}
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil {
					t.Errorf("a %s was opened with %#x", what, flags)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("opening a %s has no end", what)
			}
		}
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "secret" {
		t.Errorf("the file outside: %q, %v", text, err)
	}
}

// Half-written files beside blobs and links are bounded in number; when some have
// gone, there is room again.
func TestTempsAreBounded(t *testing.T) {
	b := newBench(t)
	link := layout.TagCurrentLinkPath("a", "v1")
	name := func(i int) string { return fmt.Sprintf("%s.%d.tmp", link, i) }
	made := 0
	for ; made < 1<<17; made++ {
		h, _, err := b.Create(name(made), os.O_RDWR, 0o644, nobody)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		b.ok(err)
		b.ok(h.Close())
	}
	if made != 1<<16 {
		t.Errorf("%d were made", made)
	}
	b.ok(b.Rename(name(0), name(1), false)) // one less
	b.ok(b.Unlink(name(2)))
	for _, i := range []int{0, 2} {
		h, _, err := b.Create(name(i), os.O_RDWR, 0o644, nobody)
		b.ok(err)
		b.ok(h.Close())
	}
	if _, _, err := b.Create(name(made), os.O_RDWR, 0o644, nobody); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("one more: %v", err)
	}
}
