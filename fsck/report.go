package fsck

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// A Kind is what a finding is about.
type Kind string

// The kinds, in the order in which they are told.
const (
	Index      Kind = "index"      // records of the index are missing, or cannot be read
	Facts      Kind = "facts"      // the index does not know what a manifest needs, though it is there
	Missing    Kind = "missing"    // a release needs a blob that is not there
	Damaged    Kind = "damaged"    // a blob is not what its digest says
	Unreadable Kind = "unreadable" // a blob cannot be read
	Link       Kind = "link"       // a release names a blob that is not there, and needs it for nothing
	Sealed     Kind = "sealed"     // a sealed release is not what was sealed, or its document is not there
	Release    Kind = "release"    // a release that is not whole, or a directory of one that is not there
	Mode       Kind = "mode"       // a blob that somebody may write to, or that is another user's
	Size       Kind = "size"       // a manifest states a wrong size; its blob is whole
	Temporary  Kind = "temporary"  // a file that was left half-written
	Foreign    Kind = "foreign"    // a file among the blobs that is none
)

var kinds = []Kind{Index, Facts, Missing, Damaged, Unreadable, Link, Sealed, Release, Mode, Size, Temporary, Foreign}

// A Finding is one thing that is not as it should be.
type Finding struct {
	Kind Kind `json:"kind"`
	// Damage says that something is lost or wrong. What is not may be left alone.
	Damage  bool   `json:"damage"`
	Object  string `json:"object"` // a digest, a release, or a path in the store
	Problem string `json:"problem"`
	// Affected are the images that need the blob.
	Affected []Affected `json:"affected,omitempty"`
	// Repaired says what a repair has done about it; empty if nothing.
	Repaired string `json:"repaired,omitempty"`
	// Whole says that after it all is well: nothing is left to do.
	Whole bool `json:"whole,omitempty"`

	flaw cas.Flaw // of a file
}

// Affected are images of one release.
type Affected struct {
	Release string   `json:"release"`
	Images  []string `json:"images"`
}

// A Report is what a check has found.
type Report struct {
	Releases int   `json:"releases"`
	Images   int   `json:"images"`
	Blobs    int   `json:"blobs"` // that releases need
	Bytes    int64 `json:"bytes"` // of those
	// Read is what a scan has read.
	Read      int       `json:"read,omitempty"`
	ReadBytes int64     `json:"read_bytes,omitempty"`
	Findings  []Finding `json:"findings"`
}

// Damage says how many findings are damage with which something is left to do.
func (r *Report) Damage() int {
	n := 0
	for _, f := range r.Findings {
		if f.Damage && !f.Whole {
			n++
		}
	}
	return n
}

// Repaired says how many findings a repair has done something about.
func (r *Report) Repaired() int {
	n := 0
	for _, f := range r.Findings {
		if f.Repaired != "" {
			n++
		}
	}
	return n
}

// ErrDamage says that a check has found damage.
var ErrDamage = errors.New("damage was found")

// Err is ErrDamage if something is damaged and not repaired.
func (r *Report) Err() error {
	if n := r.Damage(); n > 0 {
		return fmt.Errorf("fsck: %d of the findings are damage, and not all is mended: %w", n, ErrDamage)
	}
	return nil
}

// Verdict is the report in a few words.
func (r *Report) Verdict() string {
	if len(r.Findings) == 0 {
		return "clean"
	}
	text := fmt.Sprintf("%d findings", len(r.Findings))
	if n := r.Damage(); n > 0 {
		text += fmt.Sprintf(", %d of them damage", n)
	}
	if n := r.Repaired(); n > 0 {
		text += fmt.Sprintf(", %d repaired", n)
	}
	return text
}

// PutAside says whether a repair has taken a blob away.
func (r *Report) PutAside() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return strings.HasPrefix(f.Repaired, putAsideTo)
	})
}

// Affected lists the images that damage concerns, by release.
func (r *Report) Affected() []Affected {
	all := make(map[string][]string)
	for _, f := range r.Findings {
		if !f.Damage || f.Whole {
			continue
		}
		for _, a := range f.Affected {
			all[a.Release] = append(all[a.Release], a.Images...)
		}
	}
	return affected(all)
}

func affected(images map[string][]string) []Affected {
	var out []Affected
	for _, release := range slices.Sorted(maps.Keys(images)) {
		list := slices.Clone(images[release])
		slices.Sort(list)
		out = append(out, Affected{release, slices.Compact(list)})
	}
	return out
}

// add enters a finding. What is affected by one object is told once.
func (r *Report) add(f Finding) {
	for i, old := range r.Findings {
		if old.Kind == f.Kind && old.Object == f.Object && old.Problem == f.Problem {
			r.Findings[i].Affected = append(old.Affected, f.Affected...)
			return
		}
	}
	r.Findings = append(r.Findings, f)
}

// Merge enters what a scan has found, and the images that it concerns, which
// only the index knows: see [Affects]. What the check had found already is not
// told twice.
func (r *Report) Merge(scan Result, affects map[digest.Digest][]Affected) {
	r.Read, r.ReadBytes = scan.Blobs, scan.Bytes
	for _, b := range scan.Bad {
		kind := Damaged
		if b.Unreadable {
			kind = Unreadable
		}
		known := slices.ContainsFunc(r.Findings, func(f Finding) bool {
			return f.Object == b.Digest.String() && (f.Kind == Damaged || f.Kind == Unreadable)
		})
		if !known {
			r.add(Finding{Kind: kind, Damage: true, Object: b.Digest.String(), Problem: b.Problem, Affected: affects[b.Digest]})
		}
	}
	r.sort()
}

// Mended enters what was done about the blobs.
func (r *Report) Mended(outcomes map[digest.Digest]Outcome) {
	for i, f := range r.Findings {
		if o, ok := outcomes[digest.Digest(f.Object)]; ok && f.Repaired == "" && (f.Kind == Damaged || f.Kind == Unreadable) {
			r.Findings[i].Repaired, r.Findings[i].Whole = o.Done, o.Whole
		}
	}
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)),
			cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Problem, b.Problem))
	})
}

// String is a finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Object, f.Problem)
	if len(f.Affected) > 0 {
		b.WriteString("; needed by " + Enumerate(f.Affected))
	}
	if f.Repaired != "" {
		b.WriteString(" [" + f.Repaired + "]")
	}
	return b.String()
}

// Enumerate names a few images, and counts the others.
func Enumerate(all []Affected) string {
	const most = 3
	var parts []string
	named, more := 0, 0
	for _, a := range all {
		n := max(0, min(len(a.Images), most-named))
		named, more = named+n, more+len(a.Images)-n
		if n > 0 {
			parts = append(parts, a.Release+" "+strings.Join(a.Images[:n], ", "))
		}
	}
	text := strings.Join(parts, "; ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
