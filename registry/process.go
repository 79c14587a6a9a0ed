package registry

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	// stopTime is what a registry has to end after SIGTERM. One without
	// drain timeout ends at once.
	stopTime = 10 * time.Second
	// killTime is what the kernel has to end a process after SIGKILL; a
	// process that hangs in a file system may take for ever.
	killTime = 5 * time.Second
)

var (
	errKilled = errors.New("did not end on SIGTERM, was killed")
	errStuck  = errors.New("did not end on SIGKILL: it hangs in the kernel")
)

// A process is a program that runs until it is stopped.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when err is set
	err   error         // how it ended
}

// startProcess runs a program, its output going to log.
func startProcess(log *os.File, name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = environ()
	cmd.Stdout, cmd.Stderr = log, log
	// Whoever is killed, or panics, runs no cleanup. The group of its own keeps
	// a terminal's SIGINT away: its owner ends it, when nothing uses it any more.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// environ is our environment, with tracing off: 3.x would look for a
// collector.
func environ() []string {
	return append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
}

// hasEnded says whether the process is gone.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// stop ends the process by SIGTERM, and by SIGKILL where that does not help;
// that it needed to is an error.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if p.wait(stopTime) {
		return nil
	}
	_ = p.cmd.Process.Kill()
	if p.wait(killTime) {
		return errKilled
	}
	return errStuck
}

// wait says whether the process ended in the time given.
func (p *process) wait(limit time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(limit):
		return false
	}
}
