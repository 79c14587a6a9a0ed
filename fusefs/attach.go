package fusefs

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attach serves a mount that is nowhere yet, and then has it put in its place:
// whoever finds it there is answered.
func (m *Mount) attach(mountpoint string, o Options) error {
	options := mountOptions(o)
	dev, mount, err := detached(options)
	if err != nil {
		return explain(err)
	}
	// Where it is put nowhere, this is its end, and the server's.
	defer unix.Close(mount)
	options.DirectMountStrict = false // go-fuse is given a device, and mounts nothing
	if m.server, err = newServer(&m.requests, fmt.Sprintf("/dev/fd/%d", dev), options); err != nil {
		return err // and with it the device is closed
	}
	m.passthrough, m.why = probe(m.server, o)
	go m.server.Serve()
	return o.Attach(mount)
}

// detached makes a mount that is nowhere yet, as go-fuse makes one that is
// somewhere.
func detached(o *fuse.MountOptions) (dev, mount int, err error) {
	if dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, -1, err
	}
	if mount, err = fsmount(dev, o); err != nil {
		return -1, -1, errors.Join(err, unix.Close(dev))
	}
	return dev, mount, nil
}

func fsmount(dev int, o *fuse.MountOptions) (int, error) {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for _, option := range [][2]string{
		{"source", o.FsName}, {"subtype", o.Name}, {"fd", fmt.Sprint(dev)},
		{"rootmode", fmt.Sprintf("%o", unix.S_IFDIR)},
		{"user_id", fmt.Sprint(os.Geteuid())}, {"group_id", fmt.Sprint(os.Getegid())},
		{"max_read", fmt.Sprint(o.MaxWrite)},
	} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return -1, fmt.Errorf("option %s: %w", option[0], err)
		}
	}
	flags, attributes := slices.Clone(o.Options), unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV
	if o.DirectMountFlags&unix.MS_RDONLY != 0 {
		flags, attributes = append(flags, "ro"), attributes|unix.MOUNT_ATTR_RDONLY
	}
	if o.AllowOther {
		flags = append(flags, "allow_other")
	}
	for _, flag := range flags {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			return -1, fmt.Errorf("option %s: %w", flag, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
}
