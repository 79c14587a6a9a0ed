package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

var quiet = slog.New(slog.DiscardHandler)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks an error's kind and that it says something.
func wantError(t testing.TB, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("not %v, but %v", kind, err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("does not say %q: %v", s, err)
		}
	}
}

func newStore(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	ok(t, store.Init(dir))
	return dir
}

// startServer serves a store until the test ends, or stop is called.
func startServer(t testing.TB, dir string, log *slog.Logger) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, dir, ServeOptions{}, log) }()
	for end := time.Now().Add(10 * time.Second); dialServer(dir) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no server")
		}
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not leave")
		}
	})
	t.Cleanup(stop)
	return stop
}

func dial(t testing.TB, dir string) *Client {
	t.Helper()
	c, err := Dial(dir, quiet)
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// What commands ask, of a server and of themselves.
func TestCommands(t *testing.T) {
	for _, server := range []bool{false, true} {
		name := map[bool]string{false: "in process", true: "server"}[server]
		t.Run(name, func(t *testing.T) {
			dir, ctx := newStore(t), context.Background()
			if server {
				startServer(t, dir, quiet)
			}
			c := dial(t, dir)
			ok(t, c.CreateRelease(ctx, "v1.0"))
			ok(t, c.CreateRelease(ctx, "v1.1"))
			wantError(t, c.CreateRelease(ctx, "v1.0"), fs.ErrExist, "v1.0 exists already")
			wantError(t, c.CreateRelease(ctx, "../x"), index.ErrName)
			all, err := c.Releases(ctx)
			ok(t, err)
			if len(all) != 2 || all[0].Name != "v1.0" || all[1].Name != "v1.1" || all[0].Mountpoint != "" || time.Since(all[0].Created) > time.Minute {
				t.Errorf("releases: %v", all)
			}
			s, err := c.Status(ctx)
			ok(t, err)
			if s.Store != dir || s.Format != 1 || s.Releases != 2 || (s.Server != 0) != server || s.DiskFree == 0 || s.DiskFree > s.DiskSize {
				t.Errorf("status: %+v", s)
			}
			images, err := c.Images(ctx, "v1.0")
			ok(t, err)
			inv, err := c.Inventory(ctx, "v1.0", export.Selection{})
			ok(t, err)
			if len(images) != 0 || inv == nil {
				t.Errorf("of an empty release: %v, %v", images, inv)
			}
			for name, kind := range map[string]error{
				"v2": fs.ErrNotExist, "..": index.ErrName, "": index.ErrName, "a/b": index.ErrName, "v1.0/images": index.ErrName,
			} {
				_, err := c.Images(ctx, name)
				wantError(t, err, kind, name)
				_, err = c.Inventory(ctx, name, export.Selection{})
				wantError(t, err, kind, name)
			}
			wantError(t, c.Unmount(ctx, "/nowhere", false), fs.ErrNotExist, "/nowhere")
		})
	}
}

func TestDialErrors(t *testing.T) {
	_, err := Dial(t.TempDir(), quiet)
	wantError(t, err, store.ErrNoStore)
	_, err = DialOrStart(t.TempDir(), []string{"/nothing"}, os.Stderr)
	wantError(t, err, store.ErrNoStore)
	_, err = DialOrStart(newStore(t), []string{"/nothing"}, os.Stderr)
	wantError(t, err, fs.ErrNotExist, "start server")
	_, err = DialOrStart(newStore(t), []string{"false"}, os.Stderr)
	if err == nil {
		t.Error("a server that ends at once was started")
	}
}

// A command has the store open for a moment only; the next one waits.
func TestDialWaits(t *testing.T) {
	dir := newStore(t)
	s, err := store.Open(dir, quiet)
	ok(t, err)
	time.AfterFunc(200*time.Millisecond, func() { s.Close() })
	c := dial(t, dir)
	ok(t, c.CreateRelease(context.Background(), "v1"))
	ok(t, c.Close())
	ok(t, dial(t, dir).CreateRelease(context.Background(), "v2"))
}

// Many commands at once, each with the store to itself for a moment.
func TestCommandsQueue(t *testing.T) {
	dir := newStore(t)
	var group sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		group.Go(func() {
			c, err := Dial(dir, quiet)
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(c.CreateRelease(context.Background(), name), c.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	all, err := dial(t, dir).Releases(context.Background())
	if err != nil || len(all) != 6 {
		t.Errorf("%v, %v", all, err)
	}
}

// The socket of a server that was killed is replaced, and that of one that
// leaves is gone.
func TestSocket(t *testing.T) {
	dir := newStore(t)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: store.Socket(dir)})
	ok(t, err)
	stale.SetUnlinkOnClose(false)
	ok(t, stale.Close())
	c := dial(t, dir) // no server answers: in process
	ok(t, c.CreateRelease(context.Background(), "v1"))
	ok(t, c.Close())

	stop := startServer(t, dir, quiet)
	info, err := os.Lstat(store.Socket(dir))
	ok(t, err)
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	stop()
	if _, err := os.Lstat(store.Socket(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	ok(t, dial(t, dir).CreateRelease(context.Background(), "v2"))
}

// A store's path may be longer than a socket's address.
func TestLongPath(t *testing.T) {
	dir := t.TempDir()
	for len(dir) < 2*maxAddr {
		dir = filepath.Join(dir, "a-long-name-of-a-directory")
	}
	ok(t, store.Init(dir))
	stop := startServer(t, dir, quiet)
	s, err := dial(t, dir).Status(context.Background())
	ok(t, err)
	if s.Server != os.Getpid() {
		t.Errorf("served by %d", s.Server)
	}
	stop()
	if _, err := os.Lstat(store.Socket(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// Two servers are started for one store: one serves, the other says that it is
// in use; whoever dials finds the one.
func TestServersRace(t *testing.T) {
	for range 5 {
		dir := newStore(t)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 3)
		for range cap(served) {
			go func() { served <- Serve(ctx, dir, ServeOptions{}, quiet) }()
		}
		for range cap(served) - 1 {
			select {
			case err := <-served:
				wantError(t, err, store.ErrLocked, dir)
			case <-time.After(2 * patience):
				t.Fatal("two serve, or wait for ever")
			}
		}
		ok(t, dial(t, dir).CreateRelease(context.Background(), "v1"))
		cancel()
		ok(t, <-served)
	}
}

// raw sends a request as it stands.
func raw(t testing.TB, c *Client, method, path string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://regfs"+path, body)
	ok(t, err)
	resp, err := c.http.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ok(t, err)
	return resp.StatusCode, string(text)
}

func TestBadRequests(t *testing.T) {
	dir := newStore(t)
	startServer(t, dir, quiet)
	c := dial(t, dir)
	large := `{"name":"` + strings.Repeat("a", maxRequest) + `"}`
	for _, path := range []string{"/v1/releases", "/v1/mounts", "/v1/umount"} {
		for _, body := range []string{
			large, `{"unknown":1}`, `{"name":1}`, `{"release":1}`, `[]`, `{`, ``, "null\x00", `{"mountpoint":{}}`,
		} {
			status, text := raw(t, c, http.MethodPost, path, strings.NewReader(body))
			var e Error
			if err := json.Unmarshal([]byte(text), &e); err != nil || status != http.StatusBadRequest || e.Message == "" {
				t.Errorf("%s of %.20q: %d %s", path, body, status, text)
			}
			if !errors.Is(&e, ErrUsage) && body != "null\x00" {
				t.Errorf("%s of %.20q: kind %q: %s", path, body, e.Kind, e.Message)
			}
		}
	}
	// A body of endless blanks is not read to its end.
	status, _ := raw(t, c, http.MethodPost, "/v1/releases", io.LimitReader(blanks{}, 10*maxRequest))
	if status != http.StatusBadRequest {
		t.Errorf("blanks: %d", status)
	}
	for _, path := range []string{"/", "/v1/nothing", "/v2/releases"} {
		if status, _ := raw(t, c, http.MethodGet, path, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := raw(t, c, http.MethodDelete, "/v1/releases", nil); status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", status)
	}
	var nothing struct{}
	if err := c.call(context.Background(), http.MethodGet, "/v1/nothing", nil, &nothing); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
	all, err := c.Releases(context.Background())
	if err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte(" "), len(p))), nil }

func TestMountErrors(t *testing.T) {
	dir := newStore(t)
	startServer(t, dir, quiet)
	c, ctx := dial(t, dir), context.Background()
	ok(t, c.CreateRelease(ctx, "v1"))
	empty, full := t.TempDir(), t.TempDir()
	file := filepath.Join(full, "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	for _, c2 := range []struct {
		release, at string
		kind        error
		says        string
	}{
		{"v2", empty, fs.ErrNotExist, "v2"},
		{"v1", filepath.Join(empty, "missing"), fs.ErrNotExist, "missing"},
		{"v1", full, fs.ErrExist, "not empty"},
		{"v1", file, ErrUsage, "not a directory"},
		{"v1", dir, ErrUsage, "must not lie in each other"},
		{"v1", filepath.Join(dir, "mnt"), ErrUsage, "must not lie in each other"},
		{"v1", filepath.Dir(dir), ErrUsage, "must not lie in each other"},
	} {
		_, _, err := c.Mount(ctx, MountRequest{Release: c2.release, Mountpoint: c2.at, Reuse: tree.ReuseStore})
		wantError(t, err, c2.kind, c2.says)
	}
	body := `{"release":"v1","mountpoint":"` + empty + `","namespace":"mnt:[1]"}`
	if status, text := raw(t, c, http.MethodPost, "/v1/mounts", strings.NewReader(body)); status != http.StatusBadRequest || !strings.Contains(text, "another mount namespace") {
		t.Errorf("from another namespace: %d %s", status, text)
	}
	s, err := c.Status(ctx)
	if err != nil || len(s.Mounts) != 0 {
		t.Errorf("mounts: %v, %v", s.Mounts, err)
	}
}

// A command that is its own server mounts nothing: the mount would end with it.
func TestNoMountInProcess(t *testing.T) {
	c := dial(t, newStore(t))
	if _, _, err := c.Mount(context.Background(), MountRequest{Release: "v1", Mountpoint: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no server runs") {
		t.Errorf("%v", err)
	}
}

// A server that is about to exit says so, and whoever asks dials again.
func TestLeaving(t *testing.T) {
	dir := newStore(t)
	st, err := store.Open(dir, quiet)
	ok(t, err)
	s := NewServer(st, quiet)
	l := newPipeListener()
	server := &http.Server{Handler: s.handler()}
	go server.Serve(l)
	defer server.Close()
	c, ctx := newClient(l.dial, func() error { return nil }), context.Background()
	ok(t, c.CreateRelease(ctx, "v1"))

	s.using.Lock()
	wantError(t, c.CreateRelease(ctx, "v2"), ErrLeaving)
	_, err = c.Status(ctx)
	wantError(t, err, ErrLeaving)
	s.using.Unlock()

	s.pid = os.Getpid()
	s.mu.Lock()
	s.leave()
	s.mu.Unlock()
	_, _, err = c.Mount(ctx, MountRequest{Release: "v1", Mountpoint: t.TempDir(), Reuse: tree.ReuseStore})
	wantError(t, err, ErrLeaving)
	ok(t, st.Close())
}

// A connection that is closed without an answer is a server that leaves.
func TestClosedWithoutAnswer(t *testing.T) {
	l := newPipeListener()
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // reads the request, and goes
				conn.Read(make([]byte, 4096))
				conn.Close()
			}()
		}
	}()
	c := newClient(l.dial, func() error { return nil })
	wantError(t, c.CreateRelease(context.Background(), "v1"), ErrLeaving)
	_, err := c.Status(context.Background())
	wantError(t, err, ErrLeaving)
}

// While servers come and go, a command that dials again when it is told to
// always succeeds.
func TestServersComeAndGo(t *testing.T) {
	dir, ctx := newStore(t), context.Background()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			if err := Serve(ctx, dir, ServeOptions{}, quiet); err != nil && !errors.Is(err, store.ErrLocked) {
				t.Error(err)
			}
			cancel()
		}
	}()
	for asked := 0; ; asked++ {
		select {
		case <-done:
			t.Logf("asked %d times", asked)
			return
		default:
		}
		for deadline := time.Now().Add(10 * time.Second); ; {
			c, err := Dial(dir, quiet)
			if err == nil {
				_, err = c.Status(ctx)
				err = errors.Join(err, c.Close())
			}
			if err == nil {
				break
			}
			if !errors.Is(err, ErrLeaving) || time.Now().After(deadline) {
				t.Error(err)
				break
			}
		}
	}
}

// Errors keep their kind on the way.
func TestErrorKinds(t *testing.T) {
	for _, k := range kinds {
		name, kind := k.name, k.err
		text, err := json.Marshal(newError(errors.Join(errors.New("context"), kind)))
		ok(t, err)
		var e Error
		ok(t, json.Unmarshal(text, &e))
		if e.Kind != name || !errors.Is(&e, kind) || !strings.Contains(e.Error(), "context") {
			t.Errorf("%s: %s", name, text)
		}
	}
	if e := newError(errors.New("other")); e.Kind != "" || errors.Unwrap(e) != nil {
		t.Errorf("%+v", e)
	}
}

// Another user is turned away, even where modes would let him in.
func TestPeer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: whether another user is refused; needs root's rights")
	}
	dir := newStore(t)
	var log syncBuffer
	startServer(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err := asUser(65534, func() error { return ask(dir) }); err == nil {
		t.Error("modes do not keep another user out")
	}
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		ok(t, os.Chmod(p, 0o755))
	}
	ok(t, os.Chmod(store.Socket(dir), 0o666))
	err := asUser(65534, func() error { return ask(dir) })
	if errors.Is(err, fs.ErrPermission) || err == nil {
		t.Errorf("another user, let in by the modes: %v", err)
	}
	if !strings.Contains(log.String(), "caller refused") || !strings.Contains(log.String(), "uid=65534") {
		t.Errorf("the log does not name him: %s", log.String())
	}
	ok(t, asUser(0, func() error { return ask(dir) }))
}

// ask sends a request by system calls of the calling thread.
func ask(dir string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: store.Socket(dir)}); err != nil {
		return err
	}
	ok := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	if _, err := unix.Write(fd, []byte("GET /v1/status HTTP/1.0\r\n\r\n")); err != nil || ok != nil {
		return errors.Join(err, ok)
	}
	answer := make([]byte, 64)
	n, err := unix.Read(fd, answer)
	if err == nil && !bytes.HasPrefix(answer[:n], []byte("HTTP/1.0 200")) {
		err = syscall.EPROTO
	}
	return err
}

// asUser runs f in a thread that belongs to another user, and ends the thread.
func asUser(uid int, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			result <- errno
			return
		}
		result <- f()
	}()
	return <-result
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
