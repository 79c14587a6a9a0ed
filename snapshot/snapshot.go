// Package snapshot keeps a release's names in a file beside the release, for the
// day when the index is lost.
//
// A snapshot is what the release was when it was taken: its document, of
// package seal, and what else its export shows. It is never read while the index
// is well.
package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/store"
)

// A Snapshot is what is to be known of a release.
type Snapshot struct {
	Created time.Time
	Sealed  digest.Digest // of the document that it was sealed with; empty if it is open
	// Changes is how often the index had been changed when the snapshot was
	// taken: an index that has been changed less often has lost something.
	Changes uint64
	Names   []seal.Name
	History []index.TagName
	Hidden  []index.Pair
}

// file is the JSON, which docs/format.md specifies.
type file struct {
	Created  time.Time       `json:"created"`
	Sealed   digest.Digest   `json:"sealed,omitempty"`
	Changes  uint64          `json:"changes"`
	Document json.RawMessage `json:"document"`
	History  []link          `json:"history,omitempty"`
	Hidden   []link          `json:"hidden,omitempty"`
}

type link struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest"`
}

// maxSize is well above that of a document with the history of its tags.
const maxSize = 4 * seal.MaxSize

// Take takes a snapshot of a release. It waits until what was changed is on the
// disk, the changes first of all that it counts: nothing may be in a snapshot
// that a power loss could take from the index. A manifest whose blob is not
// there has no place in it.
func Take(db *index.DB, r *index.Release, blobs *cas.Store) (*Snapshot, error) {
	changes, err := db.Changes()
	if err != nil {
		return nil, err
	}
	if err := r.Sync(); err != nil {
		return nil, err
	}
	names := r.Names()
	s := &Snapshot{Created: r.Created, Sealed: r.Sealed(), Changes: changes, History: names.History, Hidden: names.Hidden}
	for _, rev := range names.Revisions {
		info, err := blobs.Stat(rev.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := db.Manifest(rev.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n := seal.Name{Repository: rev.Repository, Digest: rev.Digest, MediaType: m.MediaType, Size: info.Size, Absent: rev.Absent}
		for _, n.Tag = range rev.Tags {
			s.Names = append(s.Names, n)
		}
		if len(rev.Tags) == 0 {
			s.Names = append(s.Names, n)
		}
	}
	return s, nil
}

// Save takes a snapshot of a release and writes it beside the release, in
// place of the one that was there.
func Save(st *store.Store, release string) error {
	r, err := st.Index.Open(release)
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := Take(st.Index, r, st.Blobs)
	if err == nil {
		err = s.write(filepath.Join(st.Dir, store.SnapshotFile(release)))
	}
	if err != nil {
		return fmt.Errorf("snapshot of release %s: %w", release, err)
	}
	return nil
}

func (s *Snapshot) write(name string) error {
	data, err := s.encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := store.WriteFile(name, data); err != nil {
		return err
	}
	return store.SyncDir(filepath.Dir(filepath.Dir(name))) // the release's directory may be new, too
}

// PutAside gives the snapshot of a release another name, which it returns; empty
// if there is none.
func PutAside(dir, release string) (name string, err error) {
	name = filepath.Join(store.ReleaseDir(release), "snapshot-"+time.Now().UTC().Format("20060102T150405.000000000Z")+".json")
	err = os.Rename(filepath.Join(dir, store.SnapshotFile(release)), filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("snapshot of release %s: %w", release, err)
	}
	return name, nil
}

func (s *Snapshot) encode() ([]byte, error) {
	document, err := seal.Encode(s.Names)
	if err != nil {
		return nil, err
	}
	f := file{Created: s.Created, Sealed: s.Sealed, Changes: s.Changes, Document: document}
	for _, h := range s.History {
		f.History = append(f.History, link{h.Repository, h.Tag, h.Digest})
	}
	for _, h := range s.Hidden {
		f.Hidden = append(f.Hidden, link{h.Repository, "", h.Digest})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // the document's bytes are to stay what they are
	err = e.Encode(f)
	return b.Bytes(), err
}

// Read reads the snapshot of a release; fs.ErrNotExist if there is none.
func Read(dir, release string) (*Snapshot, error) {
	f, err := os.OpenFile(filepath.Join(dir, store.SnapshotFile(release)), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("snapshot of release %s: %w", release, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("more than %d bytes", maxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot of release %s: %w", release, err)
	}
	s, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("snapshot of release %s: %w", release, err)
	}
	return s, nil
}

func decode(data []byte) (*Snapshot, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	s := &Snapshot{Created: f.Created, Sealed: f.Sealed, Changes: f.Changes}
	var err error
	if f.Sealed != "" {
		if err := f.Sealed.Validate(); err != nil {
			return nil, err
		}
	}
	if s.Names, err = seal.Decode(f.Document); err != nil {
		return nil, err
	}
	for _, l := range f.History {
		if err := l.check(true); err != nil {
			return nil, err
		}
		s.History = append(s.History, index.TagName{Repository: l.Repository, Tag: l.Tag, Digest: l.Digest})
	}
	for _, l := range f.Hidden {
		if err := l.check(false); err != nil {
			return nil, err
		}
		s.Hidden = append(s.Hidden, index.Pair{Repository: l.Repository, Digest: l.Digest})
	}
	return s, nil
}
