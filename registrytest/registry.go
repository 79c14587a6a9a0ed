package registrytest

import (
	"context"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/regfs/regfs/registry"
)

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
	server  *registry.Server
	running bool
}

// Start runs a registry and returns when it answers. The registry ends with
// the test, which fails if it does not end, or has ended before by itself.
func Start(t TB, o Options) *Registry {
	t.Helper()
	if o.Version == "" {
		o.Version = V31
	}
	findTool(t, o.Version.binary())
	addr, err := registry.FreeAddr()
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := &Registry{t: t, options: o, dir: t.TempDir(), addr: addr}
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
	if !r.running {
		return
	}
	r.running = false
	if err := r.server.Stop(); err != nil {
		r.t.Errorf("registry %s at %s: %v", r.options.Version, r.addr, err)
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
	out, err := r.server.GarbageCollect(context.Background(), args...)
	if err != nil {
		r.t.Fatalf("registry %s: %v\n%s", r.options.Version, err, out)
	}
	return out
}

// Log returns what the registry has logged, over all its restarts.
func (r *Registry) Log() string {
	text, err := os.ReadFile(r.server.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// configure writes the configuration and what it points to.
func (r *Registry) configure() {
	r.t.Helper()
	c := registry.DefaultConfig(r.options.Root, r.addr)
	if r.options.Proxy != "" {
		c["proxy.remoteurl"] = r.options.Proxy
	}
	if r.options.Htpasswd {
		maps.Copy(c, withPassword(r.t, r.dir))
	}
	if r.options.TLS {
		maps.Copy(c, withTLS(r.t, r.dir))
	}
	maps.Copy(c, r.options.Config)
	r.server = &registry.Server{
		Program: findTool(r.t, r.options.Version.binary()), Dir: r.dir, Config: c, URL: r.URL(),
	}
}

func (r *Registry) start() {
	r.t.Helper()
	if err := r.server.Start(context.Background(), r.client); err != nil {
		r.t.Fatalf("registry %s at %s: %v", r.options.Version, r.addr, err)
	}
	r.running = true
}

// finish ends the registry with its test, and shows the end of its log if the
// test has failed.
func (r *Registry) finish() {
	r.Stop()
	if r.t.Failed() {
		r.t.Logf("registry %s at %s, end of its log:\n%s", r.options.Version, r.addr, tail(r.Log(), 40))
	}
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
