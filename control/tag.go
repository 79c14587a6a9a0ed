package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// An ImageName is an image of a release, by tag or by digest.
type ImageName struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
}

func (n ImageName) String() string {
	if n.Digest != "" {
		return n.Repository + "@" + n.Digest.String()
	}
	return n.Repository + ":" + n.Tag
}

// ParseImage reads REPOSITORY:TAG or REPOSITORY@DIGEST, as "regfs ls" lists
// images.
func ParseImage(text string) (n ImageName, err error) {
	repo, d, byDigest := strings.Cut(text, "@")
	if byDigest {
		n = ImageName{Repository: repo, Digest: digest.Digest(d)}
	} else if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		n = ImageName{Repository: text[:i], Tag: text[i+1:]}
	}
	return n, n.check(text)
}

func (n ImageName) check(text string) error {
	if !layout.ValidRepository(n.Repository) || n.Digest == "" && !layout.ValidTag(n.Tag) || n.Digest != "" && n.Digest.Validate() != nil {
		return fmt.Errorf("%.300q is no image of a release; one is REPOSITORY:TAG, as \"regfs ls\" lists it", text)
	}
	return nil
}

// tagRequest is the body of POST /v1/releases/NAME/tag.
type tagRequest struct {
	From ImageName `json:"from"`
	To   ImageName `json:"to"`
}

// untagRequest is the body of POST /v1/releases/NAME/untag.
type untagRequest struct {
	Image     ImageName `json:"image"`
	WithImage bool      `json:"with_image"`
}

// Untagged is what a tag that was removed pointed at.
type Untagged struct {
	Digest digest.Digest `json:"digest"`
	// Stays says that the manifest is linked still, with Tags that point at it
	// or without.
	Stays bool     `json:"stays"`
	Tags  []string `json:"tags,omitempty"`
}

// edit is for changes of a release that is not mounted: the kernel would go on
// not seeing what comes from beside the mount.
func (s *Server) edit(r *http.Request, what string, f func(*index.Release) (any, error)) (any, error) {
	release, err := s.store.Index.Open(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer release.Close()
	unclaim, err := s.claim(release.Name, what)
	if err != nil {
		return nil, err
	}
	defer unclaim()
	out, err := f(release)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, release.Name, err)
	}
	s.snapshot(release.Name)
	return out, nil
}

func (s *Server) tag(r *http.Request) (any, error) {
	var req tagRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if err := errors.Join(req.From.check(req.From.String()), req.To.check(req.To.String())); err != nil {
		return nil, fmt.Errorf("tag: %w: %w", err, ErrUsage)
	}
	if req.To.Digest != "" {
		return nil, fmt.Errorf("tag: %s is a digest; a tag is wanted: %w", req.To, ErrUsage)
	}
	return s.edit(r, "tag", func(release *index.Release) (any, error) {
		entry, err := s.tagged(release, req)
		if err != nil {
			return nil, err
		}
		return struct{}{}, release.Enter([]*index.Entry{entry})
	})
}

// tagged is an image under another name: in another repository with all
// manifests that it has.
func (s *Server) tagged(release *index.Release, req tagRequest) (*index.Entry, error) {
	from := req.From
	if from.Digest == "" {
		link, ok := release.TagLink(from.Repository, from.Tag)
		if !ok {
			return nil, noImage(release, from)
		}
		from.Digest = link.Digest
	}
	if _, linked := release.Revision(from.Repository, from.Digest); !linked {
		return nil, noImage(release, req.From)
	}
	entry := index.NewEntry(req.To.Repository)
	needs := release.Needs(from.Repository, from.Digest)
	absent := absences(release, from.Repository)
	for _, need := range slices.Backward(needs) { // what a manifest needs comes before it
		if need.Absent {
			continue
		}
		if _, err := s.store.Blobs.Stat(need.Digest); err != nil && !(need.Optional && errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("%s needs %s %s: %w", req.From, need.Role, need.Digest, err)
		}
		_, linked := release.Revision(from.Repository, need.Digest)
		if !need.Manifest || !linked || req.To.Repository == from.Repository {
			continue
		}
		if err := entry.Manifest(need.Digest, nil, absent[need.Digest]...); err != nil {
			return nil, err
		}
	}
	entry.Tag(index.TagLink{Tag: req.To.Tag, Digest: from.Digest})
	return entry, nil
}

func noImage(release *index.Release, n ImageName) error {
	return &Error{Kind: "not-exist", Message: fmt.Sprintf("the release has no image %s; \"regfs ls %s\" lists those it has", n, release.Name)}
}

// absences are what a repository's manifests do without.
func absences(release *index.Release, repo string) map[digest.Digest][]digest.Digest {
	all := make(map[digest.Digest][]digest.Digest)
	for _, rev := range release.Names().Revisions {
		if rev.Repository == repo {
			all[rev.Digest] = rev.Absent
		}
	}
	return all
}

func (s *Server) untag(r *http.Request) (any, error) {
	var req untagRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	n := req.Image
	if err := n.check(n.String()); err != nil {
		return nil, fmt.Errorf("untag: %w: %w", err, ErrUsage)
	}
	if n.Digest != "" {
		return nil, fmt.Errorf("untag: %s is a digest; a tag is wanted: %w", n, ErrUsage)
	}
	return s.edit(r, "untag", func(release *index.Release) (any, error) {
		d, ok, err := release.DropTag(n.Repository, n.Tag, req.WithImage)
		if err == nil && !ok {
			err = noImage(release, n)
		}
		if err != nil {
			return nil, err
		}
		out := Untagged{Digest: d}
		_, out.Stays = release.Revision(n.Repository, d)
		for _, tag := range release.Tags(n.Repository) {
			if link, ok := release.TagLink(n.Repository, tag); ok && link.Digest == d {
				out.Tags = append(out.Tags, tag)
			}
		}
		return out, nil
	})
}

// Tag makes a tag of a release that points where another one does.
func (c *Client) Tag(ctx context.Context, release string, from, to ImageName) error {
	if err := index.ValidRelease(release); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/tag", tagRequest{from, to}, nil)
}

// Untag removes a tag of a release, with its image if that has no other name.
func (c *Client) Untag(ctx context.Context, release string, image ImageName, withImage bool) (out Untagged, err error) {
	if err := index.ValidRelease(release); err != nil {
		return out, err
	}
	err = c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/untag", untagRequest{image, withImage}, &out)
	return out, err
}
