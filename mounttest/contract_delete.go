package mounttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

var deleteClauses = []clause{
	{"M4_deleted_link_stays_hidden", testLinkHidden},
	{"M4_deleted_link_that_was_never_written", testUnwrittenLinkHidden},
	{"M4_hidden_link_comes_with_manifest", testHiddenLinkNeeded},
	{"M4_needed_blob_stays", testNeededBlobStays},
	{"M4_deleted_blob_hidden", testBlobHidden},
	{"M4_hidden_blob_comes_with_manifest", testHiddenBlobNeeded},
	{"M4_collection_between_upload_and_manifest", testCollectedBeforeManifest},
	{"M4_deleted_manifest", testManifestDeleted},
	{"M4_remove_everything", testRemoveEverything},
	{"M4_remove_a_repository", testRemoveRepository},
	{"M4_hidden_state_lasts", testHiddenLasts},
}

func testLinkHidden(t *testing.T, m Mounts) {
	for name, style := range map[string]func(string) registry{"2.8": registry2, "3.x": registry3} {
		t.Run(name, func(t *testing.T) {
			content := noise(t.Name(), 900)
			d := digest.FromBytes(content)
			other := registry3(m.Mount(t, "m4-link-other-"+name, ReuseStore))
			r := style(m.Mount(t, "m4-link-"+name, ReuseStore))
			ok(t, r.push("repo", content))
			ok(t, r.put(r.layer("repo2", d), []byte(d)))
			ok(t, r.deleteLayer("repo", d))
			absent(t, r.layer("repo", d))
			checkLink(t, r.layer("repo2", d), d)
			checkLink(t, r.layer("repo3", d), d) // by reuse
			checkLink(t, other.layer("repo", d), d)
			checkBlob(t, r, content)
			root := m.remount(t, r.root, "m4-link-"+name, ReuseStore)
			r = style(root)
			absent(t, r.layer("repo", d))
			ok(t, r.put(r.layer("repo", d), []byte(d)))
			checkLink(t, r.layer("repo", d), d)
		})
	}
}

func testUnwrittenLinkHidden(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	pushed(t, m, "m4-unwritten-a", img)
	r := registry3(m.Mount(t, "m4-unwritten-b", ReuseStore))
	ok(t, r.pushManifests("repo", "v1", img))
	derived, known := digest.FromBytes(img.layers[0]), digest.FromBytes(img.config)
	for _, repo := range []string{"repo", "foreign"} {
		for i, remove := range []func(d digest.Digest) error{
			func(d digest.Digest) error { return os.RemoveAll(filepath.Dir(r.layer(repo, d))) },
			func(d digest.Digest) error { return os.Remove(r.layer(repo, d)) },
		} {
			d := []digest.Digest{derived, known}[i]
			checkLink(t, r.layer(repo, d), d)
			ok(t, remove(d))
			absent(t, r.layer(repo, d))
		}
	}
	sameList(t, "links of the repository", names(t, filepath.Join(r.repository("repo"), "_layers", "sha256")),
		minus2(names(t, filepath.Join(r.repository("repo"), "_layers", "sha256")), derived.Encoded()))
	root := m.remount(t, r.root, "m4-unwritten-b", ReuseStore)
	r = registry3(root)
	for _, repo := range []string{"repo", "foreign"} {
		absent(t, r.layer(repo, derived))
		absent(t, r.layer(repo, known))
	}
}

func minus2(list []string, without string) []string {
	var rest []string
	for _, s := range list {
		if s != without {
			rest = append(rest, s)
		}
	}
	return rest
}

func testHiddenLinkNeeded(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	r := pushed(t, m, "m4-linkneeded", img)
	d := digest.FromBytes(img.layers[0])
	ok(t, r.deleteLayer("library/known", d))
	ok(t, r.deleteLayer("other", d))
	absent(t, r.layer("library/known", d))
	absent(t, r.layer("other", d))
	two := newImage(t.Name()+"two", 0, img.layers[0])
	ok(t, r.push("library/known", two.config))
	ok(t, r.pushManifests("library/known", "v2", two))
	checkLink(t, r.layer("library/known", d), d)
	absent(t, r.layer("other", d)) // no manifest there needs it
	ok(t, r.push("other", two.config))
	ok(t, r.pushManifests("other", "v2", two))
	checkLink(t, r.layer("other", d), d)
	want := union(img.files("library/known", "v1"), two.files("library/known", "v2"), two.files("other", "v2"))
	sameList(t, "release", findFiles(t, r.root), want)
	root := m.remount(t, r.root, "m4-linkneeded", ReuseNone)
	sameList(t, "release, mounted again", findFiles(t, root), want)
}

// elsewhere runs f in a thread of its own. To the thread that removes a blob
// that stays, it is gone for a moment; tar could not make it anew otherwise.
func elsewhere(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}

func testNeededBlobStays(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	r := pushed(t, m, "m4-needed", img)
	for _, b := range append(img.blobs(), img.manifest) {
		ok(t, elsewhere(func() error { return r.deleteBlob(digest.FromBytes(b)) }))
		checkBlob(t, r, b)
	}
	sameList(t, "release", findFiles(t, r.root), img.files("library/known", "v1"))
	root := m.remount(t, r.root, "m4-needed", ReuseStore)
	r = registry3(root)
	sameList(t, "release, mounted again", findFiles(t, root), img.files("library/known", "v1"))
	// The manifest goes, and the blobs are as removed as they were before.
	ok(t, r.deleteManifest("library/known", img.digest(), "v1"))
	for _, b := range append(img.blobs(), img.manifest) {
		absent(t, r.blob(digest.FromBytes(b)))
	}
}

func testBlobHidden(t *testing.T, m Mounts) {
	for name, style := range map[string]func(string) registry{"2.8": registry2, "3.x": registry3} {
		t.Run(name, func(t *testing.T) {
			content, foreign := noise(t.Name(), 900), noise(t.Name()+"foreign", 900)
			d, f := digest.FromBytes(content), digest.FromBytes(foreign)
			other := registry3(m.Mount(t, "m4-blob-other-"+name, ReuseStore))
			ok(t, other.push("repo", foreign))
			r := style(m.Mount(t, "m4-blob-"+name, ReuseStore))
			ok(t, r.push("repo", content))
			ok(t, r.deleteBlob(d))
			ok(t, r.deleteBlob(f))
			absent(t, r.blob(d))
			absent(t, r.blob(f))
			absent(t, r.layer("nowhere", d)) // a link must not promise what is not there
			absent(t, r.layer("nowhere", f))
			checkBlob(t, other, content)
			checkBlob(t, other, foreign)
			sameList(t, "other release", findFiles(t, other.root), []string{layout.BlobDataPath(f), layout.LayerLinkPath("repo", f)})
			for _, c := range [][]byte{content, foreign} {
				ok(t, r.push("repo", c))
				checkBlob(t, r, c)
			}
		})
	}
}

func testHiddenBlobNeeded(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	pushed(t, m, "m4-blobneeded-a", img)
	r := registry2(m.Mount(t, "m4-blobneeded-b", ReuseStore))
	for _, b := range append(img.blobs(), img.manifest) {
		ok(t, r.deleteBlob(digest.FromBytes(b)))
		absent(t, r.blob(digest.FromBytes(b)))
	}
	// A registry whose cache still says that all is there writes this only:
	d := img.digest()
	ok(t, r.put(r.revision("repo", d), []byte(d)))
	for _, b := range append(img.blobs(), img.manifest) {
		checkBlob(t, r, b)
	}
	sameList(t, "release", findFiles(t, r.root), img.files("repo", ""))
}

// testCollectedBeforeManifest: the collection marked before the push and
// sweeps after the layers have come, before or after the manifest does.
func testCollectedBeforeManifest(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	r := registry3(m.Mount(t, "m4-collected", ReuseStore))
	for i, b := range img.blobs() {
		ok(t, r.push("repo", b))
		if i%2 == 0 {
			ok(t, r.deleteBlob(digest.FromBytes(b)))
			ok(t, r.deleteLayer("repo", digest.FromBytes(b)))
		}
	}
	ok(t, r.pushManifests("repo", "v1", img))
	for i, b := range img.blobs() {
		if i%2 == 1 {
			ok(t, elsewhere(func() error { return r.deleteBlob(digest.FromBytes(b)) }))
		}
	}
	for _, b := range img.blobs() {
		checkBlob(t, r, b)
		checkLink(t, r.layer("repo", digest.FromBytes(b)), digest.FromBytes(b))
	}
	sameList(t, "release", findFiles(t, r.root), img.files("repo", "v1"))
}

func testManifestDeleted(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 1)
	other := pushed(t, m, "m4-manifest-a", img)
	r := pushed(t, m, "m4-manifest-b", img)
	ok(t, r.deleteManifest("library/known", img.digest(), "v1"))
	absent(t, r.revision("library/known", img.digest()))
	absent(t, r.current("library/known", "v1"))
	checkBlob(t, r, img.manifest)
	checkLink(t, other.revision("library/known", img.digest()), img.digest())
	ok(t, r.pushManifests("library/known", "v1", img))
	checkLink(t, r.revision("library/known", img.digest()), img.digest())
	sameList(t, "release", findFiles(t, r.root), img.files("library/known", "v1"))
}

func testRemoveEverything(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	other := pushed(t, m, "m4-all-a", img)
	for name, remove := range map[string]func(dir string) error{
		"rm": func(dir string) error {
			return exec.Command("rm", "-r", filepath.Join(dir, "docker")).Run()
		},
		"RemoveAll": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "docker")) },
		"repositories first": func(dir string) error {
			if err := os.RemoveAll(filepath.Join(dir, layout.Root, "repositories")); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(dir, "docker"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			release := "m4-all-" + filepath.Base(name)[:2]
			r := pushed(t, m, release, img)
			if err := remove(r.root); err != nil {
				t.Errorf("remove: %v", err)
			}
			sameList(t, "emptied release", find(t, r.root), nil)
			root := m.remount(t, r.root, release, ReuseStore)
			r = registry3(root)
			sameList(t, "emptied release, mounted again", find(t, r.root), nil)
			sameList(t, "other release", findFiles(t, other.root), img.files("library/known", "v1"))
			for _, b := range img.blobs() {
				absent(t, r.blob(digest.FromBytes(b)))
				checkBlob(t, other, b)
			}
			ok(t, r.pushImage("library/known", "v1", img))
			sameList(t, "release pushed again", findFiles(t, r.root), img.files("library/known", "v1"))
		})
	}
}

func testRemoveRepository(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	r := pushed(t, m, "m4-repository", img)
	ok(t, r.pushManifests("library/second", "v1", img))
	ok(t, os.RemoveAll(r.repository("library/known")))
	sameList(t, "repositories", names(t, r.repository("library")), []string{"second"})
	sameList(t, "release", findFiles(t, r.root), img.files("library/second", "v1"))
	ok(t, os.RemoveAll(r.repository("library/second")))
	ok(t, os.RemoveAll(r.repository("library")))
	sameList(t, "repositories", names(t, r.repository("")), nil)
}

func testHiddenLasts(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 2)
	pushed(t, m, "m4-lasts-a", img)
	r := registry3(m.Mount(t, "m4-lasts-b", ReuseStore))
	blob, link := digest.FromBytes(img.layers[0]), digest.FromBytes(img.layers[1])
	ok(t, r.deleteBlob(blob))
	ok(t, r.deleteLayer("repo", link))
	root := m.remount(t, r.root, "m4-lasts-b", ReuseStore)
	r = registry3(root)
	absent(t, r.blob(blob))
	absent(t, r.layer("any", blob))
	absent(t, r.layer("repo", link))
	checkLink(t, r.layer("any", link), link)
}
