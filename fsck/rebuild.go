package fsck

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

// Found is the release that gets what no snapshot names, in the repository
// Unnamed, each by its digest.
const (
	Found   = "lost+found"
	Unnamed = "unnamed"
)

// A Rebuilt is what has come back into a new index.
type Rebuilt struct {
	// Aside is where the old index is now, in the store; empty if there was none.
	Aside    string           `json:"aside"`
	Releases []RebuiltRelease `json:"releases"`
	// Unnamed is how many manifests no snapshot names. They are in the release
	// [Found].
	Unnamed int `json:"unnamed"`
	// Report is a check of the store with the new index.
	Report *Report `json:"report"`
}

// A RebuiltRelease is one release.
type RebuiltRelease struct {
	Name   string    `json:"name"`
	Images int       `json:"images"` // tags, and manifests without one
	As     time.Time `json:"as_of"`  // when its names were written down
	// Problem says why it has come back empty, if it has.
	Problem string `json:"problem,omitempty"`
	// Missing are images of which the manifest is not there, or damaged.
	Missing []string `json:"missing,omitempty"`
}

// Err is ErrDamage if something has not come back.
func (r *Rebuilt) Err() error {
	for _, release := range r.Releases {
		if release.Problem != "" || len(release.Missing) > 0 {
			return fmt.Errorf("rebuild index: release %s has not come back whole: %w", release.Name, ErrDamage)
		}
	}
	return r.Report.Err()
}

// Rebuild makes a new index of the snapshots that lie beside the releases, and
// of what the manifests in the store say, and keeps the old one. No server may
// have the store. Until all is done, the old index is the store's.
func Rebuild(ctx context.Context, dir string, log *slog.Logger) (*Rebuilt, error) {
	b := rebuilding{ctx: ctx, dir: dir, log: log, out: &Rebuilt{Releases: []RebuiltRelease{}}}
	var err error
	if b.store, err = store.Renew(dir, b.readSnapshots, log); err != nil {
		return nil, err
	}
	defer b.store.Close()
	if err := b.fill(); err != nil {
		return nil, fmt.Errorf("rebuild index: %w", err)
	}
	if b.out.Aside, err = b.store.Replace(log); err != nil {
		return nil, err
	}
	b.writeDown()
	b.out.Report, err = Check(ctx, b.store)
	return b.out, err
}

type rebuilding struct {
	ctx       context.Context
	dir       string
	log       *slog.Logger
	store     *store.Store
	names     []string // of releases, sorted
	snapshots map[string]*snapshot.Snapshot
	problems  map[string]string
	written   map[string]time.Time
	out       *Rebuilt
}

// readSnapshots reads what is in the releases' directories, and says how often
// the lost index was changed at least.
func (b *rebuilding) readSnapshots() (changes uint64, err error) {
	b.snapshots, b.problems = make(map[string]*snapshot.Snapshot), make(map[string]string)
	b.written = make(map[string]time.Time)
	entries, err := os.ReadDir(filepath.Join(b.dir, "releases"))
	if err != nil && !os.IsNotExist(err) {
		return 0, fmt.Errorf("rebuild index: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || index.ValidRelease(e.Name()) != nil {
			continue
		}
		b.names = append(b.names, e.Name())
		s, err := snapshot.Read(b.dir, e.Name())
		switch {
		case hasNo(err):
			b.problems[e.Name()] = "its names were never written down"
		case err != nil:
			b.problems[e.Name()] = reason(err)
		default:
			b.snapshots[e.Name()] = s
			changes = max(changes, s.Changes)
			if stat, err := os.Stat(filepath.Join(b.dir, store.SnapshotFile(e.Name()))); err == nil {
				b.written[e.Name()] = stat.ModTime().UTC()
			}
		}
	}
	return changes, nil
}

// writeDown takes the snapshots of the new index. One that could not be read is
// put aside before: somebody may make something of it, or the disk may read it
// another time.
func (b *rebuilding) writeDown() {
	for i := range b.out.Releases {
		r := &b.out.Releases[i]
		var err error
		if r.Problem != "" {
			var kept string
			if kept, err = snapshot.PutAside(b.dir, r.Name); kept != "" {
				r.Problem += "; it is kept in " + kept
			}
		}
		if err == nil {
			err = snapshot.Save(b.store, r.Name)
		}
		if err != nil {
			b.log.Error("names are not written down", "err", err)
		}
	}
}

func (b *rebuilding) fill() error {
	for _, name := range b.names {
		if err := b.fillRelease(name); err != nil {
			return err
		}
	}
	if err := b.found(); err != nil {
		return err
	}
	return b.store.Index.Verify(b.ctx)
}

func (b *rebuilding) fillRelease(name string) error {
	out := RebuiltRelease{Name: name, Problem: b.problems[name], As: b.written[name]}
	s := b.snapshots[name]
	created := time.Now().UTC()
	if s != nil {
		created, out.Images = s.Created, len(s.Names)
	}
	if err := b.store.Index.Revive(name, created); err != nil {
		return err
	}
	if s != nil {
		release, err := b.store.Index.Open(name)
		if err != nil {
			return err
		}
		defer release.Close()
		r := restoring{blobs: b.store.Blobs, index: b.store.Index, release: release, fresh: true}
		if err := r.whole(b.ctx, s); err != nil {
			return fmt.Errorf("release %s: %w", name, err)
		}
		out.Missing = r.missing
	}
	b.out.Releases = append(b.out.Releases, out)
	return nil
}

// found links the manifests that no snapshot names, so that they can be looked
// at, and so that nobody takes them for garbage.
func (b *rebuilding) found() error {
	loose, err := b.unnamed()
	if err != nil || len(loose) == 0 {
		return err
	}
	if err := b.store.Index.Revive(Found, time.Now().UTC()); err != nil {
		return err
	}
	release, err := b.store.Index.Open(Found)
	if err != nil {
		return err
	}
	defer release.Close()
	r := restoring{blobs: b.store.Blobs, index: b.store.Index, release: release, fresh: true}
	r.each(b.ctx, len(loose), func(i int) error {
		l := learning{blobs: b.store.Blobs, index: b.store.Index, facts: make(index.Facts)}
		if err := l.learn(loose[i], 0); err != nil {
			return nil // gone this moment
		}
		return release.LinkManifest(Unnamed, loose[i], l.facts, l.lacks(loose[i])...)
	})
	if r.failed != nil {
		return r.failed
	}
	b.out.Unnamed = len(loose)
	for _, known := range b.out.Releases {
		if known.Name == Found {
			return nil
		}
	}
	b.out.Releases = append(b.out.Releases, RebuiltRelease{Name: Found, Images: len(loose), As: time.Now().UTC()})
	return nil
}

// lacks lists what a manifest, or one below it, can do without and the store
// has not.
func (l *learning) lacks(d digest.Digest) (all []digest.Digest) {
	m := l.facts[d]
	if m == nil {
		return nil
	}
	for _, ref := range m.Refs {
		if _, err := l.blobs.Stat(ref.Digest); ref.Optional && hasNo(err) {
			all = append(all, ref.Digest)
			continue
		}
		if ref.Role == manifest.Child && ref.Digest != d {
			all = append(all, l.lacks(ref.Digest)...)
		}
	}
	return all
}

// unnamed lists the manifests in the store that no release has, and that belong
// to no other.
func (b *rebuilding) unnamed() ([]digest.Digest, error) {
	loose, below := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	for info, err := range b.store.Blobs.All() {
		if b.ctx.Err() != nil {
			return nil, b.ctx.Err()
		}
		if err != nil || info.Size > manifest.MaxSize || b.store.Index.KnowsManifest(info.Digest) || !b.mayBeManifest(info.Digest) {
			continue
		}
		m, err := readManifest(b.store.Blobs, info.Digest)
		if err != nil || m.ArtifactType == seal.ArtifactType {
			continue // that is a sealed release's document
		}
		loose[info.Digest] = true
		for _, ref := range m.Refs {
			if ref.Role == manifest.Child {
				below[ref.Digest] = true
			}
		}
	}
	var all []digest.Digest
	for d := range loose {
		if !below[d] {
			all = append(all, d)
		}
	}
	return all, nil
}

// mayBeManifest looks at a blob's first byte: most are layers.
func (b *rebuilding) mayBeManifest(d digest.Digest) bool {
	f, err := b.store.Blobs.Open(d)
	if err != nil {
		return false
	}
	defer f.Close()
	var first [1]byte
	_, err = io.ReadFull(f, first[:])
	return err == nil && (first[0] == '{' || first[0] == ' ' || first[0] == '\n' || first[0] == '\t' || first[0] == '\r')
}
