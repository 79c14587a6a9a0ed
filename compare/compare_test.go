package compare

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dg(name string) digest.Digest { return digest.FromString(name) }

// push links an image whose layers have as many bytes as their names; there is
// no store. A layer in brackets is foreign, and absent.
func push(t testing.TB, r *index.Release, repo, tag, layers string) digest.Digest {
	t.Helper()
	m := &manifest.Manifest{MediaType: "application/vnd.oci.image.manifest.v1+json"}
	var absent []digest.Digest
	for _, name := range strings.Fields(layers) {
		ref := manifest.Ref{Digest: dg(name), Size: int64(len(name)), Role: manifest.Layer, Optional: name[0] == '['}
		if ref.Optional {
			absent = append(absent, ref.Digest)
		}
		m.Refs = append(m.Refs, ref)
	}
	d := dg("image of " + layers)
	ok(t, r.LinkManifest(repo, d, index.Facts{d: m}, absent...))
	if tag != "" {
		ok(t, r.Tag(repo, tag, d))
	}
	return d
}

func names(images []Image) string {
	var all []string
	for _, i := range images {
		name := i.Name()
		if i.Referrer {
			name += " (referrer)"
		}
		all = append(all, fmt.Sprintf("%s %d/%d", name, i.New.Bytes, i.Layers.Bytes))
	}
	return strings.Join(all, ", ")
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestReleasesAreComparedByName(t *testing.T) {
	db, err := index.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	ok(t, err)
	defer db.Close()
	open := func(name string) *index.Release {
		ok(t, db.Create(name))
		r, err := db.Open(name)
		ok(t, err)
		t.Cleanup(r.Close)
		return r
	}
	old, now := open("v1.0"), open("v1.1")
	for _, r := range []*index.Release{old, now} {
		push(t, r, "same", "1", "base same [foreign]")
	}
	push(t, old, "app", "1", "base app1")
	push(t, old, "app", "stable", "base app1")
	push(t, now, "app", "2", "base app22 base")
	push(t, now, "app", "stable", "base app22 base")
	push(t, old, "gone", "", "untagged")
	push(t, now, "same", "sha256-"+dg("image of base same [foreign]").Encoded()+".sig", "sig")
	push(t, now, "only", "here", "new-base app22")

	d := Releases(old, now)
	equal(t, "added", strings.ReplaceAll(names(d.Added), dg("image of base same [foreign]").Encoded(), "HEX"),
		"app:2 5/9, only:here 13/13, same:sha256-HEX.sig (referrer) 3/3")
	equal(t, "removed", strings.ReplaceAll(names(d.Removed), dg("image of untagged").Encoded(), "HEX"), "app:1 0/8, gone@sha256:HEX 0/8")
	equal(t, "changed", names(d.Changed), "app:stable 5/9")
	equal(t, "as before", d.Same, 1)
	equal(t, "was", d.Changed[0].Was, dg("image of base app1"))
	equal(t, "new layers", d.New, Layers{3, 5 + 8 + 3})
	equal(t, "shared layers", d.Shared, Layers{2, 4 + 4})
	equal(t, "layers that are gone", d.Gone, Layers{2, 4 + 8})
	equal(t, "they differ", d.Differ(), true)

	same := Releases(now, now)
	equal(t, "a release differs from itself", same.Differ(), false)
	equal(t, "new layers of itself", same.New.Count+same.Gone.Count, 0)
	equal(t, "images of itself", same.Same, 5)
}
