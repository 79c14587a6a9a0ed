package export

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
)

// ParsePlatform checks a platform: os/arch[/variant].
func ParsePlatform(text string) error {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") || strings.ContainsAny(text, " \t\n,") {
		return fmt.Errorf("platform %.100q: not of the form os/arch or os/arch/variant, such as linux/amd64", text)
	}
	return nil
}

// platforms restrict what an index needs.
//
// Of an index are kept the children that state a wanted platform, those that
// state none, and attestations of a child that is kept. The index itself is
// kept as it is, since its digest is what tags, signatures and other indexes
// name; so it becomes sparse, which registries and clients of a single platform
// do not mind. What is no index is taken as it is: its platform is in its
// config, and somebody has asked for the image.
type platforms struct {
	wanted      []string
	noReferrers bool
	release     *index.Release
	blobs       *cas.Store
}

func newPlatforms(s Selection, t *taking) *platforms {
	return &platforms{s.Platforms, s.NoReferrers, t.release, t.sizes.blobs}
}

// matches: without a variant any will do.
func (p *platforms) matches(platform string) bool {
	return slices.ContainsFunc(p.wanted, func(w string) bool {
		return platform == w || strings.Count(w, "/") == 1 && strings.HasPrefix(platform, w+"/")
	})
}

// restrict takes from a revision's needs what only other platforms need. It
// says whether something is left: false if the index has platforms, and none of
// those wanted is there.
func (p *platforms) restrict(rev *revision) bool {
	k := keeping{p, make(map[digest.Digest]bool), make(map[digest.Digest]bool), false, false}
	for _, need := range rev.needs {
		k.absent[need.Digest] = need.Absent
	}
	k.keep(rev.digest, 0)
	rev.needs = slices.DeleteFunc(slices.Clone(rev.needs), func(need index.Need) bool { return !k.kept[need.Digest] })
	rev.unknown = slices.DeleteFunc(slices.Clone(rev.unknown), func(d digest.Digest) bool { return !k.kept[d] })
	return k.found || !k.asked
}

// A keeping walks down from a manifest along what is wanted.
type keeping struct {
	*platforms
	kept   map[digest.Digest]bool
	absent map[digest.Digest]bool
	asked  bool // an index was met that names platforms
	found  bool // and a wanted one is there
}

func (k *keeping) keep(d digest.Digest, depth int) {
	if k.kept[d] {
		return
	}
	k.kept[d] = true
	m, err := k.release.Manifest(d)
	if err != nil || depth > index.MaxDepth {
		return // what it needs is unknown, which Take will say
	}
	var attestations []manifest.Ref
	for _, ref := range m.Refs {
		switch {
		case ref.Role != manifest.Child:
			k.kept[ref.Digest] = true
		case ref.Platform == "unknown/unknown":
			attestations = append(attestations, ref)
		case ref.Platform == "":
			k.keep(ref.Digest, depth+1)
		default:
			k.asked = true
			if k.matches(ref.Platform) {
				k.found = k.found || !k.absent[ref.Digest]
				k.keep(ref.Digest, depth+1)
			}
		}
	}
	if len(attestations) > 0 && !k.noReferrers {
		of := attested(k.blobs, d)
		for _, ref := range attestations {
			if about, ok := of[ref.Digest]; !ok || k.kept[about] {
				k.keep(ref.Digest, depth+1)
			}
		}
	}
}

// attested reads of an index which of its children its attestations, as
// BuildKit makes them, speak of. What cannot be read has none.
func attested(blobs *cas.Store, d digest.Digest) map[digest.Digest]digest.Digest {
	of := make(map[digest.Digest]digest.Digest)
	f, err := blobs.Open(d)
	if err != nil {
		return of
	}
	defer f.Close()
	var parsed v1.Index
	if json.NewDecoder(io.LimitReader(f, manifest.MaxSize)).Decode(&parsed) != nil {
		return of
	}
	for _, m := range parsed.Manifests {
		if about := m.Annotations["vnd.docker.reference.digest"]; about != "" {
			of[m.Digest] = digest.Digest(about)
		}
	}
	return of
}
