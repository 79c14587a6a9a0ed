package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
)

// parsed is what is known of a blob that may be a manifest.
type parsed struct {
	manifest *manifest.Manifest // nil if it is none
	size     int64
	err      error // why it cannot be had; fs.ErrNotExist if it is not there
}

// at adds a place where a blob may be, once.
func (s *Source) at(d digest.Digest, p place) {
	key := d.String() + " " + p.name // a name, or nothing: what was made is the same each time
	if !s.placed[key] {
		s.placed[key] = true
		s.blobs[d] = append(s.blobs[d], p)
	}
}

// places are all where a blob may be.
func (s *Source) places(d digest.Digest) []place {
	if s.locate != nil && d.Validate() == nil {
		return []place{{name: s.locate(d)}}
	}
	return s.blobs[d]
}

// manifest reads a manifest, from the first place where it is what its digest
// says.
func (s *Source) manifest(d digest.Digest) *parsed {
	if p, known := s.parsed[d]; known {
		return p
	}
	p := new(parsed)
	s.parsed[d] = p
	var data []byte
	if data, p.err = s.content(d); p.err != nil {
		return p
	}
	p.size = int64(len(data))
	m, err := manifest.Parse(data)
	switch {
	case err != nil:
		p.err = errNoManifest{err}
	case s.refs+len(m.Refs) > maxAllRefs:
		p.err = fmt.Errorf("more than %d references in all manifests together", maxAllRefs)
	default:
		p.manifest, s.refs = m, s.refs+len(m.Refs)
	}
	return p
}

// maxAllRefs bounds what is kept of all manifests, to some 1 GB: 300,000 images
// of 15 layers.
const maxAllRefs = 5_000_000

// errNoManifest says that a blob is whole and is no manifest.
type errNoManifest struct{ error }

func (e errNoManifest) Unwrap() error { return e.error }

func (s *Source) content(d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	err := error(fs.ErrNotExist)
	for _, place := range s.places(d) {
		data, failed := place.made, error(nil)
		if data == nil {
			data, failed = s.files.read(place.name, manifest.MaxSize)
		}
		if failed == nil {
			failed = check(d, data)
		}
		if failed == nil {
			return data, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = failed
		}
	}
	if data, found := s.base(d); found {
		return data, nil
	}
	return nil, err
}

// base reads a manifest that the store has.
func (s *Source) base(d digest.Digest) ([]byte, bool) {
	if s.options.Base == nil {
		return nil, false
	}
	f, err := s.options.Base(d)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	return data, err == nil && check(d, data) == nil
}

func check(d digest.Digest, data []byte) error {
	if got := d.Algorithm().FromBytes(data); got != d {
		return fmt.Errorf("its content has digest %s", got)
	}
	return nil
}

// has says whether the source has a blob, as far as its size tells.
func (s *Source) has(d digest.Digest) (size int64, there bool) {
	for _, place := range s.places(d) {
		if place.made != nil {
			return int64(len(place.made)), true
		}
		if size, err := s.files.size(place.name); err == nil {
			return size, true
		}
	}
	return -1, false
}

// inStore says whether the store has a blob.
func (s *Source) inStore(d digest.Digest) bool {
	if s.options.Base == nil {
		return false
	}
	f, err := s.options.Base(d)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// A walk goes from a manifest down to its layers.
type walk struct {
	*Source
	// linked says of a manifest that the source names it, though its blob may be
	// in the store only; layer the same of a layer. Both may be nil.
	linked, layer func(digest.Digest) bool

	image Image
	seen  map[digest.Digest]bool
	refs  int
}

// maxRefs bounds what one image can refer to: indexes within indexes.
const maxRefs = 10 * manifest.MaxRefs

// follow finds out what an image needs. The error says why it is not whole.
func (w *walk) follow(top digest.Digest) error {
	w.seen = make(map[digest.Digest]bool)
	w.image.Digest = top
	return w.visit(manifest.Ref{Digest: top, Role: manifest.Child}, 0)
}

func (w *walk) visit(ref manifest.Ref, depth int) error {
	d := ref.Digest
	if w.seen[d] {
		return nil
	}
	if w.refs++; w.refs > maxRefs {
		return fmt.Errorf("more than %d references", maxRefs)
	}
	size, here := w.has(d)
	if ref.Optional {
		if !here && !(w.mentions(ref) && w.inStore(d)) {
			return nil // absent, and stays so
		}
	}
	if ref.Optional && ref.Role == manifest.Child && w.linked != nil && !w.linked(d) {
		return w.try(ref, depth, here)
	}
	w.seen[d] = true
	if ref.Optional {
		w.image.Present = append(w.image.Present, d)
	}
	if ref.Role == manifest.Child {
		return w.manifest(ref, depth, here)
	}
	if !here && !w.inStore(d) {
		return fmt.Errorf("%s %s is missing", ref.Role, d)
	}
	w.image.Blobs = append(w.image.Blobs, Blob{d, size})
	return nil
}

// try takes a manifest that an index lists, and that the source has without
// having it linked: another repository's, or history's. If it is not whole, the
// index does without it, as for a registry it would.
func (w *walk) try(ref manifest.Ref, depth int, here bool) error {
	part := *w
	part.seen = maps.Clone(w.seen)
	part.image.Present = append(slices.Clone(w.image.Present), ref.Digest)
	part.image.Blobs = slices.Clone(w.image.Blobs)
	part.image.Manifests = slices.Clone(w.image.Manifests)
	part.seen[ref.Digest] = true
	if part.manifest(ref, depth, here) == nil {
		*w = part
	}
	return nil
}

// mentions says of something that an image can do without, and that has no blob
// here, that the source has it all the same: a patch leaves out what its base
// has.
func (w *walk) mentions(ref manifest.Ref) bool {
	ask := w.layer
	if ref.Role == manifest.Child {
		ask = w.linked
	}
	return ask != nil && ask(ref.Digest)
}

func (w *walk) manifest(ref manifest.Ref, depth int, here bool) error {
	d := ref.Digest
	if depth >= index.MaxDepth {
		return fmt.Errorf("indexes nested deeper than %d", index.MaxDepth)
	}
	p := w.Source.manifest(d)
	var none errNoManifest
	switch {
	case errors.Is(p.err, fs.ErrNotExist):
		return fmt.Errorf("manifest %s is missing", d)
	case errors.As(p.err, &none) && depth > 0:
		w.image.Blobs = append(w.image.Blobs, w.sized(d, p, here)) // an index may list anything
		return nil
	case p.err != nil:
		return fmt.Errorf("manifest %s: %s", d, plain(p.err))
	}
	for _, child := range p.manifest.Refs {
		if err := w.visit(child, depth+1); err != nil {
			return err
		}
	}
	w.image.Blobs = append(w.image.Blobs, w.sized(d, p, here))
	if w.linked == nil || w.linked(d) {
		w.image.Manifests = append(w.image.Manifests, d)
	}
	return nil
}

// sized is a blob that was read, so its size is known, wherever it came from.
func (w *walk) sized(d digest.Digest, p *parsed, here bool) Blob {
	if !here {
		return Blob{d, -1}
	}
	return Blob{d, p.size}
}
