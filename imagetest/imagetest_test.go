package imagetest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// debian builds the releases of real files.
func debian(t *testing.T) []imagetest.Release {
	t.Helper()
	releases, err := imagetest.Debian(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return releases
}

func TestDebianHasEveryKind(t *testing.T) {
	releases := debian(t)
	if len(releases) != 3 {
		t.Fatalf("%d releases, want 3", len(releases))
	}
	for i, r := range releases {
		kinds := map[string]int{}
		signed := false
		for _, image := range r.Images {
			kinds[image.MediaType]++
			signed = signed || strings.HasPrefix(image.Tag, "sha256-") && strings.HasSuffix(image.Tag, ".sig")
		}
		if len(r.Images) < 20 || len(kinds) != 4 || !signed {
			t.Errorf("%s: %d images, kinds %v, signed %v", r.Name, len(r.Images), kinds, signed)
		}
		if i == 0 {
			continue
		}
		if n := changed(releases[i-1], r); n < len(r.Images)/10 || n > len(r.Images)/4 {
			t.Errorf("%s: %d of %d images are new", r.Name, n, len(r.Images))
		}
	}
}

// changed counts the images of b that a has not.
func changed(a, b imagetest.Release) int {
	n := 0
	for _, image := range b.Images {
		if !slices.Contains(a.Images, image) {
			n++
		}
	}
	return n
}

func TestPushAndVerify(t *testing.T) {
	releases := debian(t)
	for _, version := range registrytest.Versions {
		t.Run(string(version), func(t *testing.T) {
			r := registrytest.Start(t, registrytest.Options{Version: version, Root: t.TempDir()})
			for _, release := range releases {
				if err := imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release); err != nil {
					t.Fatal(err)
				}
				if err := imagetest.Verify(t.Context(), r.Client(), r.URL(), release); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSkopeoTakesTheLayouts(t *testing.T) {
	release := debian(t)[2]
	for _, version := range registrytest.Versions {
		t.Run(string(version), func(t *testing.T) {
			r := registrytest.Start(t, registrytest.Options{Version: version, Root: t.TempDir()})
			for _, image := range release.Images {
				if !image.SkopeoReads() {
					pushImage(t, r, release, image)
					continue
				}
				source := "oci:" + release.Dir + ":" + image.Ref()
				registrytest.Skopeo(t, "inspect", "--raw", source)
				args := append([]string{"copy", "--all", "--preserve-digests"}, r.SkopeoFlags("dest")...)
				registrytest.Skopeo(t, append(args, source, "docker://"+r.Addr()+"/"+image.Ref())...)
			}
			if err := imagetest.Verify(t.Context(), r.Client(), r.URL(), release); err != nil {
				t.Error(err)
			}
		})
	}
}

func pushImage(t *testing.T, r *registrytest.Registry, from imagetest.Release, image imagetest.Image) {
	t.Helper()
	err := imagetest.Push(t.Context(), r.Client(), r.URL(), from.Dir, image.Ref(), image.Repository, image.Tag)
	if err != nil {
		t.Fatal(err)
	}
}

func TestVerifyFindsFaults(t *testing.T) {
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{Images: 2, LayerSize: 5000})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	r := registrytest.Start(t, registrytest.Options{Root: root})
	if err := imagetest.PushRelease(t.Context(), r.Client(), r.URL(), series.Release); err != nil {
		t.Fatal(err)
	}
	flipByte(t, largestFile(t, root))
	if err := imagetest.Verify(t.Context(), r.Client(), r.URL(), series.Release); err == nil {
		t.Error("a flipped bit was not found")
	}
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	err = imagetest.Verify(t.Context(), empty.Client(), empty.URL, series.Release)
	for _, image := range series.Images {
		if err == nil || !strings.Contains(err.Error(), image.Ref()) {
			t.Errorf("the error does not name %s: %v", image.Ref(), err)
		}
	}
}

func largestFile(t *testing.T, root string) string {
	t.Helper()
	var name string
	var size int64
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Size() > size {
			name, size = path, info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func flipByte(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSyntheticIsDeterministic(t *testing.T) {
	row := func() []imagetest.Release {
		series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{Images: 20, LayerSize: 5000, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		first := series.Release
		second, err := series.Next(0.2)
		if err != nil {
			t.Fatal(err)
		}
		return []imagetest.Release{first, second}
	}
	a, b := row(), row()
	for i := range a {
		if !slices.Equal(a[i].Images, b[i].Images) {
			t.Errorf("%s differs from itself", a[i].Name)
		}
	}
	if n := changed(a[0], a[1]); n != 4 {
		t.Errorf("%d images changed, want 4", n)
	}
}

func TestSyntheticIsServed(t *testing.T) {
	for name, o := range map[string]imagetest.Options{"compressed": {Images: 30}, "bare": {Images: 3, Bare: true}} {
		t.Run(name, func(t *testing.T) { testServed(t, o) })
	}
}

func testServed(t *testing.T, o imagetest.Options) {
	series, err := imagetest.Synthetic(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := registrytest.Start(t, registrytest.Options{Root: t.TempDir()})
	for range 2 {
		if err := imagetest.PushRelease(t.Context(), r.Client(), r.URL(), series.Release); err != nil {
			t.Fatal(err)
		}
		if err := imagetest.Verify(t.Context(), r.Client(), r.URL(), series.Release); err != nil {
			t.Error(err)
		}
		if err := imagetest.PullRelease(t.Context(), r.Client(), r.URL(), series.Release); err != nil {
			t.Error(err)
		}
		if _, err := series.Next(0.1); err != nil {
			t.Fatal(err)
		}
	}
	if err := imagetest.PullRelease(t.Context(), r.Client(), r.URL(), series.Release); err == nil {
		t.Error("a release that nobody pushed was pulled")
	}
}

func BenchmarkSynthetic(b *testing.B) {
	for b.Loop() {
		if _, err := imagetest.Synthetic(b.TempDir(), imagetest.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDebian(b *testing.B) {
	for b.Loop() {
		if _, err := imagetest.Debian(b.TempDir(), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleImage_Ref() {
	fmt.Println(imagetest.Image{Repository: "library/hello", Tag: "1.0"}.Ref())
	// Output: library/hello:1.0
}
