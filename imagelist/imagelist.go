// Package imagelist reads lists of images, by which releases are put together
// and parts of them chosen: one reference a line, no I/O.
//
// A line is a reference, as people write them for docker or skopeo:
//
//	[docker://][HOST/]NAME[:TAG][@DIGEST]
//
// Empty lines mean nothing, nor does what follows a # at the beginning of a
// line or after white space. Without tag and digest the tag is latest.
//
// What is read may be hostile: names, tags and digests are valid, or there is
// an error that says in which line they are not.
package imagelist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// Bounds on a list. A product has some hundreds of images.
const (
	maxLine = 4096
	maxRefs = 100_000
)

// A Reference names one image.
type Reference struct {
	Host   string        // of the registry it comes from; empty if none is given
	Name   string        // the repository, without the host
	Tag    string        // empty if there is only a digest
	Digest digest.Digest // empty if there is only a tag
}

// Read reads a list; name is for its errors. Each reference comes once, in the
// list's order.
func Read(name string, r io.Reader) (refs []Reference, err error) {
	seen := make(map[Reference]bool)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		text := uncomment(lines.Text())
		if text == "" {
			continue
		}
		ref, err := Parse(text)
		if err == nil && len(refs) == maxRefs {
			err = fmt.Errorf("more than %d images", maxRefs)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		if !seen[ref] {
			seen[ref] = true
			refs = append(refs, ref)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
	}
	return refs, nil
}

func uncomment(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	return strings.TrimSpace(line)
}

// Parse reads one reference.
func Parse(text string) (Reference, error) {
	ref, err := parse(strings.TrimPrefix(text, "docker://"))
	if err != nil {
		return Reference{}, fmt.Errorf("%.300q is no image: %w", text, err)
	}
	return ref, nil
}

func parse(text string) (ref Reference, err error) {
	text, d, hasDigest := strings.Cut(text, "@")
	if hasDigest {
		if ref.Digest, err = digest.Parse(d); err != nil {
			return ref, err
		}
	}
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		text, ref.Tag = text[:i], text[i+1:]
		if !layout.ValidTag(ref.Tag) {
			return ref, errors.New("bad tag")
		}
	}
	if ref.Tag == "" && !hasDigest {
		ref.Tag = "latest"
	}
	ref.Name = text
	if host, rest, ok := strings.Cut(text, "/"); ok && isHost(host) {
		ref.Host, ref.Name = host, rest
	}
	if !layout.ValidRepository(ref.FullName()) || !layout.ValidRepository(ref.Name) || !isLower(ref.Name) || strings.Contains(ref.Name, ":") {
		return ref, errors.New("bad name")
	}
	return ref, nil
}

// isLower: capitals are for hosts.
func isLower(s string) bool { return strings.ToLower(s) == s }

// isHost tells a registry from the first part of a name, as docker does.
func isHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || !isLower(s)
}

// hubs are names of Docker Hub.
var hubs = []string{"", "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// FullName is host and name.
func (r Reference) FullName() string {
	if r.Host == "" {
		return r.Name
	}
	return r.Host + "/" + r.Name
}

// Whole is the reference with what Docker Hub implies, as docker understands
// it: nginx is docker.io/library/nginx.
func (r Reference) Whole() Reference {
	if slices.Contains(hubs, r.Host) {
		r.Host = "docker.io"
		if !strings.Contains(r.Name, "/") {
			r.Name = "library/" + r.Name
		}
	}
	return r
}

// Repositories are the names under which a registry may have the image, the
// likeliest first: as it is written, without the host, and what Docker Hub
// implies: nginx is library/nginx.
func (r Reference) Repositories() []string {
	names := []string{r.FullName(), r.Name}
	if slices.Contains(hubs, r.Host) {
		if short, ok := strings.CutPrefix(r.Name, "library/"); ok {
			names = append(names, short)
		} else if full := "library/" + r.Name; !strings.Contains(r.Name, "/") && layout.ValidRepository(full) {
			names = append(names, full)
		}
	}
	return slices.Compact(names)
}

// String is the reference in full.
func (r Reference) String() string {
	s := r.FullName()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}
