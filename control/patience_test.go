package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/compose"
	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/store"
)

// halves are requests that stop somewhere.
var halves = []string{
	"",
	"POST /v1/rel",
	"POST /v1/releases HTTP/1.1\r\nHost: regfs\r\nContent-Length: 100\r\n\r\n",
	"POST /v1/releases HTTP/1.1\r\nHost: regfs\r\nContent-Length: 100\r\n\r\n{\"name\":",
	"POST /v1/releases HTTP/1.1\r\nHost: regfs\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"name\"\r\n",
	"POST /v1/mounts HTTP/1.1\r\nHost: regfs\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n",
	"GET /v1/status HTTP/1.1\r\nHost: regfs\r\n\r\n", // whole, and the answer is left where it is
}

// call opens connections, each with half a request on it.
func call(t *testing.T, dir string, each int) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range each {
		for _, half := range halves {
			conn, err := net.Dial("unix", store.Socket(dir))
			ok(t, err)
			t.Cleanup(func() { conn.Close() })
			_, err = io.WriteString(conn, half)
			ok(t, err)
			all = append(all, conn)
		}
	}
	return all
}

// A list of images may be long.
func TestLongList(t *testing.T) {
	dir := newStore(t)
	startServer(t, dir, quiet)
	var req compose.Request
	for i := range 3000 {
		req.Images = append(req.Images, imagelist.Reference{Host: "registry.example.com", Name: fmt.Sprint("team/app", i), Tag: "1.0.0"})
	}
	report, err := dial(t, dir).Compose(t.Context(), "v1", req)
	ok(t, err)
	if len(report.Missing) != len(req.Images) {
		t.Errorf("%d of %d are missing", len(report.Missing), len(req.Images))
	}
}

// Callers that stop in the middle of a request hold up nobody: not the others,
// and not the server's end.
func TestSlowCallers(t *testing.T) {
	dir := newStore(t)
	stop := startServer(t, dir, quiet)
	call(t, dir, 60)
	c, ctx := dial(t, dir), context.Background()
	begin := time.Now()
	ok(t, c.CreateRelease(ctx, "v1"))
	_, err := c.Status(ctx)
	ok(t, err)
	stop()
	if took := time.Since(begin); took > readPatience/2 {
		t.Errorf("others were answered, and the server left, after %v", took)
	}
}

// Callers that never go on are let go.
func TestSlowCallersAreLetGo(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: run without it to see this, too")
	}
	dir := newStore(t)
	startServer(t, dir, quiet)
	var group sync.WaitGroup
	for i, conn := range call(t, dir, 1) {
		group.Go(func() {
			conn.SetReadDeadline(time.Now().Add(3 * readPatience))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%.60q is waited for after %v", halves[i%len(halves)], 3*readPatience)
			}
		})
	}
	group.Wait()
}

// A socket in the store's directory that is another user's is not spoken to.
func TestForeignServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: whether another user's server is refused; needs root's rights")
	}
	dir := newStore(t)
	ok(t, os.Chmod(dir, 0o777))
	for p := dir; len(p) > 1; p = p[:strings.LastIndexByte(p, '/')] {
		if info, err := os.Stat(p); err == nil {
			ok(t, os.Chmod(p, info.Mode().Perm()|0o011))
		}
		if p == os.TempDir() {
			break
		}
	}
	var fd int
	ok(t, asUser(65534, func() (err error) {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: store.Socket(dir)}), unix.Listen(fd, 8))
	}))
	defer unix.Close(fd)
	conn, err := net.Dial("unix", store.Socket(dir))
	ok(t, err) // somebody listens
	ok(t, conn.Close())
	if c := dialServer(dir); c != nil {
		t.Error("a command speaks to another user's server")
	}
	// The command does its work itself.
	ok(t, dial(t, dir).CreateRelease(context.Background(), "v1"))
}
