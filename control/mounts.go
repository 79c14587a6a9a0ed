package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/regfs/regfs/mountpoint"
	"github.com/regfs/regfs/overlay"
)

// A mounted is a mount that the server serves.
type mounted struct {
	Mount
	live   live
	req    MountRequest // as it was asked for; empty for an overlay of a server that died; Detach is guarded by Server.mu
	orphan bool         // taken over from a server that died, and nobody stands for it; guarded by Server.mu
	err    error

	started chan struct{} // closed when the mount is there: Mount and live are set
	quiet   chan struct{} // closed when nobody uses it any more
	done    chan struct{} // closed when all is given back: err is set
}

func newMounted(m Mount) *mounted {
	return &mounted{Mount: m, started: make(chan struct{}), quiet: make(chan struct{}), done: make(chan struct{})}
}

// describe tells of the mount as it is now.
func (m *mounted) describe() Mount {
	mount := m.Mount
	if f, ok := m.live.(*fuseMount); ok {
		mount.Requests = f.fuse.Requests()
	}
	return mount
}

func (m *mounted) isStarted() bool {
	select {
	case <-m.started:
		return true
	default:
		return false
	}
}

// A live is what the server needs of a mount, whatever the backend.
type live interface {
	// wait returns when nobody can use the mount any more, in whichever
	// namespace; false if the server leaves before.
	wait(leaving <-chan struct{}) bool
	// sync brings into the store and the index what was written until now.
	sync() (overlay.Report, error)
	// close gives back what the mount had, when nobody uses it any more.
	close() error
	// abort takes the mount from those who have it still.
	abort() error
}

// add mounts a release.
func (s *Server) add(req MountRequest) (*mounted, error) {
	if m := s.adopt(req); m != nil {
		return m, nil
	}
	return s.mountNew(req)
}

func (s *Server) mountNew(req MountRequest) (*mounted, error) {
	m := newMounted(Mount{
		Release: req.Release, Mountpoint: req.Mountpoint, Reuse: req.Reuse, Since: time.Now().UTC(),
		PID: s.pid, Supervisor: s.supervisor(),
	})
	m.req = req
	if err := s.reserve(m); err != nil {
		return nil, err
	}
	s.note()
	err := s.createFor(req)
	if err == nil {
		err = s.start(m, req)
	}
	if err != nil {
		s.remove(m)
		return nil, err
	}
	s.log.Info("mounted", "release", m.Release, "mountpoint", m.Mountpoint, "backend", m.Backend, "reuse", m.Reuse,
		"passthrough", m.Passthrough, "reason", m.Reason)
	if m.Backend == BackendOverlay {
		s.note() // it needs none
	}
	s.watch(m)
	return m, nil
}

// createFor makes the release of a mount, if that is asked for.
func (s *Server) createFor(req MountRequest) error {
	if !req.Create {
		return nil
	}
	if err := s.store.Index.Create(req.Release); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// watch serves a mount until its end.
func (s *Server) watch(m *mounted) {
	close(m.started)
	s.watching.Go(func() { s.serve(m) })
}

// reserve enters a mount, so that no other can take its place.
func (s *Server) reserve(m *mounted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrLeaving
	}
	if err := s.isTaken(m.Release); err != nil {
		return fmt.Errorf("mount %s: %w", m.Release, err)
	}
	for _, other := range s.mounts {
		if other.Release == m.Release {
			return fmt.Errorf("mount %s: it is mounted at %s already; umount it there first: %w", m.Release, other.Mountpoint, syscall.EBUSY)
		}
	}
	if other, ok := s.mounts[m.Mountpoint]; ok {
		return fmt.Errorf("mount %s: %s is mounted at %s: %w", m.Release, other.Release, m.Mountpoint, syscall.EBUSY)
	}
	s.mounts[m.Mountpoint] = m
	return nil
}

// remove forgets a mount. The server that was started for mounts leaves with
// the last one.
func (s *Server) remove(m *mounted) {
	s.forget(m)
	s.note()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveIfIdle()
	close(m.done)
}

func (s *Server) forget(m *mounted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mounts, m.Mountpoint)
}

// leaveIfIdle begins the end of a server that was started for mounts, when it
// has nothing to do any more. mu is held.
func (s *Server) leaveIfIdle() {
	if len(s.mounts) == 0 && s.IdleExit && !s.restoring && !s.collecting {
		s.leave()
	}
}

// leave begins the server's end. mu is held.
func (s *Server) leave() {
	if !s.closing {
		s.closing = true
		close(s.leaving)
	}
}

func (s *Server) start(m *mounted, req MountRequest) error {
	replace, err := s.replaces(req)
	if err == nil && !replace {
		err = s.prepare(req.Mountpoint)
	}
	if err != nil {
		return err
	}
	// What an overlay has left is the release's, whatever mounts it next.
	if err := s.finish(req.Release); err != nil {
		return err
	}
	if req.Backend == BackendOverlay {
		return s.startOverlay(m, req)
	}
	err = s.startFuse(m, req, replace)
	var none *noFuseError
	if req.Backend != BackendAuto || !errors.As(err, &none) {
		return err
	}
	m.Fallback = none.Error()
	s.log.Warn("no FUSE, mounting by overlayfs", "release", req.Release, "why", none)
	if replace {
		err = s.prepare(req.Mountpoint)
	} else {
		err = nil
	}
	if err == nil {
		err = s.startOverlay(m, req)
	}
	if err != nil {
		return fmt.Errorf("neither FUSE nor overlayfs: %w; %w", none, err)
	}
	return nil
}

// serve waits for the end of a mount and gives back what it had.
func (s *Server) serve(m *mounted) {
	if !m.live.wait(s.stopped) {
		return
	}
	close(m.quiet)
	m.err = m.live.close()
	s.snapshot(m.Release)
	s.log.Info("unmounted", "release", m.Release, "mountpoint", m.Mountpoint)
	if m.err != nil {
		s.log.Error("unmount", "release", m.Release, "err", m.err)
	}
	s.remove(m)
}

// drain is how long the end of a mount waits for those who use it.
const drain = 2 * time.Second

// end unmounts, and returns when all is given back. With force it waits a
// moment for those who use the mount, and then takes it from them.
func (m *mounted) end(force bool) error {
	select {
	case <-m.started:
	case <-m.done:
		return nil // it came to nothing
	}
	if err := m.leave(force); err != nil {
		return err
	}
	select {
	case <-m.quiet: // there may be much to give back
		<-m.done
		return m.err
	case <-time.After(drain):
	}
	if !force {
		return fmt.Errorf("umount %s: gone from here, but another mount namespace, such as a container's, has it still; "+
			"stop the container, or use --force: %w", m.Mountpoint, syscall.EBUSY)
	}
	if err := m.live.abort(); err != nil {
		return fmt.Errorf("umount %s: %w", m.Mountpoint, err)
	}
	<-m.done
	return m.err
}

// leave takes the mount out of this namespace.
func (m *mounted) leave(force bool) error {
	for deadline := time.Now().Add(drain); ; time.Sleep(20 * time.Millisecond) {
		at, ok, err := mountpoint.Find(m.Mountpoint)
		if err != nil || !ok {
			return err
		}
		err = at.Unmount()
		switch {
		case err == nil || !errors.Is(err, syscall.EBUSY):
			return err
		case !force:
			return fmt.Errorf("%w; %s; stop them, or use --force", err, users(m.Mountpoint))
		case time.Now().After(deadline):
			return at.Clear()
		}
	}
}

// users names the processes that use a mount, as far as /proc tells. It reads
// links only, and never follows one into the mount.
func users(mountpoint string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, name := range []string{"cwd", "root"} {
		more, _ := filepath.Glob("/proc/[0-9]*/" + name)
		links = append(links, more...)
	}
	var who []string
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || target != mountpoint && !strings.HasPrefix(target, mountpoint+"/") {
			continue
		}
		pid := strings.Split(link, "/")[2]
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		name := strings.TrimSpace(string(comm)) + " (process " + pid + ")"
		if !slices.Contains(who, name) {
			who = append(who, name)
		}
	}
	if len(who) == 0 {
		return "some process uses it"
	}
	return "in use by " + strings.Join(who, ", ")
}

// mounted lists the mounts, sorted by release.
func (s *Server) mounted() []Mount {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []Mount{}
	for _, m := range s.mounts {
		if m.isStarted() {
			all = append(all, m.describe())
		}
	}
	slices.SortFunc(all, func(a, b Mount) int { return strings.Compare(a.Release, b.Release) })
	return all
}

// prepare sees to it that a directory can be mounted upon. What a dead server of
// another store has left there is cleared away.
func (s *Server) prepare(dir string) error {
	at, ok, err := mountpoint.Find(dir)
	if err != nil {
		return err
	}
	if ok {
		// No mount of this store is served by another process: we have the lock.
		// An overlay needs no process to live.
		if at.Type == mountpoint.Overlay || at.Store != s.store.Dir && !at.Dead() {
			return fmt.Errorf("mount: a release of the store %s is mounted at %s: %w", at.Store, dir, syscall.EBUSY)
		}
		s.log.Warn("clearing away the mount of a dead server", "mountpoint", dir)
		if err := at.Clear(); err != nil {
			return err
		}
	}
	return s.checkMountpoint(dir)
}

func (s *Server) checkMountpoint(dir string) error {
	if within(dir, s.store.Dir) || within(s.store.Dir, dir) {
		return fmt.Errorf("mount: the mount point %s and the store %s must not lie in each other: %w", dir, s.store.Dir, ErrUsage)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("mount: the mount point %s is missing; make it with mkdir: %w", dir, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("mount: the mount point %s is not a directory: %w", dir, ErrUsage)
	case err != nil:
		return fmt.Errorf("mount: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("mount: the mount point %s is not empty; choose an empty directory: %w", dir, fs.ErrExist)
	}
	return nil
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
