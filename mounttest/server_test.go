package mounttest_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fusefs"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/mounttest"
	"github.com/regfs/regfs/overlay"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// The server of the mounts is this test's own program, started once more with
// this variable naming the store.
const serverVariable = "MOUNTTEST_SERVE"

// The server takes commands by standard input, a line each, and answers each
// with a line: "ok", or what is wrong. It ends with its input.
//
//	mount BACKEND RELEASE REUSE DIRECTORY
//	unmount DIRECTORY

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverVariable); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type host struct {
	store  *store.Store
	log    *slog.Logger
	mounts map[string]*mounted
}

type mounted struct {
	overlay *overlay.Overlay // nil on FUSE
	mount   *fusefs.Mount
	tree    *tree.FS
	release *index.Release
	probe   *os.File
}

func serve(dir string) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := store.Open(dir, log)
	if err != nil {
		return err
	}
	h := host{s, log, make(map[string]*mounted)}
	defer func() { err = errors.Join(err, h.close()) }()
	signal.Ignore(os.Interrupt) // the test gets it too, and ends this process
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := h.obey(strings.Fields(in.Text())); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Println("ok")
		}
	}
	return in.Err()
}

func (h *host) obey(command []string) error {
	switch {
	case len(command) == 5 && command[0] == "mount" && command[1] == "overlay":
		return h.mountOverlay(command[2], tree.Reuse(command[3]), command[4])
	case len(command) == 5 && command[0] == "mount":
		return h.mount(command[2], tree.Reuse(command[3]), command[4])
	case len(command) == 2 && command[0] == "unmount":
		return h.unmount(command[1], 0)
	}
	return fmt.Errorf("bad command %q", command)
}

func (h *host) mount(release string, reuse tree.Reuse, dir string) error {
	if err := h.store.Index.Create(release); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := h.sync(); err != nil {
		return err
	}
	m := new(mounted)
	var err error
	if m.release, err = h.store.Index.Open(release); err != nil {
		return err
	}
	m.tree, err = tree.New(h.store.Blobs, h.store.Index, m.release, h.store.Dir, store.PlainDir(release),
		tree.Options{Reuse: reuse, FileMode: 0o644, DirMode: 0o755, Log: h.log})
	if err != nil {
		return err
	}
	if m.probe, err = h.store.Probe(); err != nil {
		return err
	}
	nodes, _ := strconv.Atoi(os.Getenv("MOUNTTEST_NODES"))
	m.mount, err = fusefs.New(dir, m.tree, fusefs.Options{
		Source: h.store.Dir, AllowOther: true, Probe: m.probe, Log: h.log, Nodes: nodes,
		NoPassthrough: os.Getenv("MOUNTTEST_NO_PASSTHROUGH") != "",
	})
	if err != nil {
		return err
	}
	passes, why := m.mount.Passthrough()
	h.log.Info("mounted", "release", release, "passthrough", passes, "why", why)
	h.mounts[dir] = m
	return nil
}

func (h *host) mountOverlay(release string, reuse tree.Reuse, dir string) error {
	if reuse == tree.ReuseNone {
		return errors.New("overlayfs cannot do without reuse")
	}
	if err := h.store.Index.Create(release); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := h.sync(); err != nil {
		return err
	}
	o := overlay.New(h.store, release, h.log)
	if err := o.Mount(dir, true); err != nil {
		return err
	}
	h.mounts[dir] = &mounted{overlay: o}
	return nil
}

// sync lets what overlays hold be found by the next mount.
func (h *host) sync() error {
	for _, m := range h.mounts {
		if m.overlay == nil {
			continue
		}
		if _, err := m.overlay.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// finish brings in what an overlay has left, when the kernel has let go of it.
func (m *mounted) finish() error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, err := m.overlay.Finish()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

func (h *host) unmount(dir string, flags int) error {
	m, ok := h.mounts[dir]
	if !ok {
		return fmt.Errorf("%s is not mounted", dir)
	}
	if err := unix.Unmount(dir, flags); err != nil {
		return err
	}
	delete(h.mounts, dir)
	if flags&unix.MNT_DETACH != 0 {
		return nil // whoever is still in it keeps it; it ends with this process
	}
	if m.overlay != nil {
		return m.finish()
	}
	m.mount.Wait()
	err := errors.Join(m.tree.Close(), m.probe.Close())
	m.release.Close()
	return err
}

func (h *host) close() error {
	var errs []error
	for dir := range h.mounts {
		errs = append(errs, h.unmount(dir, unix.MNT_DETACH))
	}
	return errors.Join(append(errs, h.store.Close())...)
}

// A server is such a process, seen from the test.
type server struct {
	store   string
	base    string // the mount points are in it
	process *exec.Cmd
	in      io.WriteCloser
	answers chan string
	log     logBuffer

	mu     sync.Mutex        // guards what follows
	mounts map[string]string // mount point → number of its connection
	count  int
}

// patience is how long one command may take.
const patience = 30 * time.Second

// startServer starts a server on a new store. No test that it serves runs
// longer than limit: then its requests are ended, and fail.
func startServer(t *testing.T, limit time.Duration, env ...string) *server {
	t.Helper()
	needMount(t)
	base := t.TempDir()
	s := &server{store: filepath.Join(base, "store"), base: base, answers: make(chan string), mounts: make(map[string]string)}
	if err := store.Init(s.store); err != nil {
		t.Fatal(err)
	}
	s.start(t, env)
	watchdog := time.AfterFunc(limit, func() {
		t.Errorf("not done after %v: ending all requests", limit)
		s.abort()
	})
	t.Cleanup(func() {
		watchdog.Stop()
		s.stop(t)
	})
	return s
}

// needMount skips a test where it cannot run, but not in silence.
func needMount(t *testing.T) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "not root"
	} else if _, err := os.Stat("/dev/fuse"); err != nil {
		why = err.Error()
	}
	if why == "" {
		return
	}
	if os.Getenv("REGFS_REQUIRE_TOOLS") == "1" {
		t.Fatalf("cannot mount: %s", why)
	}
	t.Skipf("SKIPPED, NOTHING IS TESTED: cannot mount: %s", why)
}

func (s *server) start(t *testing.T, env []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.process = exec.Command(self)
	s.process.Env = append(append(os.Environ(), serverVariable+"="+s.store), env...)
	s.process.Stderr = &s.log
	if s.in, err = s.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.answers)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.answers <- lines.Text()
		}
	}()
}

func (s *server) command(words ...string) error {
	if _, err := fmt.Fprintln(s.in, strings.Join(words, " ")); err != nil {
		return err
	}
	select {
	case answer := <-s.answers:
		if answer != "ok" {
			return fmt.Errorf("%s: %q", words[0], answer)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s: no answer in %v", words[0], patience)
	}
}

// Mount is that of mounttest.Mounts.
func (s *server) Mount(t testing.TB, release string, reuse mounttest.Reuse) string {
	t.Helper()
	return s.mount(t, "fuse", release, reuse)
}

// MountOverlay is Mount by overlayfs.
func (s *server) MountOverlay(t testing.TB, release string, reuse mounttest.Reuse) string {
	t.Helper()
	return s.mount(t, "overlay", release, reuse)
}

func (s *server) mount(t testing.TB, backend, release string, reuse mounttest.Reuse) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	dir := filepath.Join(s.base, fmt.Sprintf("mnt-%d", s.count))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.command("mount", backend, release, string(reuse), dir); err != nil {
		t.Fatalf("%v\n%s", err, s.log.String())
	}
	s.mounts[dir] = connection(dir)
	t.Cleanup(func() { s.unmountIfThere(t, dir) })
	return dir
}

func (s *server) unmountIfThere(t testing.TB, dir string) {
	s.mu.Lock()
	_, there := s.mounts[dir]
	s.mu.Unlock()
	if there {
		s.Unmount(t, dir)
	}
}

// Unmount is that of mounttest.Mounts. What does not go is detached, and an
// error.
func (s *server) Unmount(t testing.TB, dir string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.command("unmount", dir)
	for i := 0; err != nil && strings.Contains(err.Error(), "busy") && i < 20; i++ {
		time.Sleep(50 * time.Millisecond) // the kernel gives descriptors back a little later than close returns
		err = s.command("unmount", dir)
	}
	delete(s.mounts, dir)
	if err != nil {
		t.Error(err)
	}
	s.detach(t, dir)
}

func (s *server) detach(t testing.TB, dir string) {
	t.Helper()
	if connection(dir) == "" {
		return
	}
	t.Errorf("%s is still mounted", dir)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

// abort ends all requests that are under way, and all that will come.
func (s *server) abort() {
	// Whoever holds the lock may be waiting for what is to be aborted here.
	if s.mu.TryLock() {
		for _, number := range s.mounts {
			os.WriteFile("/sys/fs/fuse/connections/"+number+"/abort", []byte("1"), 0)
		}
		s.mu.Unlock()
	}
	s.process.Process.Kill() // closes the connections, should sysfs not be there
}

func (s *server) stop(t *testing.T) {
	s.in.Close()
	kill := time.AfterFunc(patience, func() {
		t.Errorf("server has not ended after %v", patience)
		s.abort()
	})
	for range s.answers {
	}
	if err := s.process.Wait(); err != nil {
		t.Errorf("server: %v", err)
	}
	kill.Stop()
	for i := range s.count {
		s.detach(t, filepath.Join(s.base, fmt.Sprintf("mnt-%d", i+1)))
	}
	log := s.log.String()
	for _, bad := range []string{"DATA RACE", "panic", "a change of the release is lost", "overriding ino"} {
		if strings.Contains(log, bad) {
			t.Errorf("the server's log says %q", bad)
		}
	}
	if t.Failed() {
		t.Logf("the server's log:\n%s", tail(log, 8000))
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// connection finds the number of the FUSE connection that is mounted on a
// directory, "" if none is. It does not touch the directory.
func connection(dir string) string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		// 36 35 0:55 / /mount/point rw,...
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			_, minor, _ := strings.Cut(f[2], ":")
			return minor
		}
	}
	return ""
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
