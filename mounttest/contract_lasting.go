package mounttest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

var lastingClauses = []clause{
	{"M8_resume_after_remount", testResume},
	{"M8_resume_from_any_offset", testResumeAnywhere},
	{"M8_purge", testPurge},
	{"M9_plain_files_per_release", testPlainPerRelease},
	{"M9_plain_files_last", testPlainLasts},
	{"M7_release_lasts", testReleaseLasts},
	{"M7_empty_directories_last", testEmptyDirectoriesLast},
	{"M7_tag_states_last", testTagsLast},
}

func testResume(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m8-resume", ReuseStore))
	content := noise(t.Name(), 50_000)
	d := digest.FromBytes(content)
	u := must(r.newUpload("some/repo"))(t)
	ok(t, u.write(content[:20_000]))
	before := find(t, r.root)
	root := m.remount(t, r.root, "m8-resume", ReuseStore)
	sameList(t, "mounted again", find(t, root), before)
	uuid := filepath.Base(u.dir)
	u.registry = registry3(root)
	u.dir = filepath.Join(u.repository("some/repo"), "_uploads", uuid)
	hasContent(t, u.data(), content[:20_000])
	ok(t, u.write(content[20_000:]))
	ok(t, u.commit(d))
	checkBlob(t, u.registry, content)
	absent(t, u.dir)
}

// testResumeAnywhere: a client goes on from an offset of its own, before or at
// the end of what is there.
func testResumeAnywhere(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m8-anywhere", ReuseStore))
	content := noise(t.Name(), 50_000)
	u := must(r.newUpload("repo"))(t)
	ok(t, u.write(append(slices.Clone(content[:30_000]), "torn"...)))
	for _, offset := range []int{30_000, 0, 12_345, 49_999} {
		f := must(os.OpenFile(u.data(), os.O_WRONLY, 0))(t)
		must(f.WriteAt(content[offset:], int64(offset)))(t)
		ok(t, f.Sync())
		ok(t, f.Close())
	}
	ok(t, u.commit(digest.FromBytes(content)))
	checkBlob(t, r, content)
}

// testPurge: the registry reads startedat of all uploads and removes the old.
func testPurge(t *testing.T, m Mounts) {
	r := registry3(m.Mount(t, "m8-purge", ReuseStore))
	for _, repo := range []string{"one", "two/three"} {
		for range 3 {
			u := must(r.newUpload(repo))(t)
			ok(t, u.write([]byte("left behind")))
		}
	}
	root := m.remount(t, r.root, "m8-purge", ReuseStore)
	started := 0
	for _, p := range findFiles(t, root) {
		if filepath.Base(p) == "startedat" {
			started++
			ok(t, os.RemoveAll(filepath.Join(root, filepath.Dir(p))))
		}
	}
	if started != 6 {
		t.Errorf("%d uploads are listed, want 6", started)
	}
	sameList(t, "purged", findFiles(t, root), nil)
}

func testPlainPerRelease(t *testing.T, m Mounts) {
	a, b := m.Mount(t, "m9-a", ReuseStore), m.Mount(t, "m9-b", ReuseStore)
	for _, p := range []string{"scheduler-state.json", "docker/registry/v2/repositories/x/_other/file"} {
		ok(t, registry3(a).put(filepath.Join(a, p), []byte("a's")))
		absent(t, filepath.Join(b, p))
		ok(t, registry2(b).put(filepath.Join(b, p), []byte("b's")))
		hasContent(t, filepath.Join(a, p), []byte("a's"))
	}
}

func testPlainLasts(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m9-lasts", ReuseStore)
	ok(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o750))
	writeFile(t, filepath.Join(dir, "a", "b", "file"), []byte("lasting"))
	ok(t, os.Chmod(filepath.Join(dir, "a", "b", "file"), 0o640))
	ok(t, os.Symlink("b/file", filepath.Join(dir, "a", "link")))
	ok(t, os.Link(filepath.Join(dir, "a", "b", "file"), filepath.Join(dir, "hard")))
	before := states(t, dir)
	dir = m.remount(t, dir, "m9-lasts", ReuseStore)
	sameStates(t, states(t, dir), before)
	hasContent(t, filepath.Join(dir, "a", "link"), []byte("lasting"))
}

func testReleaseLasts(t *testing.T, m Mounts) {
	index := newIndex(t.Name(), newImage(t.Name()+"1", 3), newImage(t.Name()+"2", 2))
	r := registry2(m.Mount(t, "m7-lasts", ReuseStore))
	ok(t, r.pushImage("one", "v1", index))
	ok(t, r.pushManifests("two/three", "v2", index))
	ok(t, r.tag("one", "latest", index.digest()))
	before := findFiles(t, r.root)
	root := m.remount(t, r.root, "m7-lasts", ReuseNone)
	sameList(t, "mounted again", findFiles(t, root), before)
	for _, p := range before {
		if filepath.Base(p) == "link" {
			content := must(os.ReadFile(filepath.Join(root, p)))(t)
			present(t, filepath.Join(root, filepath.Dir(p)))
			if digest.Digest(content).Validate() != nil {
				t.Errorf("%s holds %q", p, content)
			}
		}
	}
}

// testEmptyDirectoriesLast: what a registry expects to stay, stays when it is
// empty.
func testEmptyDirectoriesLast(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 1)
	r := pushed(t, m, "m7-empty", img)
	ok(t, r.untag("library/known", "v1"))
	tags := filepath.Join(r.repository("library/known"), "_manifests", "tags")
	sameList(t, "tags", names(t, tags), nil)
	ok(t, os.RemoveAll(filepath.Dir(r.revision("library/known", img.digest()))))
	root := m.remount(t, r.root, "m7-empty", ReuseNone)
	r = registry3(root)
	for _, p := range []string{"_manifests", "_manifests/tags", "_manifests/revisions", "_manifests/revisions/sha256", "_layers", "_layers/sha256"} {
		if info, err := os.Stat(filepath.Join(r.repository("library/known"), p)); err != nil || !info.IsDir() {
			t.Errorf("%s after mounting again: %v", p, err)
		}
	}
	if !slices.Contains(find(t, r.repository("library/known")), "_manifests/tags/") {
		t.Error("_manifests/tags is not listed")
	}
	ok(t, r.pushManifests("library/known", "v1", img))
	sameList(t, "release pushed again", findFiles(t, r.root), img.files("library/known", "v1"))
}

func testTagsLast(t *testing.T, m Mounts) {
	a, b := newImage(t.Name()+"a", 1), newImage(t.Name()+"b", 1)
	r := pushed(t, m, "m7-tags", a)
	ok(t, r.pushImage("library/known", "v1", b))       // moved: two in its history
	ok(t, r.pushImage("library/known", "gone", b))     // removed
	ok(t, r.pushImage("library/known", "headless", b)) // its history is left
	ok(t, r.tag("library/known", "dangling", digest.FromString("nothing there")))
	ok(t, r.untag("library/known", "gone"))
	ok(t, os.Remove(r.current("library/known", "headless")))
	before := findFiles(t, r.root)
	root := m.remount(t, r.root, "m7-tags", ReuseStore)
	r = registry3(root)
	sameList(t, "mounted again", findFiles(t, root), before)
	checkLink(t, r.current("library/known", "v1"), b.digest())
	checkLink(t, r.history("library/known", "v1", a.digest()), a.digest())
	checkLink(t, r.current("library/known", "dangling"), digest.FromString("nothing there"))
	absent(t, r.current("library/known", "gone"))
	absent(t, r.current("library/known", "headless"))
	sameList(t, "tags", names(t, filepath.Join(r.repository("library/known"), "_manifests", "tags")),
		[]string{"v1", "headless", "dangling"})
}
