package mounttest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

var lookupClauses = []clause{
	{"M1_every_algorithm", testAlgorithms},
	{"M2_reuse_store", testReuseStore},
	{"M2_reuse_repository", testReuseRepository},
	{"M2_reuse_none", testReuseNone},
	{"M3_lookup_lists_nothing", testLookupListsNothing},
	{"M12_seen_at_once", testSeenAtOnce},
	{"M12_uploads_of_many_releases", testManyReleases},
}

func testAlgorithms(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m1", ReuseStore)
	var want []string
	for _, style := range []registry{registry2(dir), registry3(dir)} {
		for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
			content := noise(fmt.Sprint(t.Name(), a, len(want)), 900)
			d := a.FromBytes(content)
			ok(t, style.put(style.blob(d), content))
			ok(t, style.put(style.layer("algorithms", d), []byte(d)))
			hasContent(t, style.blob(d), content)
			checkLink(t, style.layer("algorithms", d), d)
			want = append(want, layout.BlobDataPath(d), layout.LayerLinkPath("algorithms", d))
		}
	}
	sameList(t, "release", findFiles(t, dir), want)
	dir = m.remount(t, dir, "m1", ReuseStore)
	sameList(t, "release mounted again", findFiles(t, dir), want)
}

func testReuseStore(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	index := newIndex(t.Name(), img)
	pushed(t, m, "m2-store-a", index)
	r := registry3(m.Mount(t, "m2-store-b", ReuseStore))
	for _, repo := range []string{"library/known", "never/seen", "a", "x/y/z/w"} {
		for _, b := range index.blobs() {
			checkBlob(t, r, b)
			checkLink(t, r.layer(repo, digest.FromBytes(b)), digest.FromBytes(b))
		}
		for _, b := range index.manifests() {
			d := digest.FromBytes(b)
			checkBlob(t, r, b)
			absent(t, r.layer(repo, d)) // where 2.8 would look for it, too
			absent(t, r.revision(repo, d))
			absent(t, r.history(repo, "v1", d))
		}
		absent(t, r.current(repo, "v1"))
	}
	unknown := digest.FromString(t.Name())
	absent(t, r.blob(unknown))
	absent(t, r.layer("library/known", unknown))
	absent(t, r.layer("Not/Valid", digest.FromBytes(img.config)))
	absent(t, r.layer("not//valid", unknown))
	sameList(t, "release that was only looked at", find(t, r.root), nil)
}

func testReuseRepository(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	a := pushed(t, m, "m2-repository-a", img)
	ok(t, a.pushManifests("library/derived", "v1", img)) // no link is written, all follow
	r := registry3(m.Mount(t, "m2-repository-b", ReuseRepository))
	for _, b := range img.blobs() {
		d := digest.FromBytes(b)
		checkBlob(t, r, b)
		checkLink(t, r.layer("library/known", d), d)
		checkLink(t, r.layer("library/derived", d), d)
		absent(t, r.layer("library/other", d))
		absent(t, r.layer("library", d))
	}
	absent(t, r.revision("library/known", img.digest()))
	sameList(t, "release that was only looked at", find(t, r.root), nil)
	ok(t, r.push("library/other", img.config))
	checkLink(t, r.layer("library/other", digest.FromBytes(img.config)), digest.FromBytes(img.config))
}

func testReuseNone(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	pushed(t, m, "m2-none-a", img)
	r := registry2(m.Mount(t, "m2-none-b", ReuseNone))
	for _, b := range append(img.blobs(), img.manifest) {
		absent(t, r.blob(digest.FromBytes(b)))
		absent(t, r.layer("library/known", digest.FromBytes(b)))
	}
	// Uploaded once more, they are there, and in the one repository only.
	ok(t, r.pushImage("library/known", "v1", img))
	for _, b := range img.blobs() {
		checkBlob(t, r, b)
		checkLink(t, r.layer("library/known", digest.FromBytes(b)), digest.FromBytes(b))
		absent(t, r.layer("library/other", digest.FromBytes(b)))
	}
	sameList(t, "release", findFiles(t, r.root), img.files("library/known", "v1"))
}

func testLookupListsNothing(t *testing.T, m Mounts) {
	known := newImage(t.Name()+"known", 40)
	pushed(t, m, "m3-lookup-a", known)
	mine := newImage(t.Name()+"mine", 1)
	r := registry3(m.Mount(t, "m3-lookup-b", ReuseStore))
	ok(t, r.pushImage("mine", "v1", mine))
	before := find(t, r.root)
	blobs := known.blobs()
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		d := digest.FromBytes(blobs[random.IntN(len(blobs))])
		repo := fmt.Sprintf("random/%d/r%d", random.IntN(50), random.IntN(50))
		checkLink(t, r.layer(repo, d), d)
		present(t, filepath.Dir(r.layer(repo, d)))
		present(t, filepath.Dir(r.blob(d)))
		present(t, r.repository(repo))
		absent(t, r.revision(repo, d))
	}
	sameList(t, "after 1,000 lookups", find(t, r.root), before)
	root := m.remount(t, r.root, "m3-lookup-b", ReuseStore)
	sameList(t, "after 1,000 lookups, mounted again", findFiles(t, root), mine.files("mine", "v1"))
}

// testSeenAtOnce: what was not there a moment ago, and is committed in one
// release, is there for lookups in the other.
func testSeenAtOnce(t *testing.T, m Mounts) {
	a := registry3(m.Mount(t, "m12-a", ReuseStore))
	b := registry2(m.Mount(t, "m12-b", ReuseStore))
	for i := range 60 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		content := noise(fmt.Sprint(t.Name(), i), 800)
		d := digest.FromBytes(content)
		absent(t, to.blob(d))
		absent(t, to.layer("any/where", d))
		if i%3 == 0 {
			ok(t, from.push("some/where", content))
		} else {
			ok(t, from.put(from.blob(d), content))
		}
		checkBlob(t, to, content)
		checkLink(t, to.layer("any/where", d), d)
	}
	for _, p := range findFiles(t, a.root) {
		if _, err := os.Stat(filepath.Join(b.root, p)); err != nil {
			t.Error(err)
		}
	}
}

func testManyReleases(t *testing.T, m Mounts) {
	shared := noise(t.Name(), 100_000)
	img := newImage(t.Name(), 2, shared)
	var registries []registry
	for i := range 5 {
		registries = append(registries, registry3(m.Mount(t, fmt.Sprint("m12-many-", i), ReuseStore)))
	}
	var wg sync.WaitGroup
	for i, r := range registries {
		wg.Go(func() {
			if err := r.pushImage(fmt.Sprint("repo", i), "v1", img); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, r := range registries {
		sameList(t, "release", findFiles(t, r.root), img.files(fmt.Sprint("repo", i), "v1"))
	}
}
