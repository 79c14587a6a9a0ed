package sealed

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/store"
)

// Compose makes the document of what a release has now; an [*IncompleteError] if
// that is nothing, or not whole. It looks for each blob, and reads none.
func Compose(st *store.Store, r *index.Release) ([]byte, error) {
	inv := export.Take(r, st.Blobs)
	c := composing{store: st, release: r, has: make(map[digest.Digest]bool)}
	for _, f := range inv.Files {
		if f.Blob != "" {
			c.has[f.Blob] = true
		}
	}
	for _, m := range inv.Missing {
		c.lacks("blob %s is not in the store, needed by %s", m.Digest, few(m.Images))
	}
	for _, d := range inv.Damaged {
		c.lacks("blob %s: %s, needed by %s", d.Digest, d.Problem, few(d.Images))
	}
	names := r.Names()
	if len(names.Revisions) == 0 {
		c.problem("it has no image")
	}
	c.tags()
	c.hidden(names.Hidden)
	for _, rev := range names.Revisions {
		if err := c.revision(rev); err != nil {
			return nil, err
		}
	}
	if len(c.problems)+len(c.lacking) > 0 {
		return nil, &IncompleteError{r.Name, sorted(c.problems), sorted(c.lacking)}
	}
	return seal.Encode(c.names)
}

type composing struct {
	store    *store.Store
	release  *index.Release
	has      map[digest.Digest]bool // what an export has
	names    []seal.Name
	problems []string // of names
	lacking  []string // blobs
}

func sorted(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

func (c *composing) lacks(format string, args ...any) {
	c.lacking = append(c.lacking, fmt.Sprintf(format, args...))
}

func (c *composing) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func few(images []string) string {
	const most = 3
	if more := len(images) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(images[:most], ", "), more)
	}
	return strings.Join(images, ", ")
}

// tags finds those that point at nothing: a registry lists them, and cannot
// serve them.
func (c *composing) tags() {
	for _, repo := range c.release.AllRepositories() {
		for _, tag := range c.release.Tags(repo) {
			link, ok := c.release.TagLink(repo, tag)
			if !ok {
				c.problem("tag %s:%s points at nothing; push it, or untag it", repo, tag)
			} else if _, linked := c.release.Revision(repo, link.Digest); !linked {
				c.problem("tag %s:%s points at %s, which is not linked there; push it, or untag it", repo, tag, link.Digest)
			}
		}
	}
}

// hidden finds layer links that were removed and that an image needs: no
// registry would serve it.
func (c *composing) hidden(pairs []index.Pair) {
	for _, p := range pairs {
		for _, rev := range c.release.Revisions(p.Repository) {
			for _, need := range c.release.Needs(p.Repository, rev.Digest) {
				if need.Digest == p.Digest && !need.Manifest && !need.Absent {
					c.problem("the link of %s %s was removed from %s, where %s needs it; push the image again",
						need.Role, p.Digest, p.Repository, rev.Digest)
				}
			}
		}
	}
}

// revision enters a linked manifest, under each of its names.
func (c *composing) revision(rev index.RevisionName) error {
	name := seal.Name{Repository: rev.Repository, Digest: rev.Digest, Absent: c.absent(rev)}
	info, err := c.store.Blobs.Stat(rev.Digest)
	if err == nil {
		m, factsErr := c.store.Index.Manifest(rev.Digest)
		if err = factsErr; err == nil {
			name.MediaType, name.Size = m.MediaType, info.Size
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is among what is missing
	}
	if err != nil {
		return err
	}
	for _, name.Tag = range rev.Tags {
		c.names = append(c.names, name)
	}
	if len(rev.Tags) == 0 {
		c.names = append(c.names, name)
	}
	return nil
}

// absent lists what an image can do without, and does without in an export. What
// came with it and has gone since is missing.
func (c *composing) absent(rev index.RevisionName) (absent []digest.Digest) {
	unknown := c.release.Unknown(rev.Repository, rev.Digest)
	for _, need := range c.release.Needs(rev.Repository, rev.Digest) {
		switch {
		case need.Absent, need.Optional && !c.has[need.Digest] && slices.Contains(unknown, need.Digest):
			absent = append(absent, need.Digest)
		case need.Optional && !c.has[need.Digest]:
			c.lacks("%s %s is not in the store any more, pushed with %s", need.Role, need.Digest, seal.Name{
				Repository: rev.Repository, Digest: rev.Digest, Tag: strings.Join(rev.Tags[:min(1, len(rev.Tags))], "")})
		}
	}
	slices.Sort(absent)
	return absent
}
