package source

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// maxLink bounds what is read of a link; the longest digest has 135 bytes.
const maxLink = 1 << 10

// registry is a registry's storage directory that is being read.
type registry struct {
	*Source
	at      string // where docker/registry/v2 is
	uploads int
	strange []string // files that are none of a registry's
}

// A shelf is what a repository's directory says.
type shelf struct {
	name      string
	revisions map[digest.Digest]bool
	current   map[string]digest.Digest
	tags      []string
	history   []TagLink
}

func (s *Source) readRegistry(at string) error {
	var err error
	if s.files, err = withBase(s.files); err != nil {
		return err
	}
	r := &registry{Source: s, at: at}
	s.locate = func(d digest.Digest) string { return r.inTree(layout.BlobDataPath(d)) }
	if err := r.repositories(""); err != nil {
		return err
	}
	r.notes()
	return nil
}

// maxNoted is how many files are noted by name.
const maxNoted = 10

func (r *registry) notes() {
	if r.uploads > 0 {
		r.note("%d uploads that were not finished are left out", r.uploads)
	}
	for i, name := range r.strange {
		if i == maxNoted {
			r.note("and %d more files that are none of a registry's are left out", len(r.strange)-i)
			break
		}
		r.note("%s: left out, as it is none of a registry's files", name)
	}
}

// repositories reads a directory of repositories, or of steps towards them.
func (r *registry) repositories(name string) error {
	entries, err := r.files.list(r.path(name))
	if err != nil {
		return fmt.Errorf("repository %s: %w", name, unwrap(err))
	}
	isRepository := false
	for _, e := range entries {
		below := strings.TrimPrefix(name+"/"+e.name, "/")
		switch {
		case e.kind != directory:
			r.strange = append(r.strange, r.path(below))
		case e.name == "_uploads":
			r.countUploads(below)
		case strings.HasPrefix(e.name, "_"):
			isRepository = isRepository || e.name == "_manifests"
		case len(below) > 255: // no repository's name is longer
			r.refuse(below, errors.New("not a repository's name"))
		default:
			if err := r.repositories(below); err != nil {
				return err
			}
		}
	}
	if isRepository {
		return r.repository(name)
	}
	return nil
}

func (r *registry) path(name string) string {
	return path.Join(r.at, "repositories", name)
}

// inTree is where the source has a path of a registry's tree.
func (r *registry) inTree(name string) string {
	return path.Join(r.at, strings.TrimPrefix(name, layout.Root+"/"))
}

func (r *registry) countUploads(name string) {
	entries, err := r.files.list(r.path(name))
	if err == nil {
		r.uploads += len(entries)
	}
}

// repository reads one, and finds its images.
func (r *registry) repository(name string) error {
	if !layout.ValidRepository(name) {
		r.refuse(name, errors.New("not a repository's name"))
		return nil
	}
	s := &shelf{name: name, revisions: make(map[digest.Digest]bool), current: make(map[string]digest.Digest)}
	if err := r.walk(s, path.Join(name, "_manifests"), maxDepth); err != nil {
		return err
	}
	r.images(s)
	return nil
}

// walk reads the links of a repository.
func (r *registry) walk(s *shelf, name string, depth int) error {
	entries, err := r.files.list(r.path(name))
	if err != nil {
		return fmt.Errorf("repository %s: %w", s.name, unwrap(err))
	}
	for _, e := range entries {
		below := name + "/" + e.name
		where := layout.Parse(layout.Root + "/repositories/" + below)
		switch {
		case where.Kind == layout.TagDir && e.kind == directory:
			s.tags = append(s.tags, where.Tag)
			fallthrough
		case e.kind == directory && depth > 0:
			if err := r.walk(s, below, depth-1); err != nil {
				return err
			}
		case where.Kind.IsLink():
			r.link(s, where, below)
		case where.Kind != layout.Temp:
			r.strange = append(r.strange, r.path(below))
		}
	}
	return nil
}

// link reads one link, which must name what its path does.
func (r *registry) link(s *shelf, where layout.Path, name string) {
	data, err := r.files.read(r.path(name), maxLink)
	var d digest.Digest
	if err == nil {
		d, err = layout.ParseLink(data)
	}
	if err == nil && where.Digest != "" && where.Digest != d {
		err = fmt.Errorf("it names %s", d)
	}
	if err != nil {
		r.refuse(r.path(name), fmt.Errorf("bad link: %s", plain(err)))
		return
	}
	switch where.Kind {
	case layout.RevisionLink:
		s.revisions[d] = true
	case layout.TagCurrentLink:
		s.current[where.Tag] = d
	case layout.TagIndexLink:
		s.history = append(s.history, TagLink{where.Tag, d})
	}
}

// images finds those revisions that are images, and follows them.
func (r *registry) images(s *shelf) {
	tags := make(map[digest.Digest][]string)
	for _, tag := range s.tags {
		d, ok := s.current[tag]
		switch {
		case !ok:
			r.refuse(s.name+":"+tag, errors.New("the tag points nowhere"))
		case !s.revisions[d]:
			r.refuse(s.name+":"+tag, fmt.Errorf("the tag points at %s, which the repository has not", d))
		default:
			tags[d] = append(tags[d], tag)
		}
	}
	within := r.within(s)
	var whole []Image
	for _, d := range sorted(s.revisions) {
		if within[d] && len(tags[d]) == 0 {
			continue // a part of another image
		}
		image, err := r.image(s, d, tags[d])
		if err != nil {
			r.refuse(image.Name(), err)
			continue
		}
		whole = append(whole, image)
	}
	r.history(s, whole)
	for _, image := range whole {
		r.add(image)
	}
}

// within are the revisions that another one lists.
func (r *registry) within(s *shelf) map[digest.Digest]bool {
	within := make(map[digest.Digest]bool)
	for d := range s.revisions {
		if p := r.manifest(d); p.manifest != nil {
			for _, ref := range p.manifest.Refs {
				within[ref.Digest] = true
			}
		}
	}
	return within
}

func (r *registry) image(s *shelf, d digest.Digest, tags []string) (Image, error) {
	w := &walk{Source: r.Source, image: Image{Repository: s.name, Tags: tags, Digest: d},
		linked: func(d digest.Digest) bool { return s.revisions[d] },
		layer:  func(d digest.Digest) bool { return has(r.files, r.inTree(layout.LayerLinkPath(s.name, d))) },
	}
	err := w.follow(d)
	return w.image, err
}

// history gives each tag's history to the image that has the tag, as far as its
// manifests come in.
func (r *registry) history(s *shelf, whole []Image) {
	linked := make(map[digest.Digest]bool)
	for _, image := range whole {
		for _, d := range image.Manifests {
			linked[d] = true
		}
	}
	for _, link := range s.history {
		i := slices.IndexFunc(whole, func(image Image) bool { return slices.Contains(image.Tags, link.Tag) })
		if i >= 0 && linked[link.Digest] && whole[i].Digest != link.Digest {
			whole[i].History = append(whole[i].History, link)
		}
	}
}

func sorted(set map[digest.Digest]bool) []digest.Digest {
	all := make([]digest.Digest, 0, len(set))
	for d := range set {
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}
