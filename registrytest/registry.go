package registrytest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// startTime is what a registry has until it answers; it needs a fifth of a
// second on an idle machine.
const startTime = 30 * time.Second

// Options say which registry to run, and on what.
type Options struct {
	Version  Version        // V31 if empty
	Root     string         // the storage directory
	Htpasswd bool           // ask for User and Password
	TLS      bool           // https, with a certificate of its own
	Proxy    string         // if set, the URL of the registry to pull through
	Config   map[string]any // more configuration, as "storage.cache.blobdescriptor": "inmemory"
}

// A Registry is a stock registry's process. Its methods fail the test that
// started it, so a subtest that may fail alone uses [Registry.API].
type Registry struct {
	t       TB
	options Options
	dir     string // configuration, log, certificates
	addr    string
	client  *http.Client
	process *process // nil when stopped
}

// Start runs a registry and returns when it answers. The registry ends with
// the test, which fails if it does not end, or has ended before by itself.
func Start(t TB, o Options) *Registry {
	t.Helper()
	if o.Version == "" {
		o.Version = V31
	}
	findTool(t, o.Version.binary())
	r := &Registry{t: t, options: o, dir: t.TempDir(), addr: freeAddr(t)}
	r.configure()
	r.client = newClient(t, o, r.dir)
	t.Cleanup(r.finish)
	r.start()
	return r
}

// Addr returns the host and port, as it stands in an image's name.
func (r *Registry) Addr() string { return r.addr }

// URL returns the address with its scheme.
func (r *Registry) URL() string {
	if r.options.TLS {
		return "https://" + r.addr
	}
	return "http://" + r.addr
}

// Client returns an HTTP client that trusts the registry and knows its
// password.
func (r *Registry) Client() *http.Client { return r.client }

// API returns the registry's protocol, for a test or a subtest.
func (r *Registry) API(t TB) *API { return NewAPI(t, r.client, r.URL()) }

// Stop ends the registry's process. It does nothing to one that is stopped.
func (r *Registry) Stop() {
	r.t.Helper()
	if r.process == nil {
		return
	}
	p := r.process
	r.process = nil
	if p.hasEnded() {
		r.t.Errorf("registry %s at %s ended by itself: %v", r.options.Version, r.addr, p.err)
		return
	}
	if err := p.stop(); err != nil {
		r.t.Errorf("registry %s at %s %v", r.options.Version, r.addr, err)
	}
}

// Restart stops the registry and runs it again at the same address.
func (r *Registry) Restart() {
	r.t.Helper()
	r.Stop()
	r.client.CloseIdleConnections()
	r.start()
}

// GarbageCollect runs the registry's own collector beside it and returns what
// it said.
func (r *Registry) GarbageCollect(args ...string) string {
	r.t.Helper()
	args = append([]string{"garbage-collect"}, args...)
	cmd := exec.Command(r.binary(), append(args, r.configPath())...)
	cmd.Env = registryEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("registry %s %s: %v\n%s", r.options.Version, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Log returns what the registry has logged, over all its restarts.
func (r *Registry) Log() string {
	text, err := os.ReadFile(r.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (r *Registry) binary() string     { return findTool(r.t, r.options.Version.binary()) }
func (r *Registry) configPath() string { return filepath.Join(r.dir, "config.yml") }
func (r *Registry) logPath() string    { return filepath.Join(r.dir, "registry.log") }

// configure writes the configuration and what it points to.
func (r *Registry) configure() {
	r.t.Helper()
	c := baseConfig(r.options, r.addr)
	if r.options.Htpasswd {
		c.add(withPassword(r.t, r.dir))
	}
	if r.options.TLS {
		c.add(withTLS(r.t, r.dir))
	}
	c.add(r.options.Config)
	if err := c.write(r.configPath()); err != nil {
		r.t.Fatalf("registry configuration: %v", err)
	}
}

func (r *Registry) start() {
	r.t.Helper()
	log, err := os.OpenFile(r.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatalf("registry log: %v", err)
	}
	defer log.Close() // the process has its own
	if r.process, err = startProcess(log, r.binary(), "serve", r.configPath()); err != nil {
		r.t.Fatalf("registry %s: %v", r.options.Version, err)
	}
	if err := r.awaitAnswer(); err != nil {
		r.t.Fatalf("registry %s at %s: %v", r.options.Version, r.addr, err)
	}
}

// awaitAnswer returns when the registry serves its API's root.
func (r *Registry) awaitAnswer() error {
	var last error
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r.process.hasEnded() {
			return fmt.Errorf("ended while starting: %w", r.process.err)
		}
		if last = r.ping(); last == nil {
			return nil
		}
	}
	return fmt.Errorf("no answer in %v: %w", startTime, last)
}

func (r *Registry) ping() error {
	resp, err := r.client.Get(r.URL() + "/v2/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/v2/: %s", resp.Status)
	}
	return nil
}

// finish ends the registry with its test, and shows the end of its log if the
// test has failed.
func (r *Registry) finish() {
	r.Stop()
	if r.t.Failed() {
		r.t.Logf("registry %s at %s, end of its log:\n%s", r.options.Version, r.addr, tail(r.Log(), 40))
	}
}

// freeAddr returns a local address that nobody listens on. Another process may
// take it before the registry does: then the registry ends while starting.
func freeAddr(t TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("free port: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tail returns the last n lines of a log. Clients ask for much that is not
// there yet, which is no news.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool {
		return strings.Contains(line, "http.response.status=404")
	})
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
