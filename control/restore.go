package control

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/regfs/regfs/mountpoint"
)

// comeBack is how long a restored mount waits for the command that stood for
// it. If that has died too, the mount ends as if it had died alone.
const comeBack = time.Minute

// A Lost mount is one that a server which died has left, and that is not
// restored.
type Lost struct {
	Release    string `json:"release,omitempty"` // if it is known
	Mountpoint string `json:"mountpoint"`
	Error      string `json:"error,omitempty"` // why, if it was tried
}

// restore mounts again what a server that died has left behind, each at its
// place. What is not there any more was taken away meanwhile, by somebody or
// with the machine, and stays away.
func (s *Server) restore() {
	left, err := readNotes(s.store.Dir)
	if err != nil {
		s.log.Error("mounts of a dead server are not restored", "err", err)
	}
	s.beginRestoring(left)
	for _, n := range left {
		there, err := s.leftAt(n.Mountpoint)
		if err == nil && !there {
			s.log.Info("not mounted any more", "release", n.Release, "mountpoint", n.Mountpoint)
			s.find(n)
			continue
		}
		if err == nil {
			err = s.restoreOne(n)
		}
		if err != nil {
			s.log.Error("mount not restored", "release", n.Release, "mountpoint", n.Mountpoint, "err", err)
			s.lose(n, err)
		}
	}
	s.endRestoring()
	s.note()
}

// beginRestoring keeps a server that is to leave with its last mount, and the
// notes of what is still to be restored.
func (s *Server) beginRestoring(left []note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restoring = true
	for _, n := range left {
		s.lost[n.Mountpoint] = lost{note: n}
	}
}

func (s *Server) endRestoring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restoring = false
	if s.Again && s.IdleExit && len(s.mounts) == 0 {
		s.leave()
	}
}

// find forgets a mount that was noted and needs no restoring.
func (s *Server) find(n note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, n.Mountpoint)
}

// forgetCleared forgets what a dead server has left mounted of a release, if it
// has been unmounted since. That needs no server, and none is told.
func (s *Server) forgetCleared(release string) error {
	for _, n := range s.lostOf(release) {
		there, err := s.leftAt(n.Mountpoint)
		if err != nil {
			return err
		}
		if !there {
			s.find(n)
			s.note()
		}
	}
	return nil
}

func (s *Server) lostOf(release string) (all []note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lost {
		if l.Release == release {
			all = append(all, l.note)
		}
	}
	return all
}

func (s *Server) restoreOne(n note) error {
	m, err := s.mountNew(n.request())
	if err != nil {
		return err
	}
	s.log.Warn("mount restored", "release", m.Release, "mountpoint", m.Mountpoint)
	s.mu.Lock()
	m.orphan = true
	s.mu.Unlock()
	if !n.Detach {
		time.AfterFunc(comeBack, func() { s.endOrphan(m) })
	}
	return nil
}

// endOrphan ends a mount for which nobody has come to stand.
func (s *Server) endOrphan(m *mounted) {
	s.mu.Lock()
	orphan := m.orphan
	s.mu.Unlock()
	if !orphan {
		return
	}
	s.log.Warn("command has not come back, unmounting", "release", m.Release, "mountpoint", m.Mountpoint)
	if err := m.end(true); err != nil {
		s.log.Error("unmount", "err", err)
	}
}

// leftAt says whether a FUSE mount of this store is at a mount point. It is
// dead then, if we do not serve it: we have the store's lock.
func (s *Server) leftAt(dir string) (bool, error) {
	at, ok, err := mountpoint.Find(dir)
	return ok && at.Type == mountpoint.Fuse && at.Store == s.store.Dir, err
}

// replaces says whether a mount is to take the place of a dead one.
func (s *Server) replaces(req MountRequest) (bool, error) {
	if req.Backend == BackendOverlay {
		return false, nil
	}
	return s.leftAt(req.Mountpoint)
}

// clear takes the dead mount at a mount point away, for who is not root:
// fusermount3 mounts on a directory, and a dead mount is none.
func (s *Server) clear(dir string) error {
	at, err := s.replaceable(dir)
	if err != nil {
		return err
	}
	s.log.Warn("clearing away the mount of a dead server; the directory below is to be seen until the next mount", "mountpoint", dir)
	return at.Clear()
}

// replace puts a mount in the place of the dead one at a mount point. A
// registry must not see the directory below: it would carry on there.
func (s *Server) replace(dir string, mount int) error {
	at, err := s.replaceable(dir)
	if err != nil {
		return err
	}
	s.log.Warn("replacing the mount of a dead server", "mountpoint", dir)
	gapless, err := at.Replace(mount)
	if err == nil && !gapless {
		s.log.Warn("the directory below was to be seen for an instant", "mountpoint", dir)
	}
	return err
}

// replaceable returns the dead mount at a mount point, for another to take its
// place. If there are several, as a server has died in the middle of this, one
// is left.
func (s *Server) replaceable(dir string) (at mountpoint.Mount, err error) {
	stack, err := mountpoint.Stack(dir)
	if err != nil {
		return at, err
	}
	for ; len(stack) > 0; stack = stack[:len(stack)-1] {
		at = stack[len(stack)-1]
		if at.Type != mountpoint.Fuse || at.Store != s.store.Dir {
			return at, fmt.Errorf("something else is mounted at %s", dir)
		}
		if len(stack) == 1 {
			return at, nil
		}
		if err := at.Clear(); err != nil {
			return at, err
		}
	}
	return at, fmt.Errorf("nothing is mounted at %s", dir)
}

// lose remembers why a mount was not restored.
func (s *Server) lose(n note, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[n.Mountpoint] = lost{n, err}
}

type lost struct {
	note
	err error
}

// dead lists the FUSE mounts of the store that nobody serves.
func (s *Server) dead() ([]Lost, error) {
	all, err := mountpoint.All()
	if err != nil {
		return nil, err
	}
	noted, err := readNotes(s.store.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	served := make(map[mountpoint.Device]bool)
	for _, m := range s.mounts {
		if !m.isStarted() { // it may be any of them
			return nil, err
		}
		if f, ok := m.live.(*fuseMount); ok {
			served[f.at.Device] = true
		}
	}
	var dead []Lost
	for _, at := range all {
		if at.Type != mountpoint.Fuse || at.Store != s.store.Dir || served[at.Device] {
			continue
		}
		l := Lost{Mountpoint: at.Mountpoint}
		for _, n := range noted {
			if n.Mountpoint == at.Mountpoint {
				l.Release = n.Release
			}
		}
		if why := s.lost[at.Mountpoint].err; why != nil {
			l.Error = why.Error()
		}
		dead = append(dead, l)
	}
	return dead, err
}

// note writes down what is mounted. It is called after each change, and before
// the kernel mounts anything, so that no mount of a server that dies is
// without its note.
func (s *Server) note() {
	if s.pid == 0 {
		return // a command that has the store for a moment
	}
	s.noting.Lock()
	defer s.noting.Unlock()
	if err := writeNotes(s.store.Dir, s.notes()); err != nil {
		s.log.Error("mounts are not noted, and would not be restored after a crash", "err", err)
	}
}

func (s *Server) notes() []note {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []note
	for _, m := range s.mounts {
		if m.req.Release != "" && m.req.Backend != BackendOverlay {
			all = append(all, noteOf(m.req))
		}
	}
	for at, l := range s.lost {
		if s.mounts[at] != nil {
			delete(s.lost, at)
			continue
		}
		all = append(all, l.note)
	}
	slices.SortFunc(all, func(a, b note) int { return cmp.Compare(a.Mountpoint, b.Mountpoint) })
	return all
}

// adopt finds the mount that is asked for among those that a dead server has
// left, so that whoever watches over a mount can begin again.
func (s *Server) adopt(req MountRequest) *mounted {
	s.mu.Lock()
	m, ok := s.mounts[req.Mountpoint]
	ok = ok && m.orphan && m.isFor(req)
	if ok {
		m.orphan = false
		m.req.Detach = req.Detach
	}
	s.mu.Unlock()
	if !ok {
		return nil
	}
	s.note()
	return m
}

// isFor says whether a mount is what is asked for. What an overlay was asked
// for, nobody knows any more.
func (m *mounted) isFor(req MountRequest) bool {
	if m.Backend == BackendOverlay {
		return m.Release == req.Release && req.Backend != BackendFuse
	}
	return req.Backend != BackendOverlay && noteOf(m.req).sameMount(noteOf(req))
}

func (n note) sameMount(other note) bool {
	other.Detach = n.Detach
	return n == other
}
