// Package fsck finds out what is wrong with a store, and mends what can be
// mended.
//
// [Check] holds the index against the store, and opens few blobs; whoever has
// the store open calls it. [Scan] reads all blobs and needs the store's
// directory only, so that the bytes do not pass the server. [Repair] puts
// aside what is damaged, so that the next push brings it back, and derives
// anew what can be derived. Nothing that somebody has stored is ever deleted
// by this package.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/sealed"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

// leftover is how long nobody has touched a temporary file that was left
// behind. Hashing the largest blob takes minutes.
const leftover = time.Hour

// Check holds the index of an open store against its files. It changes nothing.
// Releases may be mounted and pushed to: what changes meanwhile is seen before
// or after.
func Check(ctx context.Context, st *store.Store) (*Report, error) {
	// Who is told of a blob may look for its file.
	if err := st.Blobs.Settle(); err != nil {
		return nil, err
	}
	c := newCheck(ctx, st)
	if err := c.index(); err != nil {
		return nil, err
	}
	releases, err := st.Index.Releases()
	if err != nil {
		return nil, err
	}
	for _, r := range releases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := c.release(r.Name); err != nil {
			return nil, err
		}
	}
	c.directories()
	c.files()
	c.report.Releases = len(releases)
	c.report.sort()
	return c.report, ctx.Err()
}

type check struct {
	ctx    context.Context
	store  *store.Store
	taker  *export.Taker
	report *Report
	seen   map[digest.Digest]bool
	// leftover is [leftover]; tests do not wait so long.
	leftover time.Duration
}

func newCheck(ctx context.Context, st *store.Store) *check {
	return &check{
		ctx: ctx, store: st, taker: export.NewTaker(st.Blobs),
		report: &Report{Findings: []Finding{}}, seen: make(map[digest.Digest]bool), leftover: leftover,
	}
}

func (c *check) index() error {
	err := c.store.Index.Verify(c.ctx)
	var damaged *index.DamagedError
	if errors.As(err, &damaged) {
		c.damagedIndex(damaged)
		return nil
	}
	return err
}

func (c *check) damagedIndex(damaged *index.DamagedError) {
	for _, d := range damaged.Damage {
		f := Finding{Kind: Index, Damage: true, Object: "index", Problem: d.Problem}
		if d.Release != "" {
			f.Object = "release " + d.Release
		}
		c.report.add(f)
	}
}

// release looks at all that one release names.
func (c *check) release(name string) error {
	r, err := c.store.Index.Open(name)
	var damaged *index.DamagedError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // removed this moment
	case errors.As(err, &damaged):
		c.damagedIndex(damaged)
		return nil
	case err != nil:
		c.report.add(Finding{Kind: Index, Damage: true, Object: "release " + name, Problem: err.Error()})
		return nil
	}
	defer r.Close()
	inv := c.taker.Take(r)
	c.report.Images += len(inv.Images)
	unknown := c.facts(r)
	for _, m := range inv.Missing {
		c.blob(Missing, m.Digest, "not in the store", name, m.Images)
	}
	for _, d := range inv.Damaged {
		kind := Damaged
		switch {
		case unknown[d.Digest]:
			kind = Facts
		case d.Unreadable:
			kind = Unreadable
		}
		c.blob(kind, d.Digest, d.Problem, name, d.Images)
	}
	for _, w := range inv.Wrong {
		c.blob(Size, w.Digest, w.Problem, name, w.Images)
	}
	for _, f := range inv.Files {
		if f.Blob != "" && !c.seen[f.Blob] {
			c.seen[f.Blob] = true
			c.report.Blobs++
			c.report.Bytes += f.Size
		}
	}
	c.links(r, inv)
	return c.sealed(r)
}

func (c *check) blob(kind Kind, d digest.Digest, problem, release string, images []string) {
	c.report.add(Finding{Kind: kind, Damage: kind != Size, Object: d.String(), Problem: problem, Affected: []Affected{{release, images}}})
}

// facts lists the manifests of a release whose blobs are there, and of which
// the index does not know what they need.
func (c *check) facts(r *index.Release) map[digest.Digest]bool {
	found := make(map[digest.Digest]bool)
	for _, repo := range r.AllRepositories() {
		for _, rev := range r.Revisions(repo) {
			for _, d := range r.Unknown(repo, rev.Digest) {
				if _, err := readManifest(c.store.Blobs, d); err == nil {
					found[d] = true
				}
			}
		}
	}
	return found
}

// sealed holds a sealed release against its document. What it lacks was found
// already.
func (c *check) sealed(r *index.Release) error {
	if r.Sealed() == "" {
		return nil
	}
	reading, err := sealed.Read(c.store, r)
	if err != nil {
		return err
	}
	for _, problem := range reading.Problems {
		c.report.add(Finding{Kind: Sealed, Damage: true, Object: "release " + r.Name, Problem: problem})
	}
	return nil
}

// links looks for links to blobs that are not there, and that no manifest
// needs: those were found already.
func (c *check) links(r *index.Release, inv *export.Inventory) {
	missing := make(map[digest.Digest]bool)
	for _, m := range inv.Missing {
		missing[m.Digest] = true
	}
	for _, repo := range r.AllRepositories() {
		for _, l := range r.Layers(repo) {
			if l.State != index.Linked || missing[l.Digest] {
				continue
			}
			if _, err := c.store.Blobs.Stat(l.Digest); errors.Is(err, fs.ErrNotExist) {
				// No damage: a power loss may leave such a link, of an image that
				// nobody was told is there.
				c.report.add(Finding{Kind: Link, Object: l.Digest.String(),
					Problem: fmt.Sprintf("linked in %s of release %s, and not in the store", repo, r.Name)})
			}
		}
	}
}

// directories holds the releases' directories, and the snapshots in them,
// against the releases.
func (c *check) directories() {
	entries, err := os.ReadDir(filepath.Join(c.store.Dir, "releases"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.report.add(Finding{Kind: Release, Damage: true, Object: "releases", Problem: err.Error()})
	}
	for _, e := range entries {
		// Asked after the directories were listed: a release is made before its
		// directory, and goes after it.
		known, err := c.store.Index.HasRecord(e.Name())
		if err != nil {
			return // and Verify has said why
		}
		c.directory(e.Name(), known)
	}
}

func (c *check) directory(name string, known bool) {
	s, err := snapshot.Read(c.store.Dir, name)
	// Asked after the snapshot was read: it may have been taken this moment.
	changes, unknown := c.store.Index.Changes()
	if unknown != nil {
		return // and Verify has said why
	}
	switch {
	case !known && err != nil:
		if _, err := os.Lstat(filepath.Join(c.store.Dir, store.ReleaseDir(name))); hasNo(err) {
			return // it was removed this moment
		}
		c.report.add(Finding{Kind: Release, Object: filepath.Join("releases", name), Problem: "the index has no release of that name"})
	case !known:
		c.report.add(Finding{Kind: Release, Damage: true, Object: "release " + name,
			Problem: fmt.Sprintf("not in the index; %d names were written down", len(s.Names))})
	case err != nil && !hasNo(err):
		c.report.add(Finding{Kind: Release, Object: store.SnapshotFile(name), Problem: "cannot be read: " + reason(err)})
	case err == nil && s.Changes > changes:
		c.report.add(Finding{Kind: Index, Damage: true, Object: "release " + name,
			Problem: fmt.Sprintf("the index was changed %d times, and %d times when the names were written down: it has lost something, or is an old copy",
				changes, s.Changes)})
	}
}

// Trust says whether the index has all that was written down beside the
// releases; if not it is [index.ErrDamaged]. An index that has lost its last
// changes is whole in itself, so [index.DB.Verify] finds nothing.
func Trust(ctx context.Context, st *store.Store) error {
	c := newCheck(ctx, st)
	c.directories()
	var lost []index.Damage
	for _, f := range c.report.Findings {
		if f.Damage {
			lost = append(lost, index.Damage{Problem: f.Object + ": " + f.Problem})
		}
	}
	if len(lost) > 0 {
		return &index.DamagedError{Damage: lost}
	}
	return nil
}

// files looks at the store's files: modes, owners, and what does not belong.
func (c *check) files() {
	c.store.Blobs.Inspect(c.leftover, func(f cas.Flaw) bool {
		finding := Finding{Object: f.Path, Problem: f.Text, flaw: f}
		switch f.Kind {
		case cas.Foreign:
			finding.Kind = Foreign
		case cas.Unreadable:
			finding.Kind, finding.Damage = Unreadable, true
		case cas.WrongMode, cas.WrongOwner:
			finding.Kind = Mode
		case cas.Leftover:
			finding.Kind = Temporary
		}
		c.report.add(finding)
		return c.ctx.Err() == nil
	})
}
