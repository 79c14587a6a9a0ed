package export

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// images lists the release, and checks and drops the times.
func (f *fixture) images() []Image {
	f.Helper()
	all, err := Images(f.release, f.blobs)
	f.must(err)
	for i := range all {
		if all[i].Linked.IsZero() {
			f.Errorf("%s:%s has no time", all[i].Repository, all[i].Tag)
		}
		all[i].Linked = time.Time{}
	}
	return all
}

func TestImages(t *testing.T) {
	f := setup(t)
	amd, arm := image(f.put("config amd64"), f.put("base")), image(f.put("config arm64"), f.put("base"), foreign("absent"))
	attestation := image(f.put("config attestation"))
	unknown := child(attestation, "unknown")
	unknown.Platform.OS = "unknown"
	multi := list(child(arm, "arm64"), child(amd, "amd64"), unknown)
	f.push("multi", "", amd)
	f.push("multi", "", arm)
	f.push("multi", "", attestation)
	f.push("multi", "1", multi)
	single := image(f.put("config"), f.put("base"), f.put("top"))
	f.push("app", "b", single)
	f.push("app", "a", single)
	loose := image(f.put("loose"))
	f.push("app", "", loose)
	f.push("app", "gone", image(f.put("gone")))
	f.must(f.release.UnlinkManifest("app", lost(image(lost("gone"))).Digest))

	one := Image{
		Repository: "app", Tag: "a", Digest: lost(single).Digest, MediaType: v1.MediaTypeImageManifest,
		Size: bytesOf(single, "config", "base", "top"), Layers: 2,
	}
	two := one
	two.Tag = "b"
	want := []Image{
		{
			Repository: "app", Digest: lost(loose).Digest, MediaType: v1.MediaTypeImageManifest,
			Size: bytesOf(loose, "loose"),
		},
		one, two,
		{
			Repository: "multi", Tag: "1", Digest: lost(multi).Digest, MediaType: v1.MediaTypeImageIndex,
			Size:   bytesOf(multi, amd, arm, attestation, "config amd64", "config arm64", "config attestation", "base"),
			Layers: 2, Platforms: []string{"linux/amd64", "linux/arm64"},
		},
	}
	if got := f.images(); !reflect.DeepEqual(got, want) {
		t.Errorf("images:\n%+v\nwant:\n%+v", got, want)
	}
}

func bytesOf(contents ...string) int64 { return int64(len(strings.Join(contents, ""))) }

func TestImagesOfADamagedStore(t *testing.T) {
	f := setup(t)
	content := image(lost("config"))
	d := f.push("app", "1", content)
	f.remove(d)
	if got := f.images(); len(got) != 1 || got[0].Size != 0 || got[0].MediaType != "" {
		t.Errorf("images of a release that is lost: %+v", got)
	}
	f.must(os.WriteFile(f.path(d), []byte("no manifest"), 0o600))
	if _, err := Images(f.release, f.blobs); err == nil || !strings.Contains(err.Error(), "list v1: image app:1: manifest "+d.String()) {
		t.Errorf("Images: %v", err)
	}
}
