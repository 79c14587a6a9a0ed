package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// leaveTime is what a program has to end after SIGTERM.
const leaveTime = 20 * time.Second

// run runs a program to its end. What it prints goes to out, if that is there.
// Its error is told in words: another program's exit code is none of ours.
func run(ctx context.Context, out io.Writer, name string, args ...string) error {
	stderr, err := unnamed() // no pipe: a server that it starts would hold the end open
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = out, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's SIGINT is for us alone
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = leaveTime
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, head(stderr))
	}
	return nil
}

// unnamed returns a file that nobody else can find.
func unnamed() (*os.File, error) {
	f, err := os.CreateTemp("", "regfs-bench-output-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// head returns the beginning of a file.
func head(f *os.File) string {
	text := make([]byte, 4096)
	n, _ := f.ReadAt(text, 0)
	return strings.TrimSpace(string(text[:n]))
}

// runInto runs a program whose output becomes a file.
func runInto(ctx context.Context, path, name string, args ...string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := run(ctx, f, name, args...); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// output runs a program and returns what it printed.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var out strings.Builder
	err := run(ctx, &out, name, args...)
	return out.String(), err
}
