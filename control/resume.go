package control

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/regfs/regfs/mountpoint"
)

// ErrUnmounted: somebody has taken the mount away while no server ran.
var ErrUnmounted = errors.New("it was unmounted while the server was away")

// Resume is [Client.Mount] for a mount whose server has died: it waits for the
// next server, which restores the mount, and stands for it again. It waits as
// long as the supervisor lives that starts that one; if there is none, or it
// gives up, the mount stays dead and Resume fails.
func Resume(ctx context.Context, dir string, req MountRequest, was Mount) (*Client, Mount, *Stay, error) {
	for {
		supervised := alive(was.Supervisor)
		if c := dialServer(dir); c != nil {
			m, stay, err := c.resume(ctx, req)
			if err == nil || !errors.Is(err, ErrLeaving) {
				return c, m, stay, err
			}
		}
		if !supervised {
			return nil, was, nil, gone(req.Mountpoint)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// resume asks for a mount that is there.
func (c *Client) resume(ctx context.Context, req MountRequest) (Mount, *Stay, error) {
	_, ok, err := mountpoint.Find(req.Mountpoint)
	if err != nil {
		return Mount{}, nil, err
	}
	if !ok {
		return Mount{}, nil, ErrUnmounted
	}
	m, stay, err := c.Mount(ctx, req)
	if errors.Is(err, errGone) {
		err = ErrLeaving // and died again
	}
	return m, stay, err
}

// gone says why no server comes back. One that was to leave with its last mount
// has none to come back for if that was unmounted.
func gone(dir string) error {
	if _, ok, err := mountpoint.Find(dir); err == nil && !ok {
		return ErrUnmounted
	}
	return errGone
}

func alive(pid int) bool { return pid != 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
