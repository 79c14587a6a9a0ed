package compose

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
)

func TestAnImageComesFromTheFirstReleaseThatHasIt(t *testing.T) {
	var a, b digest.Digest
	for _, c := range []struct {
		from       []string
		list, want string
	}{
		{[]string{"v1.0", "v1.1"}, "app:1", "A of v1.0"},
		{[]string{"v1.1", "v1.0", "v1.1"}, "library/app:1", "B of v1.1"},
		{nil, "docker.io/app:1", "B of v1.1"},
		{nil, "registry.example.com/library/app:1", "B of v1.1"},
		{nil, "app@A", "A of v1.0"},
		{nil, "app:1@A", "A of v1.0"},
		{[]string{"v1.0"}, "app:1@B", "missing"},
		{nil, "app:2", "missing"},
		{nil, "ap:1", "missing"},
	} {
		f := setup(t)
		a = f.push("v1.0", "library/app", "1", "a")
		b = f.push("v1.1", "library/app", "1", "b")
		digests := strings.NewReplacer("@A", "@"+a.String(), "@B", "@"+b.String())
		r := f.compose("v2.0", Request{From: c.from, Images: f.list(digests.Replace(c.list))})
		got := "missing"
		if len(r.Images) == 1 {
			got = map[digest.Digest]string{a: "A", b: "B"}[r.Images[0].Digest] + " of " + r.Images[0].From
		}
		equal(t, c.list, got, c.want)
		equal(t, c.list+": images and missing", len(r.Images)+len(r.Missing), 1)
		_, tag, _ := strings.Cut(c.list, ":")
		tagged := f.tag("v2.0", "library/app", strings.TrimSuffix(tag, "@A"))
		equal(t, c.list+" is tagged", tagged != "", c.want != "missing" && tag != "")
		f.must(f.db.Verify(t.Context()))
	}
}

func TestWhatIsMissingIsAList(t *testing.T) {
	f := setup(t)
	f.push("v1.0", "app", "1", "a")
	list := f.list("quay.io/none:1", "app:1", "nginx")
	r := f.compose("v1.1", Request{Images: list, Complete: true})
	equal(t, "made", r.Made, false)
	if !errors.Is(r.Err(), ErrIncomplete) || !strings.Contains(r.Err().Error(), "2 of 3") {
		t.Errorf("the error is %v", r.Err())
	}
	if _, err := f.db.Open("v1.1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a release that was to be complete: %v", err)
	}
	r = f.compose("v1.1", Request{Images: list})
	if !r.Made || r.Err() != nil || len(r.Missing) != 2 || r.Missing[0].Reference != "quay.io/none:1" || r.Missing[1].Reference != "nginx:latest" {
		t.Errorf("missing: %+v", r)
	}
	equal(t, "summary", r.Summary(), "1 images: 1 from v1.0, 2 missing")
}

// A blob that the store has lost makes the images missing that need it, and no
// others; another release is not asked, which may have another image.
func TestAnImageThatHasLostABlobIsMissing(t *testing.T) {
	f := setup(t)
	f.push("v1.0", "app", "1", "a0")
	f.push("v1.1", "app", "1", "a1")
	f.push("v1.1", "other", "1", "o")
	f.lose(digest.FromString("layer a1"))
	r := f.compose("v1.2", Request{Images: f.list("app:1", "other:1")})
	if len(r.Missing) != 1 || r.Missing[0].From != "v1.1" || !strings.Contains(r.Missing[0].Reason, "layer sha256:") {
		t.Errorf("missing: %+v", r.Missing)
	}
	equal(t, "images", len(r.Images), 1)
	equal(t, "the tag", f.tag("v1.2", "app", "1"), "")
}

// A release of all images of another one exports to the same files.
func TestAllImagesOfARelease(t *testing.T) {
	f := setup(t)
	whole(f, "v1.0")
	f.push("v1.0", "app", "1", "before")
	f.push("v1.0", "app", "1", "after") // with a history
	f.push("v1.0", "app", "", "untagged")
	r := f.compose("v1.1", Request{From: []string{"v1.0"}})
	equal(t, "missing", len(r.Missing), 0)
	if before, after := f.files("v1.0"), f.files("v1.1"); !reflect.DeepEqual(before, after) {
		t.Errorf("files of the export: %d, and of the copy %d", len(before), len(after))
	}
	f.must(f.db.Verify(t.Context()))
}

func (f *fixture) files(release string) (files []export.File) {
	f.on(release, func(in intake.Intake) {
		inv := export.Take(in.Release, f.blobs)
		f.must(inv.Err())
		files = inv.Files
		for i := range files {
			files[i].NeededBy = nil
		}
	})
	return files
}

// whole pushes an image with all that an image can have: a platform that is
// absent, a foreign layer, a signature by tag, one by subject, and its own.
func whole(f *fixture, release string) (top digest.Digest) {
	f.Helper()
	f.on(release, func(in intake.Intake) {
		foreign := v1.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Digest: digest.FromString("foreign"), Size: 7}
		amd := f.manifest(in, nil, append(f.layers(in, "amd"), foreign)...)
		amd.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
		f.link(in, "multi", "", amd.Digest)
		arm := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("arm"), Size: 3, Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}
		list := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{amd, arm}}
		list.SchemaVersion = 2
		index := f.put(in, list.MediaType, encode(list))
		top = index.Digest
		f.link(in, "multi", "1", top)
		signature := f.manifest(in, nil, f.layers(in, "signature")...)
		f.link(in, "multi", "sha256-"+top.Encoded()+".sig", signature.Digest)
		sbom := f.manifest(in, &index, f.layers(in, "sbom")...)
		f.link(in, "multi", "", sbom.Digest)
		f.link(in, "multi", "", f.manifest(in, &sbom, f.layers(in, "of sbom")...).Digest)
	})
	return top
}

func TestReferrersTravelAndAbsencesStay(t *testing.T) {
	f := setup(t)
	top := whole(f, "v1.0")
	f.push("v1.0", "multi", "2", "other")
	// The store gets the foreign layer by another release: it stays absent.
	f.on("v0", func(in intake.Intake) { f.put(in, v1.MediaTypeImageLayerGzip, []byte("foreign")) })
	f.compose("v1.1", Request{From: []string{"v1.0"}, Images: f.list("multi:1", "multi@"+top.String(), "multi:1")})
	f.on("v1.1", func(in intake.Intake) {
		equal(t, "tags", strings.Join(in.Release.Tags("multi"), " "), "1 sha256-"+top.Encoded()+".sig")
		equal(t, "manifests", len(in.Release.Revisions("multi")), 5)
		absent := 0
		for _, need := range in.Release.Needs("multi", top) {
			if need.Absent {
				absent++
			}
		}
		equal(t, "blobs that it does without", absent, 2)
	})
	f.files("v1.1") // it can be exported
	f.must(f.db.Verify(t.Context()))
}

// What a release is does not depend on the order of a list, nor on how often
// something is listed.
func TestTheOrderOfAListDoesNotMatter(t *testing.T) {
	f := setup(t)
	var arm v1.Descriptor
	f.on("v1.0", func(in intake.Intake) {
		arm = f.manifest(in, nil, f.layers(in, "arm")...)
		f.link(in, "arm", "1", arm.Digest)
	})
	f.on("v1.1", func(in intake.Intake) {
		amd := f.manifest(in, nil, f.layers(in, "amd")...)
		f.link(in, "multi", "", amd.Digest)
		list := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{amd, arm}}
		list.SchemaVersion = 2
		f.link(in, "multi", "1", f.put(in, list.MediaType, encode(list)).Digest)
	})
	f.compose("a", Request{Images: f.list("multi:1", "arm:1")})
	f.compose("b", Request{Images: f.list("arm:1", "multi:1", "arm@"+arm.Digest.String())})
	if a, b := f.files("a"), f.files("b"); !reflect.DeepEqual(a, b) {
		t.Errorf("%d files, and %d", len(a), len(b))
	}
}

func TestATagIsOneImage(t *testing.T) {
	f := setup(t)
	a := f.push("v1.0", "app", "1", "a")
	f.push("v1.1", "app", "1", "b")
	_, err := Compose(f.blobs, f.db, quiet, "v1.2", Request{Images: f.list("app:1", "app:1@"+a.String())})
	if err == nil || !strings.Contains(err.Error(), "app:1 is listed as two images") {
		t.Errorf("got %v", err)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	f := setup(t)
	f.push("v1.0", "app", "1", "a")
	for _, c := range []struct {
		name string
		req  Request
		kind error
	}{
		{"v1.0", Request{}, fs.ErrExist},
		{"v1.0", Request{From: []string{"v1.0"}}, fs.ErrExist},
		{"v1.1", Request{From: []string{"v1.1"}}, fs.ErrNotExist},
		{"v1.1", Request{From: []string{"v1.0", "../x"}}, index.ErrName},
		{"..", Request{}, index.ErrName},
	} {
		if _, err := Compose(f.blobs, f.db, quiet, c.name, c.req); !errors.Is(err, c.kind) {
			t.Errorf("%s, %v: %v", c.name, c.req, err)
		}
	}
}

// Of many who make one release at once one makes it, whole.
func TestManyMakeOneRelease(t *testing.T) {
	f := setup(t)
	for i := range 10 {
		f.push("v1.0", fmt.Sprint("app", i), "1", fmt.Sprint(i))
	}
	const makers = 8
	errs := make([]error, makers)
	var wg sync.WaitGroup
	for i := range makers {
		wg.Go(func() {
			_, errs[i] = Compose(f.blobs, f.db, quiet, "v1.1", Request{Images: f.list(fmt.Sprintf("app%d:1", i))})
		})
	}
	wg.Wait()
	made := -1
	for i, err := range errs {
		switch {
		case err == nil && made >= 0:
			t.Errorf("%d and %d made it", made, i)
		case err == nil:
			made = i
		case !errors.Is(err, fs.ErrExist):
			t.Error(err)
		}
	}
	f.on("v1.1", func(in intake.Intake) {
		equal(t, "repositories", strings.Join(in.Release.Repositories(), " "), fmt.Sprint("app", made))
	})
	f.must(f.db.Verify(t.Context()))
}
