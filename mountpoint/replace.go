package mountpoint

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// moveBeneath is MOVE_MOUNT_BENEATH (Linux 6.5), which x/sys has not.
const moveBeneath = 0x200

// Replace puts a mount that is nowhere yet (fsmount(2)) in the place of this
// one, whoever uses it. The new one is mounted beneath, and then this one is
// taken away: at no moment does anybody see the directory below. A kernel that
// cannot do that shows it for an instant, and so gapless is false.
func (m Mount) Replace(fd int) (gapless bool, err error) {
	err = moveMount(fd, m.Mountpoint, moveBeneath)
	if err == nil {
		return true, m.Clear()
	}
	if !errors.Is(err, syscall.EINVAL) {
		return false, err
	}
	if err := m.Clear(); err != nil {
		return false, err
	}
	return false, moveMount(fd, m.Mountpoint, 0)
}

func moveMount(fd int, dir string, flags int) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH|flags); err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}
