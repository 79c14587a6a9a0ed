package source

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/layout"
)

const defaultTag = "latest"

// A name is what an image is called.
type name struct {
	repository string
	tag        string // empty if it is known by its digest only
	digest     digest.Digest
}

// parseReference understands a reference as docker and podman do: without a
// registry it is Docker Hub's, there without a user it is library's, and
// without a tag it is latest.
func (o Options) parseReference(s string) (name, error) {
	ref, err := imagelist.Parse(s)
	if err != nil {
		return name{}, err
	}
	ref = ref.Whole()
	n := name{repository: ref.Name, tag: ref.Tag, digest: ref.Digest}
	if o.KeepHost {
		n.repository = ref.FullName()
	}
	return n, n.check()
}

// parsePath understands a directory's path in a tree of skopeo's as skopeo sync
// does: NAME:TAG or NAME@DIGEST, where no tag is latest, and nothing else is
// implied.
func (o Options) parsePath(path string) (name, error) {
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i+1], path[i+1:]
	}
	n := name{repository: path, tag: defaultTag}
	if i := strings.IndexByte(base, '@'); i >= 0 {
		n = name{repository: dir + base[:i], digest: digest.Digest(base[i+1:])}
		if err := n.digest.Validate(); err != nil {
			return name{}, fmt.Errorf("name %.100q: %w", path, err)
		}
	} else if i := strings.LastIndexByte(base, ':'); i >= 0 {
		n = name{repository: dir + base[:i], tag: base[i+1:]}
	}
	if host, rest, ok := strings.Cut(n.repository, "/"); ok && !o.KeepHost && isHost(host) {
		n.repository = rest
	}
	return n, n.check()
}

// isHost tells a registry from the first part of a repository's name, by the
// rule of docker.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost"
}

func (n name) check() error {
	if !layout.ValidRepository(n.repository) {
		return fmt.Errorf("%.100q is not a repository's name", n.repository)
	}
	if n.tag != "" && !layout.ValidTag(n.tag) {
		return fmt.Errorf("%.100q is not a tag", n.tag)
	}
	return nil
}

// given is the name that the user has given; its tag may be empty.
func (o Options) given() name {
	repository, tag := o.Name, ""
	if i := strings.LastIndexByte(o.Name, ':'); i > strings.LastIndexByte(o.Name, '/') {
		repository, tag = o.Name[:i], o.Name[i+1:]
	}
	return name{repository: repository, tag: tag}
}

func (o Options) checkName() error {
	if o.Name == "" {
		return nil
	}
	if err := o.given().check(); err != nil || strings.HasSuffix(o.Name, ":") {
		return fmt.Errorf("%q is not REPOSITORY[:TAG]: %w", o.Name, ErrName)
	}
	return nil
}

// nameless is the name of the one image that has none of its own.
func (o Options) nameless() (name, error) {
	if o.Name == "" {
		return name{}, errNameless
	}
	n := o.given()
	if n.tag == "" {
		n.tag = defaultTag
	}
	return n, nil
}

var errNameless = errors.New("it has no name; give one with --name REPOSITORY:TAG")

// onlyTag is the name of an image that has a tag of its own, and no repository.
func (o Options) onlyTag(tag string) (name, error) {
	if o.Name == "" {
		return name{}, fmt.Errorf("it has only the tag %.100q; name its repository with --name REPOSITORY", tag)
	}
	n := o.given()
	if n.tag == "" {
		n.tag = tag
	}
	return n, n.check()
}
