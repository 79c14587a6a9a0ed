package export

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/layout"
)

// A zoo is a release with images of all kinds.
type zoo struct {
	*fixture
	app, amd, arm, index, attestation digest.Digest
}

func newZoo(t *testing.T) *zoo {
	t.Helper()
	z := &zoo{fixture: setup(t)}
	base := z.put("base")
	app := image(z.put("config app"), base)
	z.app = z.push("library/app", "1", app)
	z.push("library/app", "stable", app)
	z.push("library/app", "2", image(z.put("config app 2"), base, z.put("app 2")))
	z.push("library/app", tagOf(z.app)+".sig", image(z.put("config sig"), z.put("signature")))
	sbom := z.push("library/app", "", artifact(z.put("{}"), z.put("sbom"), lost(app)))
	z.push("library/app", "", artifact(z.put("{}"), z.put("sbom's signature"), v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: sbom, Size: 1}))
	z.push("quay.io/team/x", "1", image(z.put("config x")))

	amd, arm := image(z.put("config amd"), base, z.put("amd")), image(z.put("config arm"), base, z.put("arm"))
	z.amd, z.arm = z.push("multi", "", amd), z.push("multi", "", arm)
	attestation := image(z.put("config attestation"), z.put("attestation"))
	z.attestation = z.push("multi", "", attestation)
	about := child(attestation, "unknown")
	about.Platform.OS = "unknown"
	about.Annotations = map[string]string{"vnd.docker.reference.digest": z.amd.String()}
	armChild := child(arm, "arm64")
	armChild.Platform.Variant = "v8"
	z.index = z.push("multi", "1", list(child(amd, "amd64"), armChild, about))
	return z
}

func tagOf(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// artifact says something of a subject.
func artifact(config, layer, subject v1.Descriptor) string {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/x", Config: config, Layers: []v1.Descriptor{layer}}
	m.SchemaVersion = 2
	subject.MediaType = v1.MediaTypeImageManifest
	m.Subject = &subject
	return encode(m)
}

func references(t *testing.T, texts ...string) (refs []imagelist.Reference) {
	t.Helper()
	for _, text := range texts {
		ref, err := imagelist.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	return refs
}

// part takes a selection, and returns which blobs it has, by their content.
func (z *zoo) part(t *testing.T, s Selection) (*Inventory, func(content string) bool) {
	t.Helper()
	inv, err := TakePart(z.release, z.blobs, z.blobs.NewPins("test"), s)
	if err != nil {
		t.Fatal(err)
	}
	return inv, func(content string) bool {
		return slices.ContainsFunc(inv.Files, func(f File) bool { return f.Blob == digest.FromString(content) })
	}
}

func TestSelection(t *testing.T) {
	z := newZoo(t)
	everything := []string{"config app", "config app 2", "signature", "sbom", "sbom's signature", "config x", "amd", "arm", "attestation", "base"}
	for name, c := range map[string]struct {
		selection Selection
		has       []string // of everything
		tags      []string
	}{
		"all": {Selection{}, everything, []string{"library/app:1", "library/app:2", "library/app:stable", "library/app:" + tagOf(z.app) + ".sig", "multi:1", "quay.io/team/x:1"}},
		"without referrers": {Selection{NoReferrers: true}, []string{"config app", "config app 2", "config x", "amd", "arm", "attestation", "base"},
			[]string{"library/app:1", "library/app:2", "library/app:stable", "multi:1", "quay.io/team/x:1"}},
		"one image": {Selection{Images: references(t, "app:2")}, []string{"config app 2", "base"}, []string{"library/app:2"}},
		"a signed one": {Selection{Images: references(t, "docker.io/library/app:1")}, []string{"config app", "signature", "sbom", "sbom's signature", "base"},
			[]string{"library/app:1", "library/app:" + tagOf(z.app) + ".sig"}},
		"a signed one, bare": {Selection{Images: references(t, "app:1"), NoReferrers: true}, []string{"config app", "base"}, []string{"library/app:1"}},
		"by digest":          {Selection{Images: references(t, "app@"+z.app.String()), NoReferrers: true}, []string{"config app", "base"}, nil},
		"by tag and digest":  {Selection{Images: references(t, "app:1@"+z.app.String()), NoReferrers: true}, []string{"config app", "base"}, []string{"library/app:1"}},
		"a listed referrer": {Selection{Images: references(t, "app:"+tagOf(z.app)+".sig"), NoReferrers: true}, []string{"signature"},
			[]string{"library/app:" + tagOf(z.app) + ".sig"}},
		"with its host":   {Selection{Images: references(t, "quay.io/team/x:1")}, []string{"config x"}, []string{"quay.io/team/x:1"}},
		"a platform":      {Selection{Images: references(t, "multi:1"), Platforms: []string{"linux/arm64"}}, []string{"arm", "base"}, []string{"multi:1"}},
		"an attested one": {Selection{Images: references(t, "multi:1"), Platforms: []string{"linux/amd64"}}, []string{"amd", "attestation", "base"}, []string{"multi:1"}},
		"bare platform":   {Selection{Images: references(t, "multi:1"), Platforms: []string{"linux/amd64"}, NoReferrers: true}, []string{"amd", "base"}, []string{"multi:1"}},
		"a variant":       {Selection{Images: references(t, "multi:1"), Platforms: []string{"linux/arm64/v8"}}, []string{"arm", "base"}, []string{"multi:1"}},
		"two platforms":   {Selection{Images: references(t, "multi:1"), Platforms: []string{"linux/arm64/v8", "linux/amd64"}}, []string{"amd", "arm", "attestation", "base"}, []string{"multi:1"}},
		"platform of all": {Selection{Platforms: []string{"linux/arm64"}}, []string{"config app", "config app 2", "signature", "sbom", "sbom's signature", "config x", "arm", "base"}, []string{"library/app:1", "library/app:2", "library/app:stable", "library/app:" + tagOf(z.app) + ".sig", "multi:1", "quay.io/team/x:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			inv, has := z.part(t, c.selection)
			z.must(inv.Err())
			for _, content := range everything {
				if has(content) != slices.Contains(c.has, content) {
					t.Errorf("blob %q is there: %v", content, has(content))
				}
			}
			var tags []string
			for tag := range inv.tags() {
				tags = append(tags, tag)
			}
			slices.Sort(tags)
			slices.Sort(c.tags)
			if !slices.Equal(tags, c.tags) {
				t.Errorf("tags %q, want %q", tags, c.tags)
			}
			for _, f := range inv.Files { // whole: each link's blob is there
				if f.Link != "" && !slices.ContainsFunc(inv.Files, func(b File) bool { return b.Blob == f.Link }) {
					t.Errorf("%s is there without its blob", f.Path)
				}
			}
		})
	}
	t.Run("the index keeps its digest", func(t *testing.T) {
		inv, _ := z.part(t, Selection{Platforms: []string{"linux/amd64"}})
		for path, want := range map[string]bool{
			layout.BlobDataPath(z.index):                            true,
			layout.RevisionLinkPath("multi", z.index):               true,
			layout.RevisionLinkPath("multi", z.amd):                 true,
			layout.RevisionLinkPath("multi", z.arm):                 false,
			layout.LayerLinkPath("multi", digest.FromString("arm")): false,
		} {
			if got := slices.ContainsFunc(inv.Files, func(f File) bool { return f.Path == path }); got != want {
				t.Errorf("%s is there: %v", path, got)
			}
		}
	})
}

func TestSelectionOfWhatIsNotThere(t *testing.T) {
	z := newZoo(t)
	for name, c := range map[string]struct {
		s    Selection
		says []string
	}{
		"tag":        {Selection{Images: references(t, "app:1", "app:9", "none")}, []string{"not in the release: app:9, none:latest"}},
		"moved":      {Selection{Images: references(t, "app:2@"+z.app.String())}, []string{"not in the release: app:2@"}},
		"digest":     {Selection{Images: references(t, "app@"+z.index.String())}, []string{"not in the release: app@"}},
		"platform":   {Selection{Platforms: []string{"linux/s390x"}}, []string{"not for linux/s390x: multi:1"}},
		"other host": {Selection{Images: references(t, "gcr.io/team/x:1")}, []string{"gcr.io/team/x:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := TakePart(z.release, z.blobs, z.blobs.NewPins("test"), c.s)
			var missing *SelectionError
			if !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("Take: %v", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
		})
	}
}

func TestParsePlatform(t *testing.T) {
	for text, good := range map[string]bool{"linux/amd64": true, "linux/arm/v7": true, "linux": false, "linux/": false, "a/b/c/d": false, "": false, "linux/a b": false} {
		if err := ParsePlatform(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPlan(t *testing.T) {
	f := setup(t)
	base := f.put(strings.Repeat("b", 1000))
	old := f.newRelease("v0")
	f.pushTo(old, "a", "1", image(f.put("config a"), base))
	f.pushTo(old, "b", "1", image(f.put("config b"), base))
	f.pushTo(old, "c", "1", image(f.put("config c"), base))
	before := Take(old, f.blobs)

	t.Run("an ordinary bump", func(t *testing.T) {
		r := f.newRelease("w1")
		f.pushTo(r, "a", "2", image(f.put("config a2"), base, f.put(strings.Repeat("x", 3000))))
		f.pushTo(r, "new", "1", image(f.put("config new"), f.put(strings.Repeat("n", 2000))))
		f.pushTo(r, "b", "1", image(f.put("config b"), base))
		inv := Take(r, f.blobs)
		plan := inv.Over(BaseOfAll(before)).Plan()
		if plan.Rebuilt != nil || len(plan.Images) != 2 || plan.Images[0].Name != "a:2" || plan.Images[1].Name != "new:1" {
			t.Errorf("%+v", plan)
		}
		if plan.Blobs[0].Bytes != 3000 || plan.Blobs[0].Role != Layer || plan.Requires.Bytes < 1000 || plan.RemovedTags[0] != "a:1" {
			t.Errorf("%+v", plan)
		}
	})
	t.Run("of a part, nothing is known to be gone", func(t *testing.T) {
		part, err := TakePart(old, f.blobs, f.blobs.NewPins("test"), Selection{Images: references(t, "a:1")})
		f.must(err)
		if gone := part.Over(BaseOfAll(before)).Removed(); len(gone) > 0 {
			t.Errorf("%q", gone)
		}
	})
	t.Run("a rebuilt base image", func(t *testing.T) {
		r := f.newRelease("w2")
		rebuilt := f.put(strings.Repeat("r", 1001))
		small := f.put("packages")
		f.pushTo(r, "a", "2", image(f.put("config a3"), small, rebuilt))
		f.pushTo(r, "b", "2", image(f.put("config b3"), small, rebuilt, f.put("of b alone")))
		f.pushTo(r, "c", "1", image(f.put("config c"), base))
		f.pushTo(r, "d", "1", image(f.put("config d"), f.put("small")))
		inv := Take(r, f.blobs)
		plan := inv.Over(BaseOfAll(before)).Plan()
		got := plan.Rebuilt
		if got == nil || !slices.Equal(got.Images, []string{"a:2", "b:2"}) || got.Layer != rebuilt.Digest || got.SharedBy != 2 {
			t.Fatalf("%+v", got)
		}
		if want := []SharedLayer{{rebuilt.Digest, 1001, 2}, {small.Digest, 8, 2}}; !slices.Equal(got.Layers, want) {
			t.Errorf("shared layers: %+v, want %+v", got.Layers, want)
		}
		for _, i := range plan.Images {
			if i.Rebuilt != (i.Name == "a:2" || i.Name == "b:2") {
				t.Errorf("%+v", i)
			}
			if i.Name == "a:2" && (i.Alone >= i.Bytes || i.Alone == 0) {
				t.Errorf("%+v", i)
			}
		}
	})
}
