package index

import (
	"bytes"
	"errors"
	"fmt"
)

var errPart = errors.New("index: a part of a release takes no change")

// OpenPart returns a release in which there are some repositories only, as they
// are on the disk: what is said of a tag or a manifest in them is right, and
// nothing is said of blobs, but that they are needed. It is for reading names of
// many releases, which takes a twentieth of opening them. All records are
// counted, as when the whole is opened. Changes are refused, and none is seen
// that comes later.
func (db *DB) OpenPart(name string, repositories []string) (*Release, error) {
	if err := ValidRelease(name); err != nil {
		return nil, err
	}
	_ = db.writer.settle() // if it cannot write, its callers are told
	info, err := db.release(name)
	if err != nil {
		return nil, err
	}
	r := &Release{Info: info, db: db, users: 1, begun: true, part: make(map[string]bool)}
	for _, name := range repositories {
		r.part[name] = true
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("release %s: %w", name, err)
	}
	r.broken = errPart
	return r, nil
}

// isOfPart says whether a record, whose key begins with its kind, is one of a
// repository that is read.
func (r *Release) isOfPart(key []byte) bool {
	if len(key) == 0 {
		return true // loadRecord says what is wrong with it
	}
	switch key[0] {
	case keyLayer, keyRevision, keyTag, keyTagIndex:
		repo, _, _ := bytes.Cut(key[1:], []byte{0})
		return r.part[string(repo)]
	case keyBlob, keyDir:
		return false
	}
	return true
}
