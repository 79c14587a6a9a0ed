// Package supervise keeps a process running: it starts it, and starts it again
// when it has crashed.
//
// A process that ends in order says so first ([Child.End]). An end without a
// word is a crash, whatever the exit code: Go's runtime ends a program that
// panics with 2, which is also what a program says of a wrong argument.
//
// The supervisor has nothing that the process has, and no use of its own for
// what that does. If the supervisor dies, the process goes on by itself.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits say when to start a process again.
type Limits struct {
	// Pause is waited after the second crash in a row, and twice as long after
	// each that follows. After the first there is no pause.
	Pause time.Duration
	// Crashes in a row end the supervision.
	Crashes int
	// Calm is how long a process runs that does not continue a row.
	Calm time.Duration
}

// Default gives up half a minute after the first of eight crashes, so that who
// waits for the process knows within that time.
var Default = Limits{Pause: 500 * time.Millisecond, Crashes: 8, Calm: time.Minute}

// Run runs a process until it ends in order, and returns what exec.Cmd.Wait
// does. A process that has crashed is started again; one that cannot begin,
// only if an earlier one could. When the context ends, the process gets
// SIGTERM.
//
// command makes the process's command, another one each time, and is told
// whether one has crashed before. The process calls [Attach].
func Run(ctx context.Context, command func(crashed bool) *exec.Cmd, limits Limits, log *slog.Logger) error {
	crashed := false
	for crashes := 0; ; {
		began := time.Now()
		end, err := once(ctx, command(crashed))
		switch {
		case err != nil && !crashed:
			return err
		case err == nil && end.inOrder && (end.served || !crashed):
			return end.err
		case ctx.Err() != nil:
			return fmt.Errorf("the server did not end in order: %s", end)
		}
		if time.Since(began) >= limits.Calm {
			crashes = 0
		}
		crashes++
		crashed = true
		log.Error("the server has crashed", "how", how(end, err), "pid", end.pid, "after", time.Since(began).Round(time.Millisecond), "crashes", crashes)
		if crashes >= limits.Crashes {
			return fmt.Errorf("the server has crashed %d times in a row, the last time by %s: giving up", crashes, how(end, err))
		}
		if pause(ctx, limits, crashes) != nil {
			return fmt.Errorf("the server was to end, and had crashed before: %s", how(end, err))
		}
		log.Warn("starting the server again")
	}
}

// pause waits before the next start; an error if that is not to be.
func pause(ctx context.Context, limits Limits, crashes int) error {
	if crashes == 1 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(limits.Pause << (crashes - 2)):
		return nil
	}
}

// An ending is how a process ended.
type ending struct {
	pid     int
	served  bool // it had said that it serves
	inOrder bool // it had said that it ends
	err     error
}

func (e ending) String() string {
	if e.err != nil {
		return e.err.Error()
	}
	return "exit status 0"
}

func how(e ending, err error) string {
	if err != nil {
		return err.Error()
	}
	return e.String()
}

// once runs the process. The error is that it could not be started.
func once(ctx context.Context, cmd *exec.Cmd) (ending, error) {
	ours, theirs, err := pair()
	if err != nil {
		return ending{}, err
	}
	defer unix.Close(ours)
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return ending{}, fmt.Errorf("start server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	end := ending{pid: cmd.Process.Pid}
	end.err = cmd.Wait()
	said := words(ours)
	end.served, end.inOrder = strings.Contains(said, wordServing), strings.Contains(said, wordEnd)
	return end, nil
}

// What a process says to its supervisor.
const (
	wordServing = "serving\n"
	wordEnd     = "end\n"
)

// words reads what the process has said. Whoever else may have its end still
// is not waited for.
func words(fd int) string {
	buf := make([]byte, 64)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return string(buf[:max(n, 0)])
		}
	}
}

func pair() (ours int, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("start server: %w", err)
	}
	return fds[0], os.NewFile(uintptr(fds[1]), "supervisor"), nil
}
