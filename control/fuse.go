package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/regfs/regfs/fusefs"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/mountpoint"
	"github.com/regfs/regfs/overlay"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// A fuseMount is a release that this process serves by FUSE.
type fuseMount struct {
	tree    *tree.FS
	release *index.Release
	fuse    *fusefs.Mount
	at      mountpoint.Mount
}

var _ live = (*fuseMount)(nil)

// A noFuseError says why there is no mounting by FUSE here.
type noFuseError struct{ err error }

func (e *noFuseError) Error() string { return e.err.Error() }
func (e *noFuseError) Unwrap() error { return e.err }

// startFuse mounts a release by FUSE, on the directory as it is, or in the place
// of a dead mount.
func (s *Server) startFuse(m *mounted, req MountRequest, replace bool) (err error) {
	f := new(fuseMount)
	if f.release, err = s.store.Index.Open(req.Release); err != nil {
		return err
	}
	f.tree, err = tree.New(s.store.Blobs, s.store.Index, f.release, s.store.Dir, store.PlainDir(req.Release), tree.Options{
		Pins:  s.pinsOf(req, replace),
		Reuse: req.Reuse, UID: req.UID, GID: req.GID,
		FileMode: fs.FileMode(req.FileMode).Perm(), DirMode: fs.FileMode(req.DirMode).Perm(),
		ReadOnly: f.release.Sealed() != "", Log: s.log.With("release", req.Release),
	})
	if err != nil {
		f.release.Close()
		return fmt.Errorf("mount %s: %w", req.Release, err)
	}
	if err := f.mount(s, req, replace); err != nil {
		f.tree.Close()
		f.release.Close()
		return err
	}
	m.live, m.Backend, m.ReadOnly = f, BackendFuse, f.tree.ReadOnly
	m.Passthrough, m.Reason = f.fuse.Passthrough()
	return nil
}

func (f *fuseMount) mount(s *Server, req MountRequest, replace bool) error {
	probe, err := s.store.Probe()
	if err != nil {
		return err
	}
	defer probe.Close()
	options := fusefs.Options{
		Source: s.store.Dir, AllowOther: req.AllowOther, ReadOnly: f.tree.ReadOnly, NoPassthrough: req.NoPassthrough, Probe: probe, Log: s.log,
	}
	if replace && os.Geteuid() == 0 {
		options.Attach = func(mount int) error { return s.replace(req.Mountpoint, mount) }
	} else if replace {
		if err := s.clear(req.Mountpoint); err != nil {
			return err
		}
	}
	f.fuse, err = fusefs.New(req.Mountpoint, f.tree, options)
	if err != nil {
		return &noFuseError{err}
	}
	f.at, _, err = mountpoint.Find(req.Mountpoint)
	return err
}

func (f *fuseMount) wait(leaving <-chan struct{}) bool {
	gone := make(chan struct{})
	go func() {
		f.fuse.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return true
	case <-leaving:
		return false
	}
}

// sync has nothing to do: what is written to the mount is in the store and the
// index as soon as the registry knows that it is written.
func (f *fuseMount) sync() (overlay.Report, error) { return overlay.Report{}, nil }

func (f *fuseMount) close() error {
	// The pins go with the tree, after what was linked has got to the disk.
	err := errors.Join(f.release.Sync(), f.tree.Close())
	f.release.Close()
	return err
}

func (f *fuseMount) abort() error { return f.at.Abort() }
