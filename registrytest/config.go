package registrytest

import (
	"encoding/json"
	"os"
	"strings"
)

// config is a registry's configuration, under paths such as
// "storage.delete.enabled". It is written as JSON, which is YAML too.
type config map[string]any

// baseConfig is the default configuration with delete enabled. Upload purging
// and the number of storage threads are left as a registry has them.
func baseConfig(o Options, addr string) config {
	c := config{
		"version":                          "0.1",
		"storage.filesystem.rootdirectory": o.Root,
		"storage.delete.enabled":           true,
		"http.addr":                        addr,
		// Upload URLs are signed with it: they must outlive a restart.
		"http.secret":            "registrytest",
		"log.level":              "warn",
		"log.accesslog.disabled": true,
	}
	if o.Proxy != "" {
		c["proxy.remoteurl"] = o.Proxy
	}
	return c
}

// add puts more into c; an entry that is there already is replaced.
func (c config) add(more map[string]any) {
	for path, value := range more {
		c[path] = value
	}
}

// tree unfolds the paths into nested maps.
func (c config) tree() map[string]any {
	root := map[string]any{}
	for path, value := range c {
		names := strings.Split(path, ".")
		last := len(names) - 1
		dir := root
		for _, name := range names[:last] {
			next, ok := dir[name].(map[string]any)
			if !ok {
				next = map[string]any{}
				dir[name] = next
			}
			dir = next
		}
		dir[names[last]] = value
	}
	return root
}

// write leaves the configuration at path.
func (c config) write(path string) error {
	text, err := json.MarshalIndent(c.tree(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
