package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// mountFlags are the flags of mount in the form in which users give them.
type mountFlags struct {
	backend, reuse, fileMode, dirMode string
	uid, gid                          uint32
	allowOther, noPassthrough, detach bool
	create                            bool // the release
}

func (f *mountFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.backend, "backend", string(control.BackendAuto), "what mounts it: fuse, overlay (kernel overlayfs), or auto: FUSE where it is to be had")
	flags.StringVar(&f.reuse, "reuse", string(tree.ReuseStore), "where blobs of other releases are found: store, repository or none")
	flags.Uint32Var(&f.uid, "uid", uint32(os.Geteuid()), "owner of the registry's files")
	flags.Uint32Var(&f.gid, "gid", uint32(os.Getegid()), "group of the registry's files")
	flags.StringVar(&f.fileMode, "file-mode", "0644", "mode of the registry's files, octal")
	flags.StringVar(&f.dirMode, "dir-mode", "0755", "mode of the registry's directories, octal")
	flags.BoolVar(&f.allowOther, "allow-other", false, "let other users in, as far as owner and modes allow; the default for root with another --uid")
	flags.BoolVar(&f.noPassthrough, "no-passthrough", false, "let all reads and writes go through the server")
	flags.BoolVar(&f.create, "create", false, "make the release first, if there is none of that name")
	flags.BoolVarP(&f.detach, "detach", "d", false, "return as soon as the release is mounted; the mount stays until umount")
}

func (f *mountFlags) request(flags *pflag.FlagSet, release, mountpoint string) (control.MountRequest, error) {
	fileMode, err1 := octal("--file-mode", f.fileMode)
	dirMode, err2 := octal("--dir-mode", f.dirMode)
	if err := errors.Join(err1, err2); err != nil {
		return control.MountRequest{}, err
	}
	switch control.Backend(f.backend) {
	case control.BackendAuto, control.BackendFuse, control.BackendOverlay:
	default:
		return control.MountRequest{}, fmt.Errorf("--backend %q: use auto, fuse or overlay: %w", f.backend, errUsage{})
	}
	switch tree.Reuse(f.reuse) {
	case tree.ReuseStore, tree.ReuseRepository, tree.ReuseNone:
	default:
		return control.MountRequest{}, fmt.Errorf("--reuse %q: use store, repository or none: %w", f.reuse, errUsage{})
	}
	if os.Geteuid() == 0 && f.uid != 0 && !flags.Changed("allow-other") {
		f.allowOther = true
	}
	return control.MountRequest{
		Release: release, Mountpoint: mountpoint,
		Backend: control.Backend(f.backend), Reuse: tree.Reuse(f.reuse),
		UID: f.uid, GID: f.gid, FileMode: fileMode, DirMode: dirMode,
		AllowOther: f.allowOther, NoPassthrough: f.noPassthrough, Detach: f.detach, Create: f.create,
	}, nil
}

func octal(name, s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, fmt.Errorf("%s %q: give permission bits in octal, such as 0644: %w", name, s, errUsage{})
	}
	return uint32(mode), nil
}

func (c *command) mountCmd() *cobra.Command {
	var flags mountFlags
	cmd := &cobra.Command{
		Use:   "mount RELEASE DIR",
		Short: "Mount a release as a registry's storage directory",
		Long: `Mount presents a release at an empty directory, for a registry whose storage
directory ("rootdirectory") that is. It stays in the foreground until the mount
is gone: by "regfs umount", by umount(8), or by SIGINT or SIGTERM to this
command. With --detach it returns once the release is mounted.

Several releases of one store can be mounted at once. They are served by one
process, which the first mount starts ("regfs serve") and which leaves with the
last one.

--reuse says which blobs of other releases a registry finds here:
  store       every blob, in every repository: nothing is ever uploaded twice
  repository  a blob that some release has had in the same repository
  none        none; the registry sees this release only

--backend overlay mounts by the kernel's overlayfs, which needs root and no
/dev/fuse. Listings show history then, blobs are reused by repository, and what
the registry wrote is brought into the store at umount, by "regfs sync", and
before any command that answers about the release. The default takes FUSE where
it is to be had, and says why where it is not.`,
		Example: `  regfs mount v1.0 /var/lib/registry --detach
  regfs mount v1.1 /mnt/next --create --detach
  regfs mount v1.1 /mnt/next --reuse repository --uid 1000 --gid 1000`,
		Args: exactly("RELEASE", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			mountpoint, err := resolve(args[1])
			if err != nil {
				return err
			}
			req, err := flags.request(cmd.Flags(), args[0], mountpoint)
			if err != nil {
				return err
			}
			if err := store.Check(c.dir); err != nil {
				return err
			}
			start := func() (*control.Client, error) { return c.startServer(flags.detach) }
			return again(start, func(client *control.Client) error { return c.mount(cmd.Context(), client, req) })
		},
	}
	flags.add(cmd.Flags())
	return cmd
}

// startServer reaches the server, or starts one. In the foreground the server
// speaks through this command; one that outlives it has a file.
func (c *command) startServer(detach bool) (*control.Client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := []string{self, "--store", c.dir, "serve", "--idle-exit"}
	if c.verbose {
		argv = append(argv, "--verbose")
	}
	if !detach {
		return control.DialOrStart(c.dir, argv, os.Stderr)
	}
	log, err := os.OpenFile(store.Log(c.dir), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	client, err := control.DialOrStart(c.dir, argv, log)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		fmt.Fprintln(stderr, "regfs: the server did not start; see the end of", log.Name())
	}
	return client, err
}

// mount stands for a mount until it is gone. A signal unmounts; it does not
// just drop the connection, so that this command ends after the mount.
func (c *command) mount(ctx context.Context, client *control.Client, req control.MountRequest) error {
	m, stay, err := client.Mount(context.WithoutCancel(ctx), req)
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, describe(m))
	if req.Detach {
		return stay.Wait()
	}
	for standFor(ctx, client, m, stay) != nil {
		// A dead server's mount stays until the next one: if it went, a registry
		// would carry on in the bare directory.
		fmt.Fprintf(stderr, "regfs: mount %s: the server has gone, waiting for it to come back\n", m.Release)
		if client, m, stay, err = control.Resume(context.WithoutCancel(ctx), c.dir, req, m); err != nil {
			if errors.Is(err, control.ErrUnmounted) {
				return nil
			}
			if m.Backend == control.BackendOverlay {
				return fmt.Errorf("mount %s: %w; the mount works on, mount it again to watch over it", req.Release, err)
			}
			return fmt.Errorf("mount %s: %w; mount it again", req.Release, err)
		}
		fmt.Fprintln(stderr, describe(m))
	}
	control.AwaitExit(c.dir, m.PID)
	return nil
}

// standFor stands for a mount until it is gone; an error if it was the server
// that went. While a server is away, a signal waits for the next one.
func standFor(ctx context.Context, client *control.Client, m control.Mount, stay *control.Stay) error {
	stop := context.AfterFunc(ctx, func() {
		err := client.Unmount(context.WithoutCancel(ctx), m.Mountpoint, true)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, control.ErrLeaving) {
			fmt.Fprintln(stderr, "regfs:", err)
		}
	})
	defer stop()
	return stay.Wait()
}

func describe(m control.Mount) string {
	if m.Backend == control.BackendOverlay {
		how := "overlayfs: blobs of other releases are found by repository, listings show history"
		if m.ReadOnly {
			how = "sealed, so read-only; " + how
		}
		if m.Fallback != "" {
			how = "no FUSE (" + m.Fallback + "); " + how
		}
		return fmt.Sprintf("%s is mounted at %s (%s)", m.Release, m.Mountpoint, how)
	}
	how := "reads and writes pass through to the store"
	if m.ReadOnly {
		how = "sealed, so read-only; reads pass through to the store"
	}
	if !m.Passthrough {
		how = "no passthrough: " + m.Reason
		if m.ReadOnly {
			how = "sealed, so read-only; " + how
		}
	}
	return fmt.Sprintf("%s is mounted at %s (%s)", m.Release, m.Mountpoint, how)
}
