package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// releaseRecord is what a release's own record says.
type releaseRecord struct {
	Created time.Time `json:"created"`
	// Removing: its records are going, and it is there no more.
	Removing bool `json:"removing,omitempty"`
	// Making: its records are on their way, and it is not there yet.
	Making bool `json:"making,omitempty"`
	// Sealed is the digest of its document, if it is sealed.
	Sealed digest.Digest `json:"sealed,omitempty"`
	// Renamed is the name that it has now, if it is not there any more. Its
	// records under this one are going.
	Renamed string `json:"renamed,omitempty"`
}

// A standing says whether a release that has a record is there.
type standing int

const (
	there standing = iota
	making
	removing
	renamed // it has another name
)

// Create makes an empty release; fs.ErrExist if there is one of that name.
func (db *DB) Create(name string) error {
	r, err := db.Begin(name)
	if err != nil {
		return err
	}
	return r.Enter(nil)
}

// Revive makes a release that was there before, with the time at which it was
// made. One that is there stays as it is.
func (db *DB) Revive(name string, created time.Time) error {
	if err := ValidRelease(name); err != nil {
		return err
	}
	db.creating.Lock()
	defer db.creating.Unlock()
	if _, err := db.release(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	value, err := json.Marshal(releaseRecord{Created: created.UTC()})
	if err != nil {
		return err
	}
	return db.writer.wait(db.writer.enqueue(records{put(releaseKey(name), value)}))
}

// A releaseError says in a user's words what fs's error says of files.
type releaseError struct {
	message string
	kind    error
}

func (e *releaseError) Error() string { return e.message }
func (e *releaseError) Unwrap() error { return e.kind }

// Info describes a release without opening it.
type Info struct {
	Name    string
	Created time.Time
	// Document is the digest of its document, if it was sealed when this was
	// read; see [Release.Sealed].
	Document digest.Digest
}

// Releases lists all releases, the oldest first.
func (db *DB) Releases() ([]Info, error) {
	all, _, err := db.listReleases()
	return all, err
}

// Removing lists the releases of which [DB.RemoveRelease] has not removed all,
// since it was interrupted.
func (db *DB) Removing() ([]Info, error) {
	_, all, err := db.listReleases()
	return all, err
}

// HasRecord says whether a name is a release's, or that of one that is on its
// way: being made, renamed or removed.
func (db *DB) HasRecord(name string) (bool, error) {
	_, _, err := db.record(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (db *DB) listReleases() (all, going []Info, err error) {
	err = db.scan([]byte{keyRelease}, func(key, value []byte) error {
		info, stands, err := decodeRelease(string(key[1:]), value)
		switch {
		case err != nil:
			return err
		case stands == removing:
			going = append(going, info)
		case stands == there:
			all = append(all, info)
		}
		return nil
	})
	slices.SortFunc(all, byAge)
	slices.SortFunc(going, byAge)
	return all, going, err
}

func byAge(a, b Info) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func decodeRelease(name string, value []byte) (info Info, stands standing, err error) {
	var record releaseRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return Info{}, there, fmt.Errorf("index: release %s: %w", name, err)
	}
	switch {
	case record.Removing:
		stands = removing
	case record.Renamed != "":
		stands = renamed
	case record.Making:
		stands = making
	}
	return Info{Name: name, Created: record.Created, Document: record.Sealed}, stands, nil
}

// record reads a release's own record; fs.ErrNotExist if there is none.
func (db *DB) record(name string) (info Info, stands standing, err error) {
	value, err := db.get(releaseKey(name))
	if err != nil {
		return Info{}, there, err
	}
	return decodeRelease(name, value)
}

func (db *DB) release(name string) (Info, error) {
	info, stands, err := db.record(name)
	if err == nil && stands == renamed {
		return Info{}, halfRenamed(name)
	}
	if stands != there || errors.Is(err, fs.ErrNotExist) {
		return Info{}, noRelease(name)
	}
	return info, err
}

func halfRenamed(name string) error {
	return &releaseError{fmt.Sprintf("release %s is half renamed; what is left is done when the store is opened the next time", name), syscall.EBUSY}
}

func noRelease(name string) error {
	return &releaseError{fmt.Sprintf("there is no release %s; \"regfs release ls\" lists those there are", name), fs.ErrNotExist}
}
