package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/store"
)

// firstMount is how long a server that was started for a mount waits for it.
const firstMount = 30 * time.Second

// ServeOptions are how to serve.
type ServeOptions struct {
	// IdleExit is to leave when the last mount has ended.
	IdleExit bool
	// Again: another server has crashed before this one. Nobody waits for it to
	// mount something new.
	Again bool
	// Serving, if it is given, is called when requests are answered.
	Serving func()
	// Ending, if it is given, is called when all mounts have ended in order. What
	// comes after that is no reason to start another server.
	Ending func()
	// Supervisor, if it is given, returns the process that starts the server
	// again after a crash, 0 if there is none now.
	Supervisor func() int
}

func (o ServeOptions) supervisor() int {
	if o.Supervisor == nil {
		return 0
	}
	return o.Supervisor()
}

// Serve opens a store and serves it until the context ends, or with IdleExit
// until the last mount has ended. What a server that died has left mounted is
// mounted again first. All mounts are gone when it returns; but not with
// [ErrBroken], which is to be handled as a crash.
func Serve(ctx context.Context, dir string, o ServeOptions, log *slog.Logger) error {
	began := time.Now()
	st, err := openPatiently(dir, log)
	if err != nil {
		return err
	}
	l, err := listen(dir, log)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	s := NewServer(st, log)
	s.pid, s.ServeOptions = os.Getpid(), o
	s.tidy()
	if err := s.takeOver(); err != nil {
		log.Error("take over mounts", "err", err)
	}
	s.restore()
	s.watching.Go(func() { s.keepSnapshots(snapshotEvery) })
	server := newHTTPServer(s.handler(), log)
	go server.Serve(l)
	log.Info("serving", "store", dir, "pid", s.pid)
	if o.Serving != nil {
		o.Serving()
	}

	ended := make(chan error, 1)
	go func() {
		s.await(ctx)
		l.Close() // and with it, the socket
		s.endAll()
		s.stop()
		if o.Ending != nil {
			o.Ending()
		}
		s.using.Lock() // held for ever: the store is not for requests any more
		err := s.closeStore()
		close(s.left)
		ended <- errors.Join(err, shutdown(server))
	}()
	select {
	case err := <-ended:
		return err
	case err := <-s.broken(began):
		return err
	}
}

// openPatiently waits for a command that has the store open for a moment. If
// it is a server that has it, there is nothing to wait for.
func openPatiently(dir string, log *slog.Logger) (*store.Store, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		st, err := store.Open(dir, log)
		if !errors.Is(err, store.ErrLocked) || time.Now().After(deadline) || dialServer(dir) != nil {
			return st, err
		}
	}
}

// await returns when the server is to leave.
func (s *Server) await(ctx context.Context) {
	for {
		select {
		case <-s.leaving:
			return
		case <-ctx.Done():
		case <-time.After(firstMount):
			s.mu.Lock()
			stay := !s.IdleExit || len(s.mounts) > 0 || s.collecting
			s.mu.Unlock()
			if stay {
				continue
			}
		}
		s.mu.Lock()
		s.leave()
		s.mu.Unlock()
	}
}

// endAll ends all mounts, side by side: each may have to wait for its users.
func (s *Server) endAll() {
	var ends sync.WaitGroup
	for _, m := range s.serving() {
		ends.Go(func() {
			if err := m.end(true); err != nil {
				s.log.Error("unmount", "mountpoint", m.Mountpoint, "err", err)
			}
		})
	}
	ends.Wait()
}

func (s *Server) serving() []*mounted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.mounts))
}

// shutdown lets the last answers go out.
func shutdown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}

// listen makes the control socket. The store's lock is held, so a socket that
// is there already is a dead server's.
func listen(dir string, log *slog.Logger) (net.Listener, error) {
	if err := os.Remove(store.Socket(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var l net.Listener
	err := withSocket(dir, func(addr string) (err error) {
		l, err = net.Listen("unix", addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Until here only the mode of the store's directory keeps others out, and
	// from here on this mode does, too.
	if err := os.Chmod(store.Socket(dir), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	unix := l.(*net.UnixListener)
	unix.SetUnlinkOnClose(false)
	return &ownListener{UnixListener: unix, path: store.Socket(dir), log: log}, nil
}

// maxAddr is the size of sun_path less its NUL: unix(7).
const maxAddr = 107

// withSocket calls f with an address of the control socket that is short
// enough, however long the store's path is.
func withSocket(dir string, f func(addr string) error) error {
	if path := store.Socket(dir); len(path) <= maxAddr {
		return f(path)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(filepath.Join("/proc/self/fd", fmt.Sprint(d.Fd()), filepath.Base(store.Socket(dir))))
}

// An ownListener accepts connections of the server's own user, and of root.
type ownListener struct {
	*net.UnixListener
	path string
	log  *slog.Logger
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peer(conn)
		if err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return conn, nil
		}
		l.log.Warn("control socket: caller refused", "uid", uid, "err", err)
		conn.Close()
	}
}

func (l *ownListener) Close() error {
	return errors.Join(os.Remove(l.path), l.UnixListener.Close())
}

// peer asks the kernel whose process is at the other end.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// DialOrStart reaches the server of a store, and starts one if none runs. The
// new server is a process of its own, in a session of its own: it serves other
// commands' mounts too, and must not end with this one. What it has to say goes
// to log.
func DialOrStart(dir string, argv []string, log *os.File) (*Client, error) {
	if c := dialServer(dir); c != nil {
		return c, nil
	}
	if err := store.Check(dir); err != nil {
		return nil, err
	}
	return start(dir, argv, log)
}

func start(dir string, argv []string, log *os.File) (*Client, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for {
		if c := dialServer(dir); c != nil {
			return c, nil
		}
		select {
		case err := <-exited:
			if c := dialServer(dir); c != nil {
				return c, nil // another was faster
			}
			return nil, fmt.Errorf("start server: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
