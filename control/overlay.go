package control

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/mountpoint"
	"github.com/regfs/regfs/overlay"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// An overlayMount is a release that the kernel shows. It goes on when this
// process ends, and another one takes it over.
type overlayMount struct {
	*overlay.Overlay
	at mountpoint.Mount
}

var _ live = (*overlayMount)(nil)

// startOverlay mounts a release by overlayfs.
func (s *Server) startOverlay(m *mounted, req MountRequest) error {
	if err := checkOverlay(req); err != nil {
		return err
	}
	// Else a release that does not exist would get a directory.
	release, err := s.store.Index.Open(req.Release)
	if err != nil {
		return err
	}
	defer release.Close()
	o := s.overlay(req.Release)
	if err := o.Mount(req.Mountpoint, req.AllowOther); err != nil {
		return fmt.Errorf("mount %s by overlayfs: %w", req.Release, err)
	}
	at, _, err := mountpoint.Find(req.Mountpoint)
	if err != nil {
		return err
	}
	s.show(m, o, at)
	return nil
}

// show makes a mount of ours one that the kernel shows.
func (s *Server) show(m *mounted, o *overlay.Overlay, at mountpoint.Mount) {
	m.live = &overlayMount{o, at}
	m.ReadOnly = o.ReadOnly()
	m.Backend, m.Reuse = BackendOverlay, tree.ReuseRepository
	m.Passthrough = true
	m.Since = o.Since()
}

// checkOverlay refuses what overlayfs has no way to do, rather than to do
// something else.
func checkOverlay(req MountRequest) error {
	var cannot []string
	if req.Reuse == tree.ReuseNone {
		cannot = append(cannot, "--reuse none")
	}
	if req.UID != uint32(os.Geteuid()) || req.GID != uint32(os.Getegid()) {
		cannot = append(cannot, "--uid and --gid")
	}
	if req.FileMode != 0o644 || req.DirMode != 0o755 {
		cannot = append(cannot, "--file-mode and --dir-mode")
	}
	if req.NoPassthrough {
		cannot = append(cannot, "--no-passthrough")
	}
	if len(cannot) == 0 {
		return nil
	}
	return fmt.Errorf("mount %s: overlayfs cannot do %s; leave it out, or mount by FUSE: %w",
		req.Release, strings.Join(cannot, ", "), ErrUsage)
}

// wait watches the kernel's table of mounts, as anybody may use umount(8).
func (o *overlayMount) wait(leaving <-chan struct{}) bool {
	const soon, late = 20 * time.Millisecond, time.Second // the kernel logs each time it is asked
	pause := soon
	for {
		if o.mounted() {
			pause = soon / 2
		} else if !o.used() {
			return true
		}
		select {
		case <-leaving:
			return false
		case <-time.After(pause):
		}
		pause = min(2*pause, late)
	}
}

// mounted says whether the overlay is mounted where this process sees it. It
// waits a moment for a change first.
func (o *overlayMount) mounted() bool {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return true // then it is not to be found out
	}
	defer table.Close()
	all, err := mountpoint.All()
	for _, m := range all {
		if m.Device == o.at.Device {
			unix.Poll([]unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}}, 200)
			return true
		}
	}
	return err != nil
}

// used says whether somebody has the overlay still. Where somebody has removed
// it with the store, there is nothing to be had.
func (o *overlayMount) used() bool {
	used, err := o.InUse()
	return used || err != nil && o.Pending()
}

func (o *overlayMount) sync() (overlay.Report, error) { return o.Sync() }

func (o *overlayMount) close() error { return finished(o.Overlay) }

// abort cannot do what it should; so it saves what there is.
func (o *overlayMount) abort() error {
	_, err := o.Sync()
	return errors.Join(err, fmt.Errorf("some process, or another mount namespace, such as a container's, has it open still, "+
		"and overlayfs cannot take it away; what was written until now is in the store, and the rest will be "+
		"when the next command finds it free: %w", syscall.EBUSY))
}

// finished brings in what an overlay has left. What was refused is an error,
// but nothing is left to be done.
func finished(o *overlay.Overlay) error {
	report, err := o.Finish()
	if err != nil {
		return err
	}
	return refused(o.Release, report)
}

func refused(release string, report overlay.Report) error {
	if len(report.Refused) == 0 {
		return nil
	}
	first := report.Refused[0]
	return fmt.Errorf("release %s: %d files are not what their names say and were put into STORE/%s, the first is %s (%s): %w",
		release, len(report.Refused), store.RefusedDir(release), first.Path, first.Reason, ErrRefused)
}

// overlay returns the one object that stands for a release's overlay.
func (s *Server) overlay(release string) *overlay.Overlay {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.overlays[release]
	if !ok {
		o = overlay.New(s.store, release, s.log)
		s.overlays[release] = o
	}
	return o
}

// takeOver finds the overlays that a server which died has left mounted.
func (s *Server) takeOver() error {
	all, err := mountpoint.All()
	if err != nil {
		return err
	}
	for _, at := range all {
		if at.Type != mountpoint.Overlay || at.Store != s.store.Dir || index.ValidRelease(at.Release) != nil {
			continue
		}
		m := newMounted(Mount{Release: at.Release, Mountpoint: at.Mountpoint, PID: s.pid, Supervisor: s.supervisor()})
		m.orphan = true
		s.show(m, s.overlay(at.Release), at)
		if s.reserve(m) != nil {
			continue // the same one, bound to another place
		}
		s.overlay(at.Release).Guard(at.Release + " is mounted by overlayfs at " + at.Mountpoint)
		s.log.Info("taken over", "release", m.Release, "mountpoint", m.Mountpoint)
		s.watch(m)
	}
	return nil
}

// finish brings in what overlays hold, before a release is mounted. That of the
// release itself, left by an earlier mount, has to be finished; those of
// others, mounted or not, have blobs that a registry is to find.
func (s *Server) finish(release string) error {
	left, err := overlay.Pending(s.store)
	if err != nil {
		return err
	}
	for _, name := range left {
		if name == release {
			continue
		}
		if report, err := s.settle(name); err != nil || len(report.Refused) > 0 {
			s.log.Error("overlay of another release", "release", name, "err", errors.Join(err, refused(name, report)))
		}
	}
	err = finished(s.overlay(release))
	if errors.Is(err, ErrRefused) {
		s.log.Error("overlay left by an earlier mount", "err", err)
		return nil
	}
	return err
}

// settle brings into the index what an overlay of the release holds, mounted or
// not, before a command answers about it.
func (s *Server) settle(release string) (overlay.Report, error) {
	for _, m := range s.serving() {
		if m.Release == release && m.isStarted() {
			return m.live.sync()
		}
	}
	o := s.overlay(release)
	if !o.Pending() {
		return overlay.Report{}, nil
	}
	report, err := o.Finish()
	if errors.Is(err, syscall.EBUSY) {
		return o.Sync() // used where we do not see it
	}
	return report, err
}
