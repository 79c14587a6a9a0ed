package bench

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/layout"
)

// Contents are what a tar of a registry's storage holds.
type contents struct {
	blobs  map[digest.Digest]int64
	tags   map[string]digest.Digest // repository:tag
	revs   map[string]bool          // repository@digest
	layers map[string]bool          // repository@digest
}

// checkTar says whether a tar is the release: its images, and of blobs, tags
// and manifests nothing else.
func checkTar(path string, r imagetest.Release) error {
	got, err := readTar(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if err := got.match(r); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}

func (c *contents) match(r imagetest.Release) error {
	blobs, err := r.Blobs()
	if err != nil {
		return err
	}
	tags, revs := make(map[string]digest.Digest), make(map[string]bool)
	for _, image := range r.Images {
		tags[image.Ref()] = image.Digest
		revs[image.Repository+"@"+image.Digest.String()] = true
	}
	switch {
	case !maps.Equal(c.blobs, blobs):
		return fmt.Errorf("%d blobs, not the %d of the release", len(c.blobs), len(blobs))
	case !maps.Equal(c.tags, tags):
		return fmt.Errorf("%d tags, not the %d of the release", len(c.tags), len(tags))
	case !maps.Equal(c.revs, revs):
		return fmt.Errorf("%d manifests, not the %d of the release", len(c.revs), len(revs))
	}
	return c.matchLayers(r)
}

// matchLayers looks for the layers of each image, and for links to nothing.
func (c *contents) matchLayers(r imagetest.Release) error {
	for _, image := range r.Images {
		needs, err := image.Needs(r.Dir)
		if err != nil {
			return err
		}
		for _, d := range needs {
			if !c.layers[image.Repository+"@"+d.String()] {
				return fmt.Errorf("%s: no link to its layer %s", image.Ref(), d)
			}
		}
	}
	for link := range c.layers {
		repository, d, _ := strings.Cut(link, "@")
		if _, ok := c.blobs[digest.Digest(d)]; !ok {
			return fmt.Errorf("%s: a link to %s, which is not there", repository, d)
		}
	}
	return nil
}

func readTar(path string) (*contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &contents{make(map[digest.Digest]int64), make(map[string]digest.Digest), make(map[string]bool), make(map[string]bool)}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if err := c.add(layout.Parse(strings.TrimPrefix(header.Name, "./")), header, r); err != nil {
			return nil, fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

// add takes up one file. Blobs are proven: what is read twice as fast and
// wrong is no result.
func (c *contents) add(p layout.Path, header *tar.Header, content io.Reader) error {
	switch p.Kind {
	case layout.BlobData:
		check := p.Digest.Verifier()
		n, err := io.Copy(check, content)
		if err == nil && !check.Verified() {
			err = errors.New("not what its digest says")
		}
		c.blobs[p.Digest] = n
		return err
	case layout.TagCurrentLink:
		text, err := io.ReadAll(content)
		c.tags[p.Repository+":"+p.Tag] = digest.Digest(text)
		return err
	case layout.RevisionLink:
		c.revs[p.Repository+"@"+p.Digest.String()] = true
	case layout.LayerLink:
		c.layers[p.Repository+"@"+p.Digest.String()] = true
	case layout.TagIndexLink:
	default:
		return fmt.Errorf("a %v of %d bytes belongs to no image", p.Kind, header.Size)
	}
	return nil
}
