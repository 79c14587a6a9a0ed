package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/overlay"
	"github.com/regfs/regfs/store"
)

// patience is how long a command waits for another one to let go of the store:
// without a server, each has it open for a moment.
const patience = 5 * time.Second

// A Client speaks for one command.
type Client struct {
	http  http.Client
	dial  dialFunc
	close func() error
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial reaches the server of a store, or, if none runs, opens the store in
// this process. The caller closes the client.
func Dial(dir string, log *slog.Logger) (*Client, error) {
	// A server is asked before the disk is, which may have failed under it.
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if c := dialServer(dir); c != nil {
			return c, nil
		}
		s, err := store.Open(dir, log)
		if err == nil {
			return serveSelf(s, log), nil
		}
		if !errors.Is(err, store.ErrLocked) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// dialServer returns nil if no server answers that belongs to the store's owner.
func dialServer(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = withSocket(dir, func(addr string) error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", addr)
			return err
		})
		if err != nil {
			return nil, err
		}
		if err := checkServer(dir, conn); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
	conn, err := dial(context.Background(), "", "")
	if err != nil {
		return nil
	}
	conn.Close()
	return newClient(dial, func() error { return nil })
}

// checkServer: where others may write to a store's directory, or to the one
// above it, the socket may be anybody's.
func checkServer(dir string, conn net.Conn) error {
	uid, err := peer(conn.(*net.UnixConn))
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return err
	}
	if uid != st.Uid {
		return fmt.Errorf("the server belongs to the user with the number %d, the store to %d: %w", uid, st.Uid, fs.ErrPermission)
	}
	return nil
}

// serveSelf is a client and its server in one process.
func serveSelf(s *store.Store, log *slog.Logger) *Client {
	l := newPipeListener()
	self := NewServer(s, log)
	self.tidy()
	if err := self.takeOver(); err != nil {
		log.Error("take over mounts", "err", err)
	}
	server := &http.Server{Handler: self.handler()}
	go server.Serve(l)
	return newClient(l.dial, sync.OnceValue(func() error {
		err := server.Close()
		self.stop()
		self.using.Lock() // held for ever: no request is at work any more
		return errors.Join(err, s.Close())
	}))
}

func newClient(dial dialFunc, close func() error) *Client {
	return &Client{
		http:  http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
		dial:  dial,
		close: close,
	}
}

// Close gives up the server, or the store if there is none.
func (c *Client) Close() error { return c.close() }

// Status tells the state of the store and of its mounts.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Releases lists all releases, the oldest first.
func (c *Client) Releases(ctx context.Context) ([]Release, error) {
	var all []Release
	return all, c.call(ctx, http.MethodGet, "/v1/releases", nil, &all)
}

// CreateRelease makes an empty release.
func (c *Client) CreateRelease(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, "/v1/releases", createRequest{name}, nil)
}

// RemoveRelease removes a release; the space of its blobs comes back by GC. A
// dry run only says what stands in the way.
func (c *Client) RemoveRelease(ctx context.Context, name string, dryRun bool) error {
	if err := index.ValidRelease(name); err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, "/v1/releases/"+url.PathEscape(name), removeRequest{dryRun}, nil)
}

// GC collects garbage, and calls tell with the plan, with the progress, and
// with the end. When the context ends, the collection does.
func (c *Client) GC(ctx context.Context, req GCRequest, tell func(GCNews) error) error {
	body, err := c.send(ctx, http.MethodPost, "/v1/gc", req)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := json.NewDecoder(body)
	for {
		var news GCNews
		err := lines.Decode(&news)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("gc: %w", ctx.Err())
		case err != nil:
			return fmt.Errorf("gc: the server has gone: %w", err)
		case news.End != nil || news.Err != nil:
			io.Copy(io.Discard, body) // until it is over, and another may begin
		}
		if news.Err != nil {
			return news.Err
		}
		if err := tell(news); err != nil || news.End != nil {
			return err
		}
	}
}

// Images lists the images of a release.
func (c *Client) Images(ctx context.Context, release string) ([]export.Image, error) {
	var all []export.Image
	return all, c.ask(ctx, release, "images", &all)
}

// Inventory lists what an export of a part of a release consists of.
func (c *Client) Inventory(ctx context.Context, release string, part export.Selection) (*export.Inventory, error) {
	inv := new(export.Inventory)
	if err := index.ValidRelease(release); err != nil {
		return inv, err
	}
	return inv, c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/inventory", part, inv)
}

// Sync brings into the store and the index what was written to a release, if
// that is mounted by overlayfs, or was when the power failed.
func (c *Client) Sync(ctx context.Context, release string) (overlay.Report, error) {
	var report overlay.Report
	if err := index.ValidRelease(release); err != nil {
		return report, err
	}
	return report, c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/sync", nil, &report)
}

// ask asks for something of a release. A name that is none would be another
// path: "..".
func (c *Client) ask(ctx context.Context, release, what string, out any) error {
	if err := index.ValidRelease(release); err != nil {
		return err
	}
	return c.call(ctx, http.MethodGet, "/v1/releases/"+url.PathEscape(release)+"/"+what, nil, out)
}

// Unmount ends a mount. Without force, one that is in use stays: EBUSY.
func (c *Client) Unmount(ctx context.Context, mountpoint string, force bool) error {
	return c.call(ctx, http.MethodPost, "/v1/umount", unmountRequest{mountpoint, force}, nil)
}

// Mount asks for a mount. Wait on what comes back returns when the mount is
// gone. When the context ends, or this process does, the mount ends.
func (c *Client) Mount(ctx context.Context, req MountRequest) (Mount, *Stay, error) {
	var m Mount
	req.Namespace, _ = mountNamespace()
	body, err := c.send(ctx, http.MethodPost, "/v1/mounts", req)
	if err != nil {
		return m, nil, err
	}
	if err := json.NewDecoder(body).Decode(&m); err != nil {
		body.Close()
		return m, nil, fmt.Errorf("mount %s: %w: %w", req.Mountpoint, errGone, err)
	}
	return m, &Stay{body}, nil
}

var errGone = errors.New("the server has gone")

// A Stay is a mount that lasts.
type Stay struct{ body io.ReadCloser }

// Wait returns when the mount is gone and the server has done with it; an
// error if it was the server that went.
func (s *Stay) Wait() error {
	defer s.body.Close()
	if _, err := io.Copy(io.Discard, s.body); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

// AwaitExit waits until a server that is leaving has left, and gives up after
// a while.
func AwaitExit(dir string, pid int) {
	for range 100 {
		if dialServer(dir) != nil || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("answer of the server: %w", err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://regfs"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if hasLeft(err) {
		err = ErrLeaving
	}
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		e := new(Error)
		if err := json.NewDecoder(resp.Body).Decode(e); err != nil {
			return nil, fmt.Errorf("answer of the server: %s", resp.Status)
		}
		return nil, e
	}
	return resp.Body, nil
}

// hasLeft says whether the server has closed the connection without a word, or
// its socket since it was found.
func hasLeft(err error) bool {
	for _, sign := range []error{io.EOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, syscall.ENOENT} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// mountNamespace names the mount namespace of this process. A mount is seen
// in the namespace of the server that makes it.
func mountNamespace() (string, error) { return os.Readlink("/proc/self/ns/mnt") }
