// Package verify checks what was handed over, without a store: a registry's
// storage directory, or the tar of one, full or a patch.
//
// Checked is that each blob has the content that its name says, each link
// points at what its place says, each tag at a manifest of its repository, and
// that whatever a manifest needs is there and linked, as a registry would look
// for it. In a patch, what its documents require counts as there; [Against]
// looks whether it is.
//
// What is read may be hostile: no path leads out of the directory, no symlink
// is followed, no tar member makes a file, and what is kept of a file is
// bounded. What a registry does not read (uploads, other files) is passed over.
package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/patch"
)

// A Report is what was found. Its JSON form is the output of
// "regfs verify --json": keys are never given a new meaning.
type Report struct {
	Blobs     int   `json:"blobs"` // manifests included
	Bytes     int64 `json:"bytes"` // of the blobs
	Manifests int   `json:"manifests"`
	Links     int   `json:"links"`
	Tags      int   `json:"tags"`
	Others    int   `json:"others"` // files that a registry does not read

	// Release is the digest of the release's document, if what was checked was
	// held against it.
	Release digest.Digest `json:"release,omitempty"`
	// Extra is what is there beside the release: tags and manifests of others.
	Extra []string `json:"extra,omitempty"`

	// Patch is there if what was checked is one.
	Patch *patch.Document `json:"patch,omitempty"`

	// Problems are sorted. There are none if all is well.
	Problems []Problem `json:"problems"`

	required []patch.Sum
}

// A Problem is one thing that is wrong.
type Problem struct {
	Object string `json:"object"` // a path, or an image
	What   string `json:"what"`
}

func (p Problem) String() string { return p.Object + ": " + p.What }

// Err is a [*DamageError] if there are problems.
func (r *Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return &DamageError{len(r.Problems)}
}

// A DamageError says that something is wrong; the report says what.
type DamageError struct{ Problems int }

func (e *DamageError) Error() string {
	if e.Problems == 1 {
		return "1 problem found"
	}
	return fmt.Sprintf("%d problems found", e.Problems)
}

func (r *Report) problem(object, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{object, fmt.Sprintf(format, args...)})
}

func (r *Report) sort() {
	slices.SortFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.What, b.What))
	})
	r.Problems = slices.Compact(r.Problems)
}

// Options say how to check.
type Options struct {
	// Digest, if given, is that of the document of the release that must be there.
	Digest digest.Digest
	// Exact: nothing else may be there.
	Exact bool

	// Progress, if given, is called with the bytes that were read since the
	// last call; it may be called by several goroutines at once.
	Progress func(bytes int64)
}

func (o Options) tell(n int64) {
	if o.Progress != nil {
		o.Progress(n)
	}
}

// done says whether somebody wants the work to end.
func done(ctx context.Context) error { return context.Cause(ctx) }
