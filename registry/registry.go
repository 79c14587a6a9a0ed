// Package registry runs stock registries as processes, on the loopback
// interface. It knows nothing of regfs: what a registry stores, and where, its
// configuration says.
package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startTime is what a registry has until it answers; it needs a fifth of a
// second on an idle machine.
const startTime = 30 * time.Second

// pollTime is small, for those who measure a start.
const pollTime = 5 * time.Millisecond

// A Server is a stock registry: a program with its configuration, and the
// process while it runs.
type Server struct {
	Program string // the registry's executable file
	Dir     string // where configuration and log are kept
	Config  Config
	URL     string // where Config lets it listen

	process *process // nil when stopped
}

// New returns a registry over a storage directory, at a free port.
func New(program, dir, root string) (*Server, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	return &Server{Program: program, Dir: dir, Config: DefaultConfig(root, addr), URL: "http://" + addr}, nil
}

// FreeAddr returns a local address that nobody listens on. Another process may
// take it before the registry does: then the registry ends while starting.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Start runs the registry and returns when it answers the client, who must
// know its password and certificate.
func (s *Server) Start(ctx context.Context, client *http.Client) error {
	if err := s.Config.write(s.configPath()); err != nil {
		return fmt.Errorf("registry configuration: %w", err)
	}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("registry log: %w", err)
	}
	defer log.Close() // the process has its own
	if s.process, err = startProcess(log, s.Program, "serve", s.configPath()); err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	if err := s.awaitAnswer(ctx, client); err != nil {
		_ = s.Stop() // err says why
		return err
	}
	return nil
}

// Stop ends the registry's process. That it had ended by itself is an error;
// one that is stopped is left alone.
func (s *Server) Stop() error {
	p := s.process
	if p == nil {
		return nil
	}
	s.process = nil
	if p.hasEnded() {
		return fmt.Errorf("ended by itself: %v", p.err)
	}
	return p.stop()
}

// Kill ends the registry's process as a crash would, and returns when it is
// gone. Stop is still called.
func (s *Server) Kill() error {
	if err := s.process.cmd.Process.Kill(); err != nil {
		return err
	}
	if !s.process.wait(killTime) {
		return errStuck
	}
	return nil
}

// GarbageCollect runs the registry's own collector on the same storage and
// returns what it said.
func (s *Server) GarbageCollect(ctx context.Context, args ...string) (string, error) {
	args = append(append([]string{"garbage-collect"}, args...), s.configPath())
	cmd := exec.CommandContext(ctx, s.Program, args...)
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %v", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// LogPath is the file with what the registry has logged, over all its starts.
func (s *Server) LogPath() string { return filepath.Join(s.Dir, "registry.log") }

func (s *Server) configPath() string { return filepath.Join(s.Dir, "config.yml") }

// awaitAnswer returns when the registry serves its API's root.
func (s *Server) awaitAnswer(ctx context.Context, client *http.Client) error {
	var last error
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(pollTime) {
		if s.process.hasEnded() {
			return fmt.Errorf("ended while starting: %v", s.process.err)
		}
		if last = s.ping(ctx, client); last == nil || ctx.Err() != nil {
			return last
		}
	}
	return fmt.Errorf("no answer in %v: %w", startTime, last)
}

func (s *Server) ping(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/v2/: %s", resp.Status)
	}
	return nil
}
