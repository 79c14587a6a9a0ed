package gc

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// An Amount is so many blobs of so many bytes.
type Amount struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (a *Amount) add(size int64) {
	a.Blobs++
	a.Bytes += size
}

// A Reason says why a blob stays. Of several the first counts.
type Reason string

// The reasons, in their order.
const (
	Needed   Reason = "needed"   // by the manifests of a release
	Uploaded Reason = "uploaded" // within the grace period; the detail says through which release
	Pinned   Reason = "pinned"   // somebody counts on it; the detail says who
	New      Reason = "new"      // it came after the run began
)

var order = []Reason{Needed, Uploaded, Pinned, New}

// Kept is what stays for one reason.
type Kept struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"`
	Amount
}

// A Release is what one release needs. What several need counts for each.
type Release struct {
	Name string `json:"name"`
	Amount
	// Only is what no other release needs: what would be to be removed without
	// this one.
	Only Amount `json:"only"`
}

// A Plan says what a run removes, and why it leaves the rest.
type Plan struct {
	Remove   Amount    `json:"remove"`
	Keep     []Kept    `json:"keep"`
	Releases []Release `json:"releases"` // the oldest first
	// How long it took to check the index, to read it, and to look at the store.
	Verify, Mark, Survey time.Duration `json:"-"`
}

// Plan looks at everything, and changes nothing.
func (r *Run) Plan(ctx context.Context) (*Plan, error) {
	p := new(Plan)
	if err := r.prepare(ctx, p); err != nil {
		return nil, err
	}
	begun := time.Now()
	defer func() { p.Survey = time.Since(begun) }()
	sizes := make(map[digest.Digest]int64)
	kept := make(map[Kept]*Amount)
	r.candidates = nil
	for place, err := range r.Blobs.Places() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		why, stays := r.why(place)
		if !stays {
			r.candidates = append(r.candidates, place)
		}
		switch {
		case place.Empty:
			continue
		case !stays:
			p.Remove.add(place.Size)
			continue
		}
		if why.Reason == Needed {
			sizes[place.Digest] = place.Size
		}
		if kept[why] == nil {
			kept[why] = new(Amount)
		}
		kept[why].add(place.Size)
	}
	p.Keep = sortKept(kept)
	p.Releases = r.releases(sizes)
	return p, nil
}

// why says why a blob stays, if it does.
func (r *Run) why(place cas.Place) (why Kept, stays bool) {
	if _, needed := r.mark.Needed(place.Digest); needed {
		return Kept{Reason: Needed}, true
	}
	if at, release, uploaded := r.mark.Uploaded(place.Digest); uploaded && r.begun.Sub(at) < r.Grace {
		return Kept{Reason: Uploaded, Detail: release}, true
	}
	if why, pinned := r.Blobs.Pinned(place.Digest); pinned {
		return Kept{Reason: Pinned, Detail: why}, true
	}
	if !place.Changed.Before(r.begun) {
		return Kept{Reason: New}, true
	}
	return Kept{}, false
}

func sortKept(kept map[Kept]*Amount) []Kept {
	all := []Kept{}
	for why, amount := range kept {
		why.Amount = *amount
		all = append(all, why)
	}
	slices.SortFunc(all, func(a, b Kept) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Reason), slices.Index(order, b.Reason)),
			cmp.Compare(a.Detail, b.Detail))
	})
	return all
}

// releases measures what each release needs of what the store has.
func (r *Run) releases(sizes map[digest.Digest]int64) []Release {
	all := []Release{}
	for _, needs := range r.mark.Releases() {
		release := Release{Name: needs.Release}
		for _, d := range needs.Blobs {
			size, there := sizes[d]
			if !there {
				continue
			}
			release.add(size)
			if only, _ := r.mark.Needed(d); only != "" {
				release.Only.add(size)
			}
		}
		all = append(all, release)
	}
	return all
}
