package intake

import (
	"errors"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
)

// An exploration is what is found by following a manifest.
type exploration struct {
	in    Intake
	top   digest.Digest
	facts index.Facts
	needs map[digest.Digest]bool // what it needs or does without, as far as it was followed

	unknown []digest.Digest // manifests that are not there
	absent  []digest.Digest // what is not there and need not be
}

// explore reads a manifest and those below it, as far as nothing is known of
// them. A manifest that is not there has no facts yet; one that is none is an
// error at the top, and below it an ordinary blob, since an index may list
// anything.
func (in Intake) explore(top digest.Digest) (*exploration, error) {
	e := &exploration{in: in, top: top, facts: make(index.Facts), needs: make(map[digest.Digest]bool)}
	return e, e.follow(top, 0)
}

func (e *exploration) follow(d digest.Digest, depth int) error {
	if depth >= index.MaxDepth {
		return invalid("manifest %s: indexes nested deeper than %d", e.top, index.MaxDepth)
	}
	e.in.Pins.Add(d)
	m, err := e.in.manifest(d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.unknown = append(e.unknown, d)
		return nil
	case errors.Is(err, errNoManifest) && depth > 0:
		m = new(manifest.Manifest)
	case err != nil:
		return err
	}
	e.facts[d] = m
	for _, ref := range m.Refs {
		if err := e.visit(ref, depth); err != nil {
			return err
		}
	}
	return nil
}

func (e *exploration) visit(ref manifest.Ref, depth int) error {
	if e.needs[ref.Digest] = true; len(e.needs) > index.MaxNeeds {
		return invalid("manifest %s: more than %d blobs in all", e.top, index.MaxNeeds)
	}
	if ref.Optional && !e.in.has(ref) {
		e.absent = append(e.absent, ref.Digest)
		return nil
	}
	if _, known := e.facts[ref.Digest]; known {
		return nil
	}
	if ref.Role != manifest.Child {
		e.in.Pins.Add(ref.Digest)
		return nil
	}
	return e.follow(ref.Digest, depth+1)
}

// blobs are all that were met on the way, there or not.
func (e *exploration) blobs() []digest.Digest {
	all := []digest.Digest{e.top}
	for _, m := range e.facts {
		for _, ref := range m.Refs {
			all = append(all, ref.Digest)
		}
	}
	return all
}

// has says whether the release has what a manifest can do without. An index's
// child it has only if it was pushed here: a registry does not find those of
// other releases. A layer it has if a registry that asked was told so. Of an
// image that comes whole, both are had if they come with it, or came before.
func (in Intake) has(ref manifest.Ref) bool {
	if in.brought != nil {
		return in.brought(ref.Digest) || in.Release.Blob(ref.Digest).State.Listed()
	}
	if ref.Role == manifest.Child {
		return in.Release.Blob(ref.Digest).State.Listed()
	}
	return !errors.Is(in.Finds(ref.Digest), fs.ErrNotExist)
}

var errNoManifest = errors.New("not a manifest")

// manifest returns what is known of a manifest, or else reads it.
func (in Intake) manifest(d digest.Digest) (*manifest.Manifest, error) {
	if m, err := in.Index.Manifest(d); err == nil {
		if m.MediaType == "" {
			return nil, invalid("%w: %s", errNoManifest, d)
		}
		return m, nil
	}
	f, err := in.Blobs.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, invalid("%w %s: %w", errNoManifest, d, err)
	}
	return m, nil
}
