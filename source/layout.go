package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is how containerd, and docker, note the whole name of an
// image, where the layout's own annotation has only the tag.
const containerdName = "io.containerd.image.name"

// readLayout reads an OCI image layout.
func (s *Source) readLayout(at string) error {
	if err := s.checkLayout(at); err != nil {
		return err
	}
	s.locate = func(d digest.Digest) string {
		return path.Join(at, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
	}
	var top v1.Index
	if err := s.decode(path.Join(at, v1.ImageIndexFile), &top); err != nil {
		return fmt.Errorf("%s: %w: %w", v1.ImageIndexFile, err, ErrFormat)
	}
	l := &listing{Source: s, within: make(map[digest.Digest]bool), repositories: make(map[digest.Digest][]string)}
	l.collect(top.Manifests, 0)
	if s.options.Ref != "" && len(l.named) == 0 {
		return fmt.Errorf("it has no image %s: %w", s.options.Ref, ErrName)
	}
	l.enterNamed()
	l.enterNameless()
	return nil
}

func (s *Source) checkLayout(at string) error {
	var header v1.ImageLayout
	if err := s.decode(path.Join(at, v1.ImageLayoutFile), &header); err != nil {
		return fmt.Errorf("%s: %w: %w", v1.ImageLayoutFile, err, ErrFormat)
	}
	if !strings.HasPrefix(header.Version, "1.") {
		return fmt.Errorf("version %.20q of the OCI layout is not known: %w", header.Version, ErrFormat)
	}
	return nil
}

func (s *Source) decode(name string, into any) error {
	data, err := s.files.read(name, maxMeta)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// A listing is what the index of a layout lists.
type listing struct {
	*Source
	named        []v1.Descriptor
	nameless     []v1.Descriptor
	within       map[digest.Digest]bool     // which lists have images with names
	repositories map[digest.Digest][]string // in which each manifest came in
}

// nameOf is what a layout calls an image, "" if nothing.
func nameOf(d v1.Descriptor) string {
	if name := d.Annotations[containerdName]; name != "" {
		return name
	}
	return d.Annotations[v1.AnnotationRefName]
}

// collect goes through a list. A list within it that has no name may list
// images that have.
func (l *listing) collect(list []v1.Descriptor, depth int) {
	for _, d := range list {
		switch name := nameOf(d); {
		case l.options.Ref != "" && l.options.Ref != name && l.options.Ref != d.Annotations[v1.AnnotationRefName]:
			if name == "" && depth < maxNested {
				l.collectWithin(d, depth)
			}
		case name != "":
			l.named = append(l.named, d)
		case depth == maxNested || !l.collectWithin(d, depth):
			l.nameless = append(l.nameless, d)
		}
	}
}

// maxNested is how deep lists of images may nest.
const maxNested = 4

// collectWithin says whether a list has images with names, and collects them.
// A list that is listed again has nothing more to say: without that, a few small
// lists of one another would have no end.
func (l *listing) collectWithin(d v1.Descriptor, depth int) bool {
	if d.MediaType != v1.MediaTypeImageIndex {
		return false
	}
	if has, known := l.within[d.Digest]; known {
		return has
	}
	l.within[d.Digest] = false
	data, err := l.content(d.Digest)
	var index v1.Index
	if err != nil || json.Unmarshal(data, &index) != nil {
		return false
	}
	before := len(l.named)
	inner := *l
	inner.nameless = nil
	inner.collect(index.Manifests, depth+1)
	l.named = inner.named
	l.within[d.Digest] = len(l.named) > before
	return l.within[d.Digest]
}

func (l *listing) enterNamed() {
	var order []digest.Digest
	tags := make(map[digest.Digest]map[string][]string) // by repository
	for _, d := range l.named {
		n, err := l.nameFor(d)
		if err != nil {
			l.refuse(nameOf(d), err)
			continue
		}
		if tags[d.Digest] == nil {
			tags[d.Digest] = make(map[string][]string)
			order = append(order, d.Digest)
		}
		all := tags[d.Digest][n.repository]
		if n.tag != "" {
			all = append(all, n.tag)
		}
		tags[d.Digest][n.repository] = all
	}
	for _, d := range order {
		for repository, all := range tags[d] {
			l.enter(Image{Repository: repository, Tags: compact(all)}, d)
		}
	}
}

// nameFor understands the name of a descriptor: a whole one, or only a tag.
func (l *listing) nameFor(d v1.Descriptor) (name, error) {
	s := nameOf(d)
	if !strings.ContainsAny(s, "/:@") {
		return l.options.onlyTag(s)
	}
	n, err := l.options.parseReference(s)
	if err == nil && n.digest != "" && n.digest != d.Digest {
		err = fmt.Errorf("its name has the digest %s, and it is %s", n.digest, d.Digest)
	}
	return n, err
}

func (l *listing) enter(image Image, d digest.Digest) bool {
	w := &walk{Source: l.Source, image: image}
	if err := w.follow(d); err != nil {
		l.refuse(w.image.Name(), err)
		return false
	}
	l.add(w.image)
	for _, m := range w.image.Manifests {
		l.repositories[m] = append(l.repositories[m], image.Repository)
	}
	return true
}

// enterNameless enters manifests without a name. What is about an image that
// has come in (its subject), or a part of it, goes with it; then one image may
// be left.
func (l *listing) enterNameless() {
	left := l.nameless
	for more := true; more; {
		more = false
		var rest []v1.Descriptor
		for _, d := range left {
			switch entered, known := l.enterBeside(d.Digest); {
			case entered:
				more = true
			case !known:
				rest = append(rest, d)
			}
		}
		left = rest
	}
	if len(left) > 1 {
		for _, d := range left {
			l.refuse(d.Digest.String(), errors.New("it has no name, and is not the only one without"))
		}
		return
	}
	for _, d := range left {
		n, err := l.options.nameless()
		if err != nil {
			l.refuse(d.Digest.String(), err)
			continue
		}
		l.enter(Image{Repository: n.repository, Tags: []string{n.tag}}, d.Digest)
	}
}

// enterBeside enters what is about an image into the repositories of that. What
// is a part of one is known there already.
func (l *listing) enterBeside(d digest.Digest) (entered, known bool) {
	if len(l.repositories[d]) > 0 {
		return false, true
	}
	p := l.manifest(d)
	if p.manifest == nil || p.manifest.Subject == "" {
		return false, false
	}
	for _, repository := range l.repositories[p.manifest.Subject] {
		entered = l.enter(Image{Repository: repository}, d) || entered
		known = true
	}
	return entered, known
}

// compact leaves out what is there twice, and keeps the order.
func compact(list []string) []string {
	var once []string
	seen := make(map[string]bool)
	for _, s := range list {
		if !seen[s] {
			once = append(once, s)
		}
		seen[s] = true
	}
	return once
}
