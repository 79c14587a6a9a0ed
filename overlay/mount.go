package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/mountpoint"
)

// Check says why a store cannot be shown by overlayfs, if so, and what to do.
func Check(store string) error {
	if os.Geteuid() != 0 {
		return errors.New("overlayfs needs root (CAP_SYS_ADMIN)")
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(store, &disk); err != nil {
		return fmt.Errorf("statfs %s: %w", store, err)
	}
	if disk.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("the store %s lies on an overlay itself, which cannot be written to by another; "+
			"put the store on a disk or a volume", store)
	}
	// Without such attributes overlayfs cannot say that a directory replaces
	// the one below.
	err := unix.Setxattr(store, "trusted.overlay.regfs", []byte("y"), 0)
	if err != nil {
		return fmt.Errorf("the disk of the store %s takes no trusted extended attributes, which overlayfs needs: %w", store, err)
	}
	return unix.Removexattr(store, "trusted.overlay.regfs")
}

// attach mounts the upper directory over the links and the blobs.
func (o *Overlay) attach(dir string, readOnly bool) error {
	fsfd, err := o.configure("off", readOnly)
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if readOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, explain(err))
	}
	defer unix.Close(fsfd)
	mount, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, explain(err))
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", dir, explain(err))
	}
	return nil
}

// InUse says whether the overlay is mounted somewhere, in whichever namespace,
// or was and somebody still has a file of it open: then nobody else may touch
// the upper directory. The kernel knows. It refuses a second overlay with the
// same upper directory, if it is asked for one with an index.
func (o *Overlay) InUse() (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.inUse()
}

// inUse is InUse. mu is held: two who ask at once would each find the overlay
// by which the other asks.
func (o *Overlay) inUse() (bool, error) {
	fsfd, err := o.configure("on", true)
	if errors.Is(err, syscall.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("release %s: find out whether its overlay is in use: %w", o.Release, explain(err))
	}
	return false, unix.Close(fsfd)
}

// configure makes an overlay that is mounted nowhere yet. With an index, and
// with the other features that are off here, what lies below must never
// change; the store does.
func (o *Overlay) configure(index string, readOnly bool) (fsfd int, err error) {
	fsfd, err = unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for _, option := range [][2]string{
		{"source", mountpoint.OverlaySource(o.store.Dir, o.Release)},
		{"lowerdir", escape(linksDir(o.store.Dir)) + ":" + escape(blobsDir(o.store.Dir))},
		{"upperdir", strings.ReplaceAll(o.dir(upperDir), `\`, `\\`)},
		{"workdir", strings.ReplaceAll(o.dir(workDir), `\`, `\\`)},
		{"index", index}, {"metacopy", "off"}, {"redirect_dir", "follow"}, {"xino", "off"},
	} {
		if err := unix.FsconfigSetString(fsfd, option[0], option[1]); err != nil {
			return -1, errors.Join(fmt.Errorf("overlay option %s: %w", option[0], withLog(fsfd, err)), unix.Close(fsfd))
		}
	}
	if readOnly { // nor does its end sync the whole disk
		if err := unix.FsconfigSetFlag(fsfd, "ro"); err != nil {
			return -1, errors.Join(fmt.Errorf("overlay option ro: %w", withLog(fsfd, err)), unix.Close(fsfd))
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, errors.Join(withLog(fsfd, err), unix.Close(fsfd))
	}
	return fsfd, nil
}

func escape(path string) string { return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(path) }

// withLog adds what the kernel has to say beyond a number.
func withLog(fsfd int, err error) error {
	buf := make([]byte, 1024)
	for {
		n, readErr := unix.Read(fsfd, buf)
		if readErr != nil || n == 0 {
			return err
		}
		if text, ok := strings.CutPrefix(strings.TrimSpace(string(buf[:n])), "e "); ok {
			err = fmt.Errorf("%s: %w", text, err)
		}
	}
}

func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("the kernel has no overlayfs; load the overlay module: %w", err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mounting is not allowed: in a container, give it --cap-add SYS_ADMIN: %w", err)
	}
	return err
}

// syncAll makes everything on a disk durable.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync the disk of %s: %w", dir, err)
	}
	return nil
}
