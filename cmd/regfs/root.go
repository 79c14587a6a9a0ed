package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

// A command is what all subcommands share: the flags of the root.
type command struct {
	dir     string
	verbose bool
}

const defaultStore = "/var/lib/regfs"

func newRoot() *cobra.Command {
	c := new(command)
	root := &cobra.Command{
		Use:   "regfs",
		Short: "Container registry storage from one store of blobs, release by release",
		Long: `regfs presents a container registry's storage directory as a file system.
The blobs of all releases lie once in a store; a stock registry on a mount finds
each of them there and uploads nothing twice, while tar, find and the registry's
catalog see one release only.`,
		Example: `  regfs init
  regfs release create v1.0
  regfs mount v1.0 /var/lib/registry --detach
  # push images to a registry whose storage is /var/lib/registry, then
  regfs export v1.0 -o v1.0.tar
  regfs umount /var/lib/registry`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			tameUmask()
			return c.clean()
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.PersistentFlags().StringVar(&c.dir, "store", storeFromEnv(), "the store's directory; $REGFS_STORE if set")
	root.PersistentFlags().BoolVarP(&c.verbose, "verbose", "v", false, "log what happens, not only what goes wrong")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddCommand(c.initCmd(), c.releaseCmd(), c.mountCmd(), c.umountCmd(), c.syncCmd(), c.lsCmd(), c.diffCmd(), c.planCmd(), c.importCmd(), c.exportCmd(), c.tagCmd(), c.untagCmd(),
		c.verifyCmd(), c.gcCmd(), c.statusCmd(), c.fsckCmd(), c.serveCmd(), benchCmd(), versionCmd())
	return group(root)
}

// group makes a command that only holds others refuse what it does not hold:
// cobra shows the help, and calls it a success.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q", args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %q?", err, near[0])
		}
		return usage(cmd, err)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

func storeFromEnv() string {
	if dir := os.Getenv("REGFS_STORE"); dir != "" {
		return dir
	}
	return defaultStore
}

// tameUmask keeps what a command makes its owner's: a store that he could not
// read again, or that anybody could write to, is no store.
func tameUmask() {
	mask := syscall.Umask(0o077)
	syscall.Umask(mask&^0o700 | 0o022)
}

// clean makes the store's path the one that a server and /proc/mounts have.
func (c *command) clean() error {
	dir, err := resolve(c.dir)
	c.dir = dir
	return err
}

// resolve makes a path absolute and clean, without symlinks as far as it
// exists. It touches the directories above the last name only: a mount point
// may be dead, or hang.
func resolve(path string) (string, error) {
	for range 40 { // the kernel's own bound on symlinks that lead to symlinks
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return abs, nil // whoever uses it will say what is wrong
		}
		abs = filepath.Join(dir, filepath.Base(abs))
		target, err := os.Readlink(abs)
		if err != nil {
			return abs, nil
		}
		if path = target; !filepath.IsAbs(target) {
			path = filepath.Join(dir, target)
		}
	}
	return "", &fs.PathError{Op: "resolve", Path: path, Err: syscall.ELOOP}
}

func usage(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w (see \"%s --help\"): %w", err, cmd.CommandPath(), errUsage{})
}

// errUsage is control.ErrUsage without a word of its own.
type errUsage struct{}

func (errUsage) Error() string        { return "bad usage" }
func (errUsage) Is(target error) bool { return target == control.ErrUsage }

// exactly is cobra.ExactArgs with the arguments' names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, fmt.Errorf("%s: %s is missing", cmd.CommandPath(), names[len(args)]))
		case len(args) > len(names):
			return usage(cmd, fmt.Errorf("%s: %q is one argument too many", cmd.CommandPath(), args[len(names)]))
		}
		return nil
	}
}

func (c *command) log() *slog.Logger {
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// with runs f with a client of the store, and again if it came upon a server
// that was about to leave.
func (c *command) with(ctx context.Context, f func(*control.Client) error) error {
	return again(func() (*control.Client, error) { return control.Dial(c.dir, c.log()) }, f)
}

func again(dial func() (*control.Client, error), f func(*control.Client) error) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		client, err := dial()
		if err != nil {
			return err
		}
		err = errors.Join(f(client), client.Close())
		if !errors.Is(err, control.ErrLeaving) || time.Now().After(deadline) {
			return err
		}
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
