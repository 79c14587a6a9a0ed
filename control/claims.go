package control

import (
	"fmt"
	"syscall"
)

// claim keeps a release from being mounted, and from other claims, until the
// function that is returned is called. What overlayfs wrote to it is read back
// first. One that is mounted, or that a server which died has left mounted, is
// EBUSY. What is what the release is claimed for.
func (s *Server) claim(name, what string) (unclaim func(), err error) {
	if err := s.enterClaim(name, what); err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, name, err)
	}
	if err := s.settleForGood(name); err != nil {
		s.unclaim(name)
		return nil, fmt.Errorf("%s %s: %w", what, name, err)
	}
	return func() { s.unclaim(name) }, nil
}

// settleForGood brings in what overlayfs has left of a release that is not
// mounted here. What comes into the index from now on is taken for removed by
// an overlay that is read back later: so there must be none, EBUSY.
func (s *Server) settleForGood(release string) error {
	report, err := s.settle(release)
	if err != nil {
		return err
	}
	if err := refused(release, report); err != nil {
		return err
	}
	if s.overlay(release).Pending() {
		return fmt.Errorf("somebody uses still what overlayfs has mounted of it; stop them, and \"regfs sync %s\": %w", release, syscall.EBUSY)
	}
	return nil
}

// enterClaim is claim without a look at what overlayfs wrote.
func (s *Server) enterClaim(name, what string) error {
	dead, err := s.dead()
	if err != nil {
		return err
	}
	for _, l := range dead {
		if l.Release == name {
			return leftMounted(l.Mountpoint)
		}
	}
	if err := s.forgetCleared(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.isMounted(name); err != nil {
		return err
	}
	if err := s.isTaken(name); err != nil {
		return err
	}
	s.claims[name] = what
	return nil
}

func (s *Server) unclaim(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, name)
}

// isMounted says where a release is mounted, or was by a server that died. mu is
// held.
func (s *Server) isMounted(release string) error {
	for _, m := range s.mounts {
		if m.Release == release {
			return fmt.Errorf("it is mounted at %s; umount it first: %w", m.Mountpoint, syscall.EBUSY)
		}
	}
	for at, l := range s.lost {
		if l.Release == release {
			return leftMounted(at)
		}
	}
	return nil
}

func leftMounted(at string) error {
	return fmt.Errorf("a server that died has left it mounted at %s; umount it first: %w", at, syscall.EBUSY)
}

// isTaken says which command has a release for itself. mu is held.
func (s *Server) isTaken(release string) error {
	for _, i := range s.imports {
		if i.release.Name == release {
			return fmt.Errorf("an import into it is under way; wait for its end: %w", syscall.EBUSY)
		}
	}
	if what, ok := s.claims[release]; ok {
		return fmt.Errorf("another command is at work on it (%s): %w", what, syscall.EBUSY)
	}
	return nil
}
