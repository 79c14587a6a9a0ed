// Package sealed makes the document of a release, and keeps it in the store.
//
// A release is sealed when its document, of package seal, is a blob of the store
// and its record in the index has the digest: in this order, so that a crash
// leaves either a release that is open as before, or one that is sealed.
//
// Promised: a release that is sealed was whole then. Each name is there with all
// that its image needs, but for what images can do without, and the document
// says what that is. The digest depends on nothing but the content: not on the
// store, the release's name, the time, or the order of the pushes.
package sealed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/seal"
	"github.com/regfs/regfs/store"
)

// Seal seals a release, and returns the digest of its document. One that is not
// whole is an [*IncompleteError]. One that is sealed stays as it is; if the
// document is not in the store any more, it comes back.
func Seal(st *store.Store, r *index.Release) (digest.Digest, error) {
	// No release names the document before the record does.
	pins := st.Blobs.NewPins("being sealed: " + r.Name)
	defer pins.Release()
	d, err := r.Seal(func() (digest.Digest, error) {
		// What cannot be brought to the disk is lost, and then missing.
		if err := st.Blobs.Flush(); err != nil {
			return "", err
		}
		document, err := Compose(st, r)
		if err != nil {
			return "", err
		}
		return keep(st.Blobs, pins, document)
	})
	if err != nil {
		return "", fmt.Errorf("seal %s: %w", r.Name, err)
	}
	return d, restore(st, pins, r)
}

// keep makes a blob of a document, durably.
func keep(blobs *cas.Store, pins *cas.Pins, document []byte) (digest.Digest, error) {
	d := digest.FromBytes(document)
	pins.Add(d)
	if _, err := load(blobs, d); err == nil {
		return d, promise(blobs, d)
	} else if corrupt := new(cas.CorruptError); errors.As(err, &corrupt) {
		if _, err := blobs.Quarantine(d); err != nil && !errors.Is(err, cas.ErrWhole) {
			return "", err
		}
	}
	w, err := blobs.NewWriter()
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := w.File().Write(document); err != nil {
		return "", err
	}
	if _, err := w.Commit(d); err != nil {
		return "", err
	}
	return d, promise(blobs, d)
}

// promise makes a document durable.
func promise(blobs *cas.Store, d digest.Digest) error {
	if err := blobs.Flush(); err != nil {
		return err
	}
	return blobs.Lost(d)
}

// load reads a document, and believes it only if it is what its digest says.
func load(blobs *cas.Store, d digest.Digest) ([]byte, error) {
	f, err := blobs.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, seal.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, &cas.CorruptError{Want: d, Got: got}
	}
	return data, nil
}

// restore brings the document of a sealed release back, if it has to.
func restore(st *store.Store, pins *cas.Pins, r *index.Release) error {
	d := r.Sealed()
	if _, err := load(st.Blobs, d); err == nil {
		return nil
	}
	document, err := Compose(st, r)
	if err == nil && digest.FromBytes(document) != d {
		err = fmt.Errorf("its document %s is not in the store any more, and its names are not what they were", d)
	}
	if err == nil {
		_, err = keep(st.Blobs, pins, document)
	}
	if err != nil {
		return fmt.Errorf("seal %s: %w", r.Name, err)
	}
	return nil
}

// A Reading is the document of a release, and what is wrong with the release,
// as far as it shows without reading layers. It goes through a socket as JSON.
type Reading struct {
	// Sealed is the document's digest; empty if the release is open, and this
	// the document that it would be sealed with now.
	Sealed   digest.Digest `json:"sealed,omitempty"`
	Document []byte        `json:"document,omitempty"` // nil if there is none
	Problems []string      `json:"problems,omitempty"` // with the document, and with the names
	Lacks    []string      `json:"lacks,omitempty"`    // blobs that are not there, or damaged
}

// Err is an [*IncompleteError] if anything is wrong with the release.
func (r Reading) Err(release string) error {
	if all := slices.Concat(r.Problems, r.Lacks); len(all) > 0 {
		return &IncompleteError{Release: release, Names: all}
	}
	return nil
}

// Read returns the document of a release.
func Read(st *store.Store, r *index.Release) (Reading, error) {
	reading := Reading{Sealed: r.Sealed()}
	composed, err := Compose(st, r)
	var incomplete *IncompleteError
	switch {
	case errors.As(err, &incomplete):
		reading.Problems, reading.Lacks = incomplete.Names, incomplete.Blobs
	case err != nil:
		return reading, err
	}
	if reading.Sealed == "" {
		reading.Document = composed
		return reading, nil
	}
	if composed != nil && digest.FromBytes(composed) != reading.Sealed {
		reading.Problems = append(reading.Problems, "its names in the index are not those it was sealed with")
		composed = nil
	}
	reading.Document, err = load(st.Blobs, reading.Sealed)
	if err != nil {
		reading.Document = composed
		reading.Problems = append(reading.Problems, fmt.Sprintf("its document %s: %s; \"regfs release seal %s\" brings it back if it can",
			reading.Sealed, reason(err), r.Name))
	}
	return reading, nil
}

func reason(err error) string {
	var corrupt *cas.CorruptError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "not in the store"
	case errors.As(err, &corrupt):
		return "damaged: " + corrupt.Error()
	}
	return err.Error()
}

// An IncompleteError says why a release is no whole one. Its message is bounded,
// the lists are not.
type IncompleteError struct {
	Release string
	Names   []string // what is wrong with its names
	Blobs   []string // what its images need and the store has not
}

func (e *IncompleteError) Error() string {
	const most = 10
	all := slices.Concat(e.Names, e.Blobs)
	text := strings.Join(all[:min(most, len(all))], "; ")
	if more := len(all) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return "release " + e.Release + " is not whole: " + text
}
