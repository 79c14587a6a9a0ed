package source

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The files of skopeo's dir, beside the blobs, which have the names of their
// digests: containers/image, directory/directory_transport.go.
const (
	dirManifest = "manifest.json"
	dirVersion  = "version"
	dirChild    = ".manifest.json" // after the hex digits of an index's manifest
)

// readDirs reads one image, or a tree of them as skopeo sync writes it:
// NAME:TAG/, with slashes in the name.
func (s *Source) readDirs(at string) error {
	if has(s.files, path.Join(at, dirManifest)) {
		n, err := s.nameOfDir()
		if err != nil {
			s.refuse(s.Path, err)
			return nil
		}
		s.dirs([]namedDir{{at, n}})
		return nil
	}
	var all []namedDir
	if err := s.tree(at, "", maxDepth, &all); err != nil {
		return err
	}
	s.dirs(all)
	return nil
}

// A namedDir is a directory that is one image.
type namedDir struct {
	at   string
	name name
}

// nameOfDir is the name of the one image that a directory is: the one given, or
// that of the directory, if it looks like what skopeo sync writes.
func (s *Source) nameOfDir() (name, error) {
	base := path.Base(strings.TrimRight(s.Path, "/"))
	if s.options.Name == "" && strings.ContainsAny(base, ":@") {
		return s.options.parsePath(base)
	}
	return s.options.nameless()
}

// tree finds all directories that are images.
func (s *Source) tree(at, name string, depth int, all *[]namedDir) error {
	entries, err := s.files.list(path.Join(at, name))
	if err != nil {
		return unwrap(err)
	}
	for _, e := range entries {
		below := path.Join(name, e.name)
		switch {
		case e.kind != directory:
			s.note("%s: left out, as it is no image", below)
		case has(s.files, path.Join(at, below, dirManifest)):
			n, err := s.options.parsePath(below)
			if err != nil {
				s.refuse(below, err)
				continue
			}
			*all = append(*all, namedDir{path.Join(at, below), n})
		case depth > 0:
			if err := s.tree(at, below, depth-1, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// dirs reads images. Where each blob may be is noted first: what is damaged in
// one directory may be whole in another.
func (s *Source) dirs(all []namedDir) {
	tops, errs := make([]digest.Digest, len(all)), make([]error, len(all))
	for i, dir := range all {
		tops[i], errs[i] = s.shelve(dir.at)
	}
	for i, dir := range all {
		s.dir(dir.name, tops[i], errs[i])
	}
}

func (s *Source) dir(n name, top digest.Digest, err error) {
	image := Image{Repository: n.repository}
	if n.tag != "" {
		image.Tags = []string{n.tag}
	}
	if err == nil && n.digest != "" && n.digest != top {
		err = fmt.Errorf("its name has the digest %s, and it is %s", n.digest, top)
	}
	w := &walk{Source: s, image: image}
	if err == nil {
		err = w.follow(top)
	}
	if err != nil {
		image.Digest = n.digest
		s.refuse(image.Name(), err)
		return
	}
	s.add(w.image)
}

// shelve notes which blobs a directory has, by the names of the files, and
// returns the digest of its manifest.
func (s *Source) shelve(at string) (digest.Digest, error) {
	if version, err := s.files.read(path.Join(at, dirVersion), 256); err == nil &&
		!strings.HasPrefix(string(version), "Directory Transport Version: 1.") {
		return "", fmt.Errorf("version %.60q of skopeo's dir is not known", strings.TrimSpace(string(version)))
	}
	data, err := s.files.read(path.Join(at, dirManifest), maxMeta)
	if err != nil {
		return "", fmt.Errorf("%s: %s", dirManifest, plain(err))
	}
	top := digest.Canonical.FromBytes(data)
	s.at(top, place{name: path.Join(at, dirManifest)})
	entries, err := s.files.list(at)
	if err != nil {
		return "", unwrap(err)
	}
	for _, e := range entries {
		switch d, ok := blobName(e.name); {
		case ok:
			s.at(d, place{name: path.Join(at, e.name)})
		case strings.HasPrefix(e.name, "signature-"):
			s.note("%s: left out, as a registry has no place for it", path.Join(at, e.name))
		}
	}
	return top, nil
}

// blobName returns the digest that a file's name stands for.
func blobName(name string) (digest.Digest, bool) {
	name = strings.TrimSuffix(name, dirChild)
	algorithm, hex, ok := strings.Cut(name, "-")
	if !ok {
		algorithm, hex = digest.Canonical.String(), name
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, d.Validate() == nil
}
