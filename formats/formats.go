// Package formats puts the images of an inventory into the forms in which
// other programs take them: which files there are, and what is in each. What
// comes out are members of an archive, so it is written as anything else is.
//
// Promised: the members depend on the inventory and the blobs only; digests of
// manifests and of their blobs are kept wherever the form has room for them,
// which is everywhere but in a docker archive. What has no place in a form is
// refused by name, before anything is written.
//
// See docs/formats.md for what each form can hold, and who takes it.
package formats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// A Format is the form of an export.
type Format string

// The formats.
const (
	Registry      Format = "registry"       // a registry's storage directory
	OCI           Format = "oci"            // an OCI image layout
	DockerArchive Format = "docker-archive" // what docker save writes
	Dir           Format = "dir"            // skopeo's directories, as skopeo sync writes them
)

// All are the formats' names.
var All = []Format{Registry, OCI, DockerArchive, Dir}

// Options say how to put images into a form.
type Options struct {
	// Host is put before the names of images that have to be looked up
	// somewhere: in an OCI layout and a docker archive.
	Host string

	// Progress, if given, is called with bytes of blobs that were read to find
	// out the sizes of the members, by several goroutines at once.
	Progress func(bytes int64)
}

// Members returns the files of a form, and notes on what it has no place for.
// Images that it cannot hold are a [*RefusedError].
func (f Format) Members(ctx context.Context, inv *export.Inventory, blobs archive.Opener, o Options) (archive.Archive, []string, error) {
	if f == Registry {
		return inv.Archive(), nil, nil
	}
	s, err := newSource(inv, blobs, o)
	if err != nil {
		return nil, nil, err
	}
	var all archive.Archive
	switch f {
	case OCI:
		all, err = s.oci()
	case DockerArchive:
		all, err = s.dockerArchive(ctx)
	case Dir:
		all, err = s.dirs()
	default:
		err = fmt.Errorf("there is no format %q", f)
	}
	return all, s.notes, err
}

// A RefusedError says which images a form cannot hold.
type RefusedError struct {
	Format Format
	Images []string // each with the reason
}

func (e *RefusedError) Error() string {
	const most = 10
	named := e.Images[:min(most, len(e.Images))]
	text := fmt.Sprintf("format %s cannot hold %s", e.Format, strings.Join(named, "; "))
	if more := len(e.Images) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// An image is one that has a name: a tag, or, without one, its digest.
type image struct {
	repository, tag string
	digest          digest.Digest
	needs           map[digest.Digest]bool // all its blobs that are in the inventory
}

func (i image) name() string {
	return layout.ImageName(i.repository, i.tag, i.digest)
}

// A source is an inventory, looked at image by image.
type source struct {
	inv       *export.Inventory
	blobs     archive.Opener
	options   Options
	images    []image // by repository and tag
	sizes     map[digest.Digest]int64
	manifests map[digest.Digest]*parsed
	notes     []string
	refused   []string
}

func newSource(inv *export.Inventory, blobs archive.Opener, o Options) (*source, error) {
	s := &source{
		inv: inv, blobs: blobs, options: o,
		sizes:     make(map[digest.Digest]int64),
		manifests: make(map[digest.Digest]*parsed),
	}
	needs := make([]map[digest.Digest]bool, len(inv.Images))
	for i := range needs {
		needs[i] = make(map[digest.Digest]bool)
	}
	tags := make(map[string]digest.Digest)
	for _, f := range inv.Files {
		if f.Blob != "" {
			s.sizes[f.Blob] = f.Size
		}
		for _, i := range f.NeededBy {
			needs[i][f.Blob] = true
		}
		if p := layout.Parse(f.Path); p.Kind == layout.TagCurrentLink {
			tags[p.Repository+":"+p.Tag] = f.Link
		}
	}
	for i, name := range inv.Images {
		if repo, d, ok := strings.Cut(name, "@"); ok {
			s.images = append(s.images, image{repo, "", digest.Digest(d), needs[i]})
			continue
		}
		colon := strings.LastIndexByte(name, ':')
		s.images = append(s.images, image{name[:colon], name[colon+1:], tags[name], needs[i]})
	}
	slices.SortFunc(s.images, func(a, b image) int { return strings.Compare(a.name(), b.name()) })
	return s, nil
}

// A parsed is a manifest that was read.
type parsed struct {
	*manifest.Manifest
	text []byte
}

// manifest reads a manifest. That it is what its digest says, is seen to:
// a form is made of what it states.
func (s *source) manifest(d digest.Digest) (*parsed, error) {
	if p, ok := s.manifests[d]; ok {
		return p, nil
	}
	text, err := s.read(d, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	p := &parsed{m, text}
	s.manifests[d] = p
	return p, nil
}

// read reads a small blob.
func (s *source) read(d digest.Digest, most int64) ([]byte, error) {
	f, err := s.blobs.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		err = archive.ErrGone
	}
	if err != nil {
		return nil, s.fault(d, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	if err == nil && d.Algorithm().FromBytes(text) != d {
		err = &archive.SizeError{Want: s.sizes[d], Got: int64(len(text))}
		if int64(len(text)) == s.sizes[d] {
			err = corrupt(d, d.Algorithm().FromBytes(text))
		}
	}
	if err != nil {
		return nil, s.fault(d, err)
	}
	return text, nil
}

// fault is an error of a blob, of which the inventory knows who needs it.
func (s *source) fault(d digest.Digest, err error) error {
	return &archive.BlobError{Member: archive.Member{Blob: d, Size: s.sizes[d]}, Err: err}
}

func (s *source) blob(path string, d digest.Digest) archive.Member {
	return archive.Member{Path: path, Size: s.sizes[d], Blob: d}
}

func text(path string, content []byte) archive.Member {
	return archive.Member{Path: path, Size: int64(len(content)), Text: string(content)}
}

// encode is JSON as it is the same each time, and can be read by people.
func encode(v any) []byte {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // of plain structs, it cannot be
	}
	return append(data, '\n')
}

// full is an image's name with the host, if one is given.
func (s *source) full(i image) string {
	if s.options.Host == "" {
		return i.name()
	}
	return s.options.Host + "/" + i.name()
}

func (s *source) refuse(i image, format string, args ...any) {
	s.refused = append(s.refused, i.name()+" ("+fmt.Sprintf(format, args...)+")")
}

func (s *source) note(i image, format string, args ...any) {
	s.notes = append(s.notes, "image "+i.name()+": "+fmt.Sprintf(format, args...))
}
