// Package source reads the forms in which images travel: a registry's storage
// directory, skopeo's dir, an OCI layout, what docker save writes; as trees and
// as tars.
//
// [Open] finds out which images a source has, and what each of them needs,
// without reading more than names, links and manifests. [Source.Copy] then
// hands out those blobs that are wanted.
//
// A source is hostile until it is checked. No link is followed out of it, no
// name is believed to be a digest, and what is read into memory is bounded.
// What is wrong with one image does not hinder the others: it is a [Refusal].
// The content of blobs that are no manifests is not checked here. Whoever
// stores them does, and another place of the same blob is tried if one fails.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// A Format is a form in which images travel.
type Format string

// The formats. A tree or a tar may be any of them but DockerArchive, which is a
// tar.
const (
	Registry      Format = "registry" // a registry's storage directory
	Dir           Format = "dir"      // skopeo's, one image or a tree of them
	OCI           Format = "oci"      // an OCI image layout
	DockerArchive Format = "docker-archive"
)

// ErrFormat says that a source is none that is known, or not what it was said
// to be.
var ErrFormat = errors.New("not a known source of images")

// ErrName says that the name that was given for an image cannot be one.
var ErrName = errors.New("bad name")

// Options say how to read a source.
type Options struct {
	Format   Format // empty: find out
	Ref      string // only the image of this name, as the source has it
	Name     string // REPOSITORY[:TAG] of the one image that has no name, or only a tag
	KeepHost bool   // names keep the registry that they begin with

	// Base opens a blob that a source may lack because the store has it, as
	// patches do; nil if there is none. What is not there is fs.ErrNotExist.
	Base func(digest.Digest) (fs.File, error)

	// Progress is told how far the reading of an archive has come, in bytes of
	// its file; may be nil.
	Progress func(n, of int64)
}

// A Blob is one that an image needs.
type Blob struct {
	Digest digest.Digest
	Size   int64 // as the source has it; -1 if it has not
}

// A TagLink is a tag and the manifest that it names.
type TagLink struct {
	Tag    string
	Digest digest.Digest
}

// An Image is one that a source has.
type Image struct {
	Repository string
	Tags       []string // may be empty
	Digest     digest.Digest
	Manifests  []digest.Digest // to be linked: what a manifest needs comes before it, itself last
	Present    []digest.Digest // what it can do without, and has
	Blobs      []Blob          // all that it needs, manifests too, each once
	History    []TagLink       // at which tags pointed before
}

// Name is how users know the image.
func (i Image) Name() string {
	tag := ""
	if len(i.Tags) > 0 {
		tag = i.Tags[0]
	}
	return layout.ImageName(i.Repository, tag, i.Digest)
}

// A Refusal is an image, or a part of a source, that is not brought in.
type Refusal struct {
	Image  string `json:"image"` // its name, or a path in the source
	Reason string `json:"reason"`
}

// A Source is an open source.
type Source struct {
	Path    string
	Format  Format
	Images  []Image   // sorted by name
	Refused []Refusal // sorted
	Notes   []string  // what is left out though somebody might look for it, sorted

	options Options
	ended   func() error // why nothing more is to be read
	files   files
	locate  func(digest.Digest) string // where a blob is, in formats that say so by its path; else nil
	blobs   map[digest.Digest][]place  // where each may be, in the others
	placed  map[string]bool            // what is in blobs
	parsed  map[digest.Digest]*parsed
	refs    int // of all that was parsed
}

// A place is where a blob may be: a file of the source, or content that was
// made of others.
type place struct {
	name string
	made []byte
}

// Open reads which images a source has. It ends with its context, and so does
// what is read of the source later.
func Open(ctx context.Context, path string, o Options) (*Source, error) {
	s, err := open(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, o Options) (_ *Source, err error) {
	s := &Source{Path: path, options: o, ended: func() error { return context.Cause(ctx) },
		blobs: make(map[digest.Digest][]place), placed: make(map[string]bool), parsed: make(map[digest.Digest]*parsed)}
	if err := o.checkName(); err != nil {
		return nil, err
	}
	if s.files, err = openFiles(path, s.ended, o.Progress); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.files.close()
		}
	}()
	if err = errors.Join(s.read(), s.ended()); err != nil {
		return nil, err
	}
	for _, fault := range s.files.faults() {
		s.refuse(fault.name, fault.err)
	}
	s.finish()
	return s, nil
}

// Close closes the source.
func (s *Source) Close() error { return s.files.close() }

// read finds the images, by the way of the source's format.
func (s *Source) read() error {
	found, at := recognise(s.files)
	if want := s.options.Format; want != "" && want != found {
		if at, found = whereIs(s.files, want), want; at == nowhere {
			return fmt.Errorf("it is not of the format %s: %w", want, ErrFormat)
		}
	}
	s.Format = found
	switch found {
	case Registry:
		return s.readRegistry(at)
	case OCI:
		return s.readLayout(at)
	case DockerArchive:
		return s.readDockerArchive(at)
	case Dir:
		return s.readDirs(at)
	}
	if has(s.files, "regfs.json") {
		return fmt.Errorf("it is a regfs store; export a release of it, and import that: %w", ErrFormat)
	}
	return fmt.Errorf("neither a registry's storage directory, nor an OCI layout, nor what docker save or skopeo writes: %w", ErrFormat)
}

func (s *Source) refuse(image string, err error) {
	s.Refused = append(s.Refused, Refusal{Image: image, Reason: plain(err)})
}

func (s *Source) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// add enters an image that is whole, unless another one has its name.
func (s *Source) add(image Image) {
	if image.Repository == "" {
		return
	}
	s.Images = append(s.Images, image)
}

// finish puts in order what was found. Of two images that would have one name
// both are refused: no order of theirs means anything.
func (s *Source) finish() {
	named := make(map[string]digest.Digest)
	clash := make(map[string]bool)
	for _, image := range s.Images {
		for _, tag := range image.Tags {
			name := image.Repository + ":" + tag
			if other, taken := named[name]; taken && other != image.Digest {
				clash[name] = true
			}
			named[name] = image.Digest
		}
	}
	for name := range clash {
		s.refuse(name, errors.New("several images have this name; if their registries differ, use --keep-host"))
	}
	s.Images = slices.DeleteFunc(s.Images, func(image Image) bool {
		return slices.ContainsFunc(image.Tags, func(tag string) bool { return clash[image.Repository+":"+tag] })
	})
	slices.SortFunc(s.Images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Digest, b.Digest))
	})
	slices.SortFunc(s.Refused, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Reason, b.Reason))
	})
	s.Refused = slices.Compact(s.Refused)
	slices.Sort(s.Notes)
	s.Notes = slices.Compact(s.Notes)
}

// plain is an error without the names that an os error repeats.
func plain(err error) string {
	if inner, ok := err.(*fs.PathError); ok {
		return inner.Err.Error()
	}
	return err.Error()
}

// maxMeta bounds what is read of an index or a list of images, as of a
// manifest.
const maxMeta = manifest.MaxSize
