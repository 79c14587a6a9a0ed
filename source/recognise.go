package source

import (
	"bytes"
	"path"

	"github.com/regfs/regfs/layout"
)

// nowhere is where there is no source of a format.
const nowhere = ""

// recognise finds out what a source is, and at which directory it begins. What
// docker save writes today is an OCI layout too; that has more to say, as its
// manifests are the images' own.
func recognise(f files) (Format, string) {
	for _, format := range []Format{OCI, Registry, DockerArchive, Dir} {
		if at := whereIs(f, format); at != nowhere {
			return format, at
		}
	}
	return "", nowhere
}

// whereIs returns the directory at which a source of a format begins, or
// nowhere.
func whereIs(f files, format Format) string {
	switch format {
	case OCI:
		if _, err := f.size("oci-layout"); err == nil {
			return "."
		}
	case Registry:
		return registryAt(f)
	case DockerArchive:
		if beginsWith(f, "manifest.json", '[') || has(f, "repositories") && !isDir(f, "repositories") {
			return "."
		}
	case Dir:
		if holdsDirs(f, ".", maxDepth) {
			return "."
		}
	}
	return nowhere
}

// registryAt finds docker/registry/v2: below the source's top, or the top is
// one of the directories on the way to it. A tar may have more above it.
func registryAt(f files) string {
	for _, at := range []string{layout.Root, "registry/v2", "v2", "."} {
		if isDir(f, path.Join(at, "repositories")) && !has(f, path.Join(at, "oci-layout")) {
			return at
		}
	}
	if _, isTar := f.(*archive); !isTar {
		return nowhere
	}
	dir := "."
	for range maxDepth {
		entries, err := f.list(dir)
		if err != nil || len(entries) != 1 || entries[0].kind != directory {
			return nowhere
		}
		dir = path.Join(dir, entries[0].name)
		if at := path.Join(dir, layout.Root); isDir(f, path.Join(at, "repositories")) {
			return at
		}
	}
	return nowhere
}

// maxDepth is how deep directories may nest on the way to an image.
const maxDepth = 32

func has(f files, name string) bool {
	_, err := f.size(name)
	return err == nil
}

func isDir(f files, name string) bool {
	_, err := f.list(name)
	return err == nil
}

func beginsWith(f files, name string, c byte) bool {
	data, err := f.read(name, maxMeta)
	data = bytes.TrimLeft(data, " \t\r\n")
	return err == nil && len(data) > 0 && data[0] == c
}

// holdsDirs says whether there is an image of skopeo's in the directory or
// below.
func holdsDirs(f files, dir string, depth int) bool {
	if beginsWith(f, path.Join(dir, "manifest.json"), '{') {
		return true
	}
	entries, err := f.list(dir)
	if err != nil || depth == 0 {
		return false
	}
	for _, e := range entries {
		if e.kind == directory && holdsDirs(f, path.Join(dir, e.name), depth-1) {
			return true
		}
	}
	return false
}
