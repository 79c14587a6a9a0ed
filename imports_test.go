package regfs_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/regfs/regfs/"

// rooms is the table of docs/design.md: which room may enter which.
// Tests may enter any.
var rooms = map[string][]string{
	"layout":            {},
	"imagelist":         {"layout"},
	"manifest":          {},
	"beneath":           {},
	"cas":               {"layout", "beneath"},
	"index":             {"manifest"},
	"seal":              {"layout"},
	"store":             {"beneath", "cas", "index"},
	"intake":            {"layout", "manifest", "cas", "index"},
	"tree":              {"layout", "intake", "cas", "index", "beneath"},
	"fusefs":            {"tree", "cas"},
	"overlay":           {"layout", "intake", "store", "cas", "index", "mountpoint"},
	"mountpoint":        {},
	"archive":           {"cas", "beneath"},
	"patch":             {"layout", "archive"},
	"export":            {"layout", "manifest", "imagelist", "archive", "patch", "cas", "index"},
	"deliver":           {},
	"formats":           {"layout", "manifest", "archive", "export", "cas"},
	"verify":            {"layout", "manifest", "seal", "beneath", "archive", "patch"},
	"sealed":            {"seal", "export", "cas", "index", "store"},
	"gc":                {"cas", "index"},
	"fsck":              {"layout", "manifest", "seal", "snapshot", "cas", "index", "store", "export", "intake", "sealed"},
	"compose":           {"layout", "imagelist", "intake", "export", "cas", "index"},
	"compare":           {"layout", "manifest", "export", "index"},
	"supervise":         {},
	"snapshot":          {"layout", "seal", "cas", "index", "store"},
	"source":            {"layout", "manifest", "index", "beneath", "patch", "imagelist"},
	"control":           {"layout", "store", "tree", "fusefs", "overlay", "mountpoint", "export", "compose", "compare", "gc", "cas", "index", "fsck", "snapshot", "intake", "sealed"},
	"bench":             {"registry", "imagetest", "layout", "manifest", "store", "index"},
	"cmd/regfs":         {"source", "intake", "sealed", "control", "supervise", "fsck", "gc", "compose", "compare", "export", "archive", "deliver", "formats", "imagelist", "verify", "store", "bench", "tree", "overlay", "mountpoint", "cas", "index"},
	"cas/castest":       {"cas"},
	"mounttest":         {"layout", "manifest", "tree"},
	"registry":          {},
	"registrytest":      {"registry"},
	"imagetest":         {},
	"test":              {},
	"test/sampleimages": {"imagetest"},
}

// keepers are libraries that one room keeps for itself.
var keepers = map[string]string{
	"github.com/dgraph-io/badger/": "index",
	"github.com/hanwen/go-fuse/":   "fusefs",
	"github.com/spf13/cobra":       "cmd/regfs",
	"github.com/schollz/":          "cmd/regfs",
}

// TestImports reads the imports of every file that is no test.
func TestImports(t *testing.T) {
	seen := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || path == "internal/tools") {
			return skip(err)
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		room := filepath.ToSlash(filepath.Dir(path))
		seen[room] = true
		checkFile(t, room, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []string{"layout", "tree", "fusefs", "cmd/regfs"} {
		if !seen[room] {
			t.Errorf("no file of %s was read", room)
		}
	}
}

func skip(err error) error {
	if err != nil {
		return err
	}
	return filepath.SkipDir
}

func checkFile(t *testing.T, room, path string) {
	allowed, known := rooms[room]
	if !known {
		t.Errorf("%s: the room %s is not in the table of docs/design.md", path, room)
		return
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range file.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		if ours, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed, ours) {
			t.Errorf("%s imports %s, which %s may not", path, ours, room)
		}
		for library, keeper := range keepers {
			if strings.HasPrefix(imported, library) && room != keeper {
				t.Errorf("%s imports %s, which is for %s alone", path, imported, keeper)
			}
		}
	}
}
