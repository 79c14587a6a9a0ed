// Command regfs presents container registry storage from one store of blobs
// shared by all releases. See the README, or "regfs help".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/compose"
	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/fsck"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/sealed"
	"github.com/regfs/regfs/source"
	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/verify"
)

// The exit codes: docs/operations.md.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitDamage      = 3
	exitNoStore     = 10
	exitLocked      = 11
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if err == nil {
		return
	}
	code := exitCode(ctx, err)
	// A server that we started has spoken already, and so has a diff.
	if exit := new(exec.ExitError); !errors.As(err, &exit) && !errors.Is(err, errDiffer) {
		fmt.Fprintln(stderr, "regfs:", err)
	}
	os.Exit(code)
}

// exitCode is the only place where an error becomes an exit code.
func exitCode(ctx context.Context, err error) int {
	var exit *exec.ExitError
	var corrupt *cas.CorruptError
	var missing *export.MissingError
	var damaged *export.DamagedError
	var verified *verify.DamageError
	var incomplete *sealed.IncompleteError
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case errors.Is(err, control.ErrUsage), errors.Is(err, index.ErrName), errors.Is(err, source.ErrName):
		return exitUsage
	case errors.Is(err, control.ErrRefused), errors.Is(err, control.ErrDoubt), errors.Is(err, control.ErrIncomplete), errors.As(err, &incomplete), errors.As(err, &corrupt), errors.As(err, &missing), errors.As(err, &damaged),
		errors.As(err, &verified), errors.Is(err, fsck.ErrDamage), errors.Is(err, index.ErrDamaged), errors.Is(err, compose.ErrIncomplete):
		return exitDamage
	case errors.Is(err, store.ErrNoStore), errors.Is(err, store.ErrFormat):
		return exitNoStore
	case errors.Is(err, store.ErrLocked):
		return exitLocked
	}
	return exitFailed
}
