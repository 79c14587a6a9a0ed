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

	"github.com/regfs/regfs/fusefs"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// A mounted is a mount that the server serves.
type mounted struct {
	Mount
	tree    *tree.FS
	release *index.Release
	fuse    *fusefs.Mount
	at      fusefs.Mounted
	done    chan struct{} // closed when all is given back
}

// add mounts a release.
func (s *Server) add(req MountRequest) (*mounted, error) {
	m := &mounted{done: make(chan struct{})}
	m.Mount = Mount{Release: req.Release, Mountpoint: req.Mountpoint, Reuse: req.Reuse, Since: time.Now().UTC(), PID: s.pid}
	if err := s.reserve(m); err != nil {
		return nil, err
	}
	if err := s.start(m, req); err != nil {
		s.remove(m)
		return nil, err
	}
	s.log.Info("mounted", "release", m.Release, "mountpoint", m.Mountpoint, "reuse", m.Reuse,
		"passthrough", m.Passthrough, "reason", m.Reason)
	go s.serve(m)
	return m, nil
}

// reserve enters a mount, so that no other can take its place.
func (s *Server) reserve(m *mounted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrLeaving
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
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mounts, m.Mountpoint)
	if len(s.mounts) == 0 && s.idleExit {
		s.leave()
	}
	close(m.done)
}

// leave begins the server's end. mu is held.
func (s *Server) leave() {
	if !s.closing {
		s.closing = true
		close(s.leaving)
	}
}

func (s *Server) start(m *mounted, req MountRequest) (err error) {
	if err := s.prepare(req.Mountpoint); err != nil {
		return err
	}
	if m.release, err = s.store.Index.Open(req.Release); err != nil {
		return err
	}
	m.tree, err = tree.New(s.store.Blobs, s.store.Index, m.release, s.store.Dir, store.PlainDir(req.Release), tree.Options{
		Reuse: req.Reuse, UID: req.UID, GID: req.GID,
		FileMode: fs.FileMode(req.FileMode).Perm(), DirMode: fs.FileMode(req.DirMode).Perm(),
		Log: s.log.With("release", req.Release),
	})
	if err != nil {
		m.release.Close()
		return fmt.Errorf("mount %s: %w", req.Release, err)
	}
	if err := s.startFuse(m, req); err != nil {
		m.tree.Close()
		m.release.Close()
		return err
	}
	return nil
}

func (s *Server) startFuse(m *mounted, req MountRequest) error {
	probe, err := s.store.Probe()
	if err != nil {
		return err
	}
	defer probe.Close()
	served, err := fusefs.New(req.Mountpoint, m.tree, fusefs.Options{
		Source: s.store.Dir, AllowOther: req.AllowOther, NoPassthrough: req.NoPassthrough, Probe: probe, Log: s.log,
	})
	if err != nil {
		return err
	}
	m.at, _, err = fusefs.Find(req.Mountpoint)
	s.mu.Lock() // the mount is in the list already
	defer s.mu.Unlock()
	m.fuse = served
	m.Passthrough, m.Reason = served.Passthrough()
	return err
}

// serve waits for the end of a mount and gives back what it had.
func (s *Server) serve(m *mounted) {
	m.fuse.Wait()
	err := errors.Join(m.tree.Close(), m.release.Sync())
	m.release.Close()
	s.log.Info("unmounted", "release", m.Release, "mountpoint", m.Mountpoint)
	if err != nil {
		s.log.Error("unmount", "release", m.Release, "err", err)
	}
	s.remove(m)
}

// drain is how long the end of a mount waits for those who use it.
const drain = 2 * time.Second

// end unmounts, and returns when all is given back. With force it waits a
// moment for those who use the mount, and then takes it from them.
func (m *mounted) end(force bool) error {
	if err := m.leave(force); err != nil {
		return err
	}
	select {
	case <-m.done:
		return nil
	case <-time.After(drain):
	}
	if !force {
		return fmt.Errorf("umount %s: gone from here, but another mount namespace, such as a container's, has it still; "+
			"stop the container, or use --force: %w", m.Mountpoint, syscall.EBUSY)
	}
	if err := m.at.Abort(); err != nil {
		return err
	}
	<-m.done
	return nil
}

// leave takes the mount out of this namespace.
func (m *mounted) leave(force bool) error {
	for deadline := time.Now().Add(drain); ; time.Sleep(20 * time.Millisecond) {
		at, ok, err := fusefs.Find(m.Mountpoint)
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
		mount := m.Mount
		if m.fuse != nil {
			mount.Requests = m.fuse.Requests()
		}
		all = append(all, mount)
	}
	slices.SortFunc(all, func(a, b Mount) int { return strings.Compare(a.Release, b.Release) })
	return all
}

// prepare sees to it that a directory can be mounted upon. What a dead server
// has left there is cleared away.
func (s *Server) prepare(mountpoint string) error {
	at, ok, err := fusefs.Find(mountpoint)
	if err != nil {
		return err
	}
	if ok {
		// No mount of this store is served by another process: we have the lock.
		if at.Source != s.store.Dir && !at.Dead() {
			return fmt.Errorf("mount: a release of the store %s is mounted at %s: %w", at.Source, mountpoint, syscall.EBUSY)
		}
		s.log.Warn("clearing away the mount of a dead server", "mountpoint", mountpoint)
		if err := at.Clear(); err != nil {
			return err
		}
	}
	return s.checkMountpoint(mountpoint)
}

func (s *Server) checkMountpoint(mountpoint string) error {
	if within(mountpoint, s.store.Dir) || within(s.store.Dir, mountpoint) {
		return fmt.Errorf("mount: the mount point %s and the store %s must not lie in each other: %w", mountpoint, s.store.Dir, ErrUsage)
	}
	entries, err := os.ReadDir(mountpoint)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("mount: the mount point %s is missing; make it with mkdir: %w", mountpoint, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("mount: the mount point %s is not a directory: %w", mountpoint, ErrUsage)
	case err != nil:
		return fmt.Errorf("mount: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("mount: the mount point %s is not empty; choose an empty directory: %w", mountpoint, fs.ErrExist)
	}
	return nil
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
