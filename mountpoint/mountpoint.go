// Package mountpoint asks the kernel what is mounted at a directory, and takes
// it away.
package mountpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Fuse and Overlay are the file system types that /proc/mounts shows.
const (
	Fuse    = "fuse.regfs"
	Overlay = "overlay"
)

// overlayPrefix begins the source of an overlay of ours, by which it is told
// from others'. The release and the store's directory follow.
const overlayPrefix = "regfs:"

// OverlaySource is what the overlay of a release is to have as its source.
func OverlaySource(store, release string) string { return overlayPrefix + release + ":" + store }

func cutOverlaySource(source string) (store, release string, ok bool) {
	rest, ours := strings.CutPrefix(source, overlayPrefix)
	release, store, ok = strings.Cut(rest, ":")
	return store, release, ours && ok
}

// A Mount is what the kernel says of a regfs mount, ours or another's.
type Mount struct {
	Mountpoint string
	Type       string // Fuse or Overlay
	Store      string // the directory of the store
	Release    string // of an overlay; a FUSE mount does not say
	Device     Device
}

// A Device tells a mounted file system from all others. All mounts of one, in
// whichever namespace, have the same.
type Device struct{ Major, Minor int }

func newMount(i *mountinfo.Info) (m Mount, ok bool) {
	m = Mount{
		Mountpoint: i.Mountpoint, Type: i.FSType, Store: i.Source,
		Device: Device{i.Major, i.Minor},
	}
	if i.FSType == Overlay {
		m.Store, m.Release, ok = cutOverlaySource(i.Source)
		return m, ok
	}
	return m, i.FSType == Fuse
}

// All lists the regfs mounts that this process can see.
func All() ([]Mount, error) {
	there, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var all []Mount
	for _, i := range there {
		if m, ok := newMount(i); ok {
			all = append(all, m)
		}
	}
	return all, nil
}

// Find looks up the topmost mount at a mount point, which must be clean and
// absolute. If that is no regfs mount, ok is false. The mount itself is not
// touched: it may be dead, or our own.
func Find(mountpoint string) (m Mount, ok bool, err error) {
	there, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != mountpoint, false })
	if err != nil {
		return Mount{}, false, fmt.Errorf("read mounts: %w", err)
	}
	if len(there) == 0 {
		return Mount{}, false, nil
	}
	m, ok = newMount(there[len(there)-1]) // the kernel lists what is mounted over it later
	return m, ok, nil
}

// Stack lists what is mounted at a mount point, the topmost last. What is no
// regfs mount has no Type.
func Stack(mountpoint string) ([]Mount, error) {
	there, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != mountpoint, false })
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	all := make([]Mount, len(there))
	for n, i := range there {
		m, ok := newMount(i)
		if !ok {
			m = Mount{Mountpoint: mountpoint}
		}
		all[n] = m
	}
	return all, nil
}

// Dead says whether no server answers for the mount any more. A server that
// hangs is not dead, only late; an overlay needs none.
func (m Mount) Dead() bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(m.Mountpoint, &st)
	}()
	select {
	case err := <-answer:
		return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
	case <-time.After(2 * time.Second):
		return false
	}
}

// Unmount takes the mount down; EBUSY if somebody uses it.
func (m Mount) Unmount() error { return unmount(m.Mountpoint, 0) }

// Clear takes the mount away whoever uses it. What is open in it fails from
// then on.
func (m Mount) Clear() error {
	// In this order: a connection's number is free for another's once it is
	// unmounted.
	return errors.Join(m.Abort(), unmount(m.Mountpoint, unix.MNT_DETACH))
}

// Abort ends the connection of a FUSE mount, and with it all use of it in every
// namespace. Those who use an overlay cannot be kept from it.
func (m Mount) Abort() error {
	if m.Type != Fuse {
		return nil
	}
	abort := filepath.Join("/sys/fs/fuse/connections", fmt.Sprint(m.Device.Minor), "abort")
	if err := os.WriteFile(abort, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort connection: %w", err)
	}
	return nil
}

func unmount(mountpoint string, flags int) error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(mountpoint, flags|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("umount %s: %w", mountpoint, err)
		}
		return nil
	}
	option := "-u"
	if flags&unix.MNT_DETACH != 0 {
		option = "-uz"
	}
	out, err := exec.Command("fusermount3", option, mountpoint).CombinedOutput()
	if strings.Contains(string(out), "busy") {
		err = syscall.EBUSY
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", mountpoint, err)
	}
	return nil
}
