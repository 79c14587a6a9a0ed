package registry

import (
	"encoding/json"
	"os"
	"strings"
)

// A Config is a registry's configuration, under paths such as
// "storage.delete.enabled". It is written as JSON, which is YAML too.
type Config map[string]any

// DefaultConfig is the default configuration over a storage directory, with
// delete enabled. Upload purging and the number of storage threads are left as
// a registry has them.
func DefaultConfig(root, addr string) Config {
	return Config{
		"version":                          "0.1",
		"storage.filesystem.rootdirectory": root,
		"storage.delete.enabled":           true,
		"http.addr":                        addr,
		// Upload URLs are signed with it: they must outlive a restart.
		"http.secret":            "regfs",
		"log.level":              "warn",
		"log.accesslog.disabled": true,
	}
}

// tree unfolds the paths into nested maps.
func (c Config) tree() map[string]any {
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
func (c Config) write(path string) error {
	text, err := json.MarshalIndent(c.tree(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
