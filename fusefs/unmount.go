package fusefs

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

// A Mounted is what the kernel says of a regfs mount, ours or another's.
type Mounted struct {
	Mountpoint string
	Source     string
	minor      int // of its device, by which sysfs names the connection
}

// Find looks up the topmost mount at a mount point, which must be clean and
// absolute. If that is no regfs mount, ok is false. The mount itself is not
// touched: it may be dead, or our own.
func Find(mountpoint string) (m Mounted, ok bool, err error) {
	there, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != mountpoint, false })
	if err != nil {
		return Mounted{}, false, fmt.Errorf("read mounts: %w", err)
	}
	if len(there) == 0 {
		return Mounted{}, false, nil
	}
	top := there[len(there)-1] // the kernel lists what is mounted over it later
	return Mounted{Mountpoint: mountpoint, Source: top.Source, minor: top.Minor}, top.FSType == Type, nil
}

// Dead says whether no server answers for the mount any more. A server that
// hangs is not dead, only late.
func (m Mounted) Dead() bool {
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
func (m Mounted) Unmount() error { return unmount(m.Mountpoint, 0) }

// Clear takes the mount away whoever uses it. What is open in it fails from
// then on.
func (m Mounted) Clear() error {
	// In this order: a connection's number is free for another's once it is
	// unmounted.
	return errors.Join(m.Abort(), unmount(m.Mountpoint, unix.MNT_DETACH))
}

// Abort ends the mount's connection, and with it all use of the mount in every
// namespace.
func (m Mounted) Abort() error {
	abort := filepath.Join("/sys/fs/fuse/connections", fmt.Sprint(m.minor), "abort")
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
