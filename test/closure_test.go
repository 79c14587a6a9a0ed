package test

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/imagetest"
)

// The registry's tree, as the tests know it: written down once more, so that a
// fault in package layout does not hide itself.

const v2 = "docker/registry/v2"

func digestPath(d digest.Digest) string { return d.Algorithm().String() + "/" + d.Encoded() }

func blobDir(d digest.Digest) string {
	return path.Join(v2, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func blobPath(d digest.Digest) string { return blobDir(d) + "/data" }

func repoPath(repo string, elem ...string) string {
	return path.Join(append([]string{v2, "repositories", repo}, elem...)...)
}

func layerLink(repo string, d digest.Digest) string {
	return repoPath(repo, "_layers", digestPath(d), "link")
}

// A closure is all that some images need in a registry's storage, computed
// from their layouts alone.
type closure struct {
	t     *testing.T
	links map[string]digest.Digest // path of a link, what it says
	blobs map[digest.Digest]string // digest of a blob, its file in a layout
}

func newClosure(t *testing.T) *closure {
	return &closure{t, map[string]digest.Digest{}, map[digest.Digest]string{}}
}

func closureOf(t *testing.T, r imagetest.Release) *closure {
	t.Helper()
	c := newClosure(t)
	for _, image := range r.Images {
		c.add(r, image, image.Repository)
	}
	return c
}

// add adds an image under its own tag in a repository.
func (c *closure) add(r imagetest.Release, image imagetest.Image, repo string) {
	c.t.Helper()
	tag := repoPath(repo, "_manifests/tags", image.Tag)
	c.links[tag+"/current/link"] = image.Digest
	c.links[path.Join(tag, "index", digestPath(image.Digest), "link")] = image.Digest
	c.addManifest(r.Dir, image.Digest, repo)
}

func (c *closure) addManifest(dir string, d digest.Digest, repo string) {
	c.t.Helper()
	c.links[repoPath(repo, "_manifests/revisions", digestPath(d), "link")] = d
	text, err := os.ReadFile(c.addBlob(dir, d))
	ok(c.t, err)
	var m struct {
		Config            *ocispec.Descriptor
		Layers, Manifests []ocispec.Descriptor
	}
	ok(c.t, json.Unmarshal(text, &m))
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, layer := range m.Layers {
		c.links[layerLink(repo, layer.Digest)] = layer.Digest
		c.addBlob(dir, layer.Digest)
	}
	for _, child := range m.Manifests {
		c.addManifest(dir, child.Digest, repo)
	}
}

func (c *closure) addBlob(dir string, d digest.Digest) string {
	file := filepath.Join(dir, "blobs", digestPath(d))
	c.blobs[d] = file
	return file
}

// dump is the closure as files.
func (c *closure) dump() dump {
	c.t.Helper()
	var all dump
	for name, d := range c.links {
		line, err := fileLine(name, strings.NewReader(d.String()))
		ok(c.t, err)
		all = append(all, line)
	}
	for d, file := range c.blobs {
		f, err := os.Open(file)
		ok(c.t, err)
		line, err := fileLine(blobPath(d), f)
		ok(c.t, err)
		ok(c.t, f.Close())
		all = append(all, line)
	}
	return all
}
