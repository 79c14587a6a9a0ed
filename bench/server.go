package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/regfs/regfs/store"
)

// startTime is what a server has until it answers.
const startTime = 30 * time.Second

// A server is "regfs serve" as a process of ours.
type server struct{ cmd *exec.Cmd }

// startServer runs a server, and returns the seconds until its first answer.
func startServer(ctx context.Context, program, dir string) (*server, float64, error) {
	cmd := exec.Command(program, "--store", dir, "serve")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	s := &server{cmd}
	took, err := clock(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		return awaitServer(ctx, dir)
	})
	if err != nil && cmd.Process != nil {
		err = errors.Join(err, s.stop())
	}
	return s, took, err
}

// awaitServer returns when the server of a store answers.
func awaitServer(ctx context.Context, dir string) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", store.Socket(dir))
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial}}
	defer c.CloseIdleConnections()
	var last error
	for end := time.Now().Add(startTime); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		resp, err := c.Get("http://regfs/v1/status")
		if last = err; err == nil {
			return resp.Body.Close()
		}
	}
	return fmt.Errorf("the server does not answer: %w", errors.Join(last, ctx.Err()))
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("regfs serve: %v", err) // its exit code is none of ours
	}
	return nil
}

// memory returns the bytes that a process has in memory: all, and those that
// are no file's.
func memory(pid int) (resident, anonymous int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line) // VmRSS:	   12345 kB
		if len(fields) != 3 {
			continue
		}
		kB, _ := strconv.ParseInt(string(fields[1]), 10, 64)
		switch string(fields[0]) {
		case "VmRSS:":
			resident = kB << 10
		case "RssAnon:":
			anonymous = kB << 10
		}
	}
	return resident, anonymous, nil
}
