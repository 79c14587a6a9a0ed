package formats

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/manifest"
)

// dirVersion is the file by which skopeo knows its own directories.
const dirVersion = "Directory Transport Version: 1.1\n"

// dirs are skopeo's directories, one an image, as "skopeo sync" lays them out:
// REPOSITORY:TAG/, with the manifest, those below it, and the blobs, flat. A
// blob that several images have is there once, and under its other names as a
// hard link: among themselves, never with the store.
func (s *source) dirs() (archive.Archive, error) {
	var all archive.Archive
	first := make(map[digest.Digest]string) // where a blob stands
	for _, i := range s.images {
		dir := i.name() + "/"
		put := func(name string, d digest.Digest) {
			m := s.blob(dir+name, d)
			if at, ok := first[d]; ok {
				m = archive.Member{Path: m.Path, Same: at}
			} else {
				first[d] = m.Path
			}
			all = append(all, m)
		}
		files, err := s.dirFiles(i)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			put(f.name, f.digest)
		}
		put("manifest.json", i.digest) // by which skopeo sync finds the image: last but one
		all = append(all, text(dir+"version", []byte(dirVersion)))
	}
	return all, nil
}

type dirFile struct {
	name   string
	digest digest.Digest
}

// dirFiles lists what an image needs, but for its own manifest.
func (s *source) dirFiles(i image) ([]dirFile, error) {
	isManifest := make(map[digest.Digest]bool)
	var walk func(d digest.Digest) error
	walk = func(d digest.Digest) error {
		m, err := s.manifest(d)
		if err != nil {
			return err
		}
		isManifest[d] = true
		for _, ref := range m.Refs {
			if ref.Role == manifest.Child && i.needs[ref.Digest] && !isManifest[ref.Digest] {
				if err := walk(ref.Digest); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(i.digest); err != nil {
		return nil, err
	}
	var files []dirFile
	for d := range i.needs {
		switch {
		case d == i.digest:
		case isManifest[d]:
			files = append(files, dirFile{dirName(d) + ".manifest.json", d})
		default:
			files = append(files, dirFile{dirName(d), d})
		}
	}
	slices.SortFunc(files, func(a, b dirFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// dirName is a blob's name: its hex digits, and before them the algorithm,
// unless it is sha256.
func dirName(d digest.Digest) string {
	if d.Algorithm() == digest.SHA256 {
		return d.Encoded()
	}
	return d.Algorithm().String() + "-" + d.Encoded()
}
