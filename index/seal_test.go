package index

import (
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestSealIsDurable(t *testing.T) {
	r := newRelease(t)
	ok(t, r.AddHistory("app", "1", dg("a")))
	document := dg("document")
	got, err := r.Seal(func() (digest.Digest, error) {
		if err := r.Tag("app", "1", dg("a")); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("a change while the document is made: %v", err)
		}
		return document, nil
	})
	ok(t, err)
	equal(t, "digest", got, document)
	r = reopen(t, r)
	equal(t, "sealed", r.Sealed(), document)
	equal(t, "what came before", len(r.History("app", "1")), 1)
	if err := r.Tag("app", "1", dg("a")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a change: %v", err)
	}
	got, err = r.Seal(func() (digest.Digest, error) { t.Error("made again"); return "", nil })
	ok(t, err)
	equal(t, "sealed again", got, document)
	all, err := r.db.Releases()
	ok(t, err)
	equal(t, "listed", all[0].Document, document)
	ok(t, r.db.Verify(t.Context()))
}

// Where the document or the record cannot be written, the release stays open.
func TestSealFails(t *testing.T) {
	r := newRelease(t)
	fault := errors.New("fault put there by a test")
	if _, err := r.Seal(func() (digest.Digest, error) { return "", fault }); !errors.Is(err, fault) {
		t.Errorf("no document: %v", err)
	}
	if _, err := r.Seal(func() (digest.Digest, error) { return "sha256:12", nil }); err == nil {
		t.Error("a bad digest is taken")
	}
	write := r.db.writer.commit
	r.db.writer.commit = func(records) error { return fault }
	if _, err := r.Seal(func() (digest.Digest, error) { return dg("document"), nil }); !errors.Is(err, fault) {
		t.Errorf("no record: %v", err)
	}
	r.db.writer.commit = write
	equal(t, "sealed", r.Sealed(), "")
	ok(t, r.Tag("app", "1", dg("a")))
	r = reopen(t, r)
	equal(t, "sealed, opened again", r.Sealed(), "")
}

// Of many who seal at once one does it.
func TestSealAtOnce(t *testing.T) {
	r := newRelease(t)
	var group sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		group.Go(func() {
			d, err := r.Seal(func() (digest.Digest, error) {
				mu.Lock()
				defer mu.Unlock()
				made++
				return dg("document"), nil
			})
			if err != nil && !errors.Is(err, syscall.EBUSY) || err == nil && d != dg("document") {
				t.Errorf("%s, %v", d, err)
			}
		})
	}
	group.Wait()
	equal(t, "documents made", made, 1)
}
