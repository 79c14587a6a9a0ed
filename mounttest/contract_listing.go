package mounttest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

var listingClauses = []clause{
	{"M3_listing_is_the_release", testListingIsRelease},
	{"M3_listing_follows_deletion", testListingFollowsDeletion},
	{"M3_uploaded_and_not_referenced", testUnreferencedListed},
	{"M3_shared_layers", testSharedLayers},
	{"M3_sparse_index", testSparseIndex},
	{"M3_platform_of_another_release", testPlatformOfAnotherRelease},
	{"M3_child_that_comes_by_another_release", testChildFromElsewhere},
	{"M3_tree_copied_in", testTreeCopiedIn},
	{"M3_tree_copied_over", testTreeCopiedOver},
	{"M3_tools", testTools},
}

// testListingIsRelease: the second release gets manifests only, and has all.
func testListingIsRelease(t *testing.T, m Mounts) {
	for _, style := range []func(string) registry{registry2, registry3} {
		t.Run("", func(t *testing.T) {
			one, two := newImage(t.Name()+"1", 3), newImage(t.Name()+"2", 2)
			index := newIndex(t.Name(), newIndex(t.Name()+"inner", one), two)
			release := "m3-list-" + filepath.Base(t.Name())[1:]
			pushed(t, m, release+"a", index)
			r := style(m.Mount(t, release+"b", ReuseStore))
			ok(t, r.pushManifests("new/name", "v2", index))
			ok(t, r.pushManifests("other", "", two))
			want := union(index.files("new/name", "v2"), two.files("other", ""))
			sameList(t, "find", findFiles(t, r.root), want)
			sameList(t, "tar", tarFiles(t, r.root), want)
			for _, b := range two.blobs() {
				checkLink(t, r.layer("other", digest.FromBytes(b)), digest.FromBytes(b))
			}
			before := find(t, r.root)
			root := m.remount(t, r.root, release+"b", ReuseStore)
			sameList(t, "find, mounted again", find(t, root), before)
			root = m.remount(t, root, release+"b", ReuseNone)
			sameList(t, "find, mounted without reuse", find(t, root), before)
			for _, b := range index.blobs() {
				checkBlob(t, registry{root: root}, b)
			}
		})
	}
}

func tarFiles(t *testing.T, dir string) []string {
	t.Helper()
	list := must(exec.Command("sh", "-c", `tar -C "$1" -cf - . | tar -tf -`, "sh", dir).Output())(t)
	var files []string
	for line := range strings.Lines(string(list)) {
		if name := strings.TrimSuffix(line, "\n"); !strings.HasSuffix(name, "/") {
			files = append(files, strings.TrimPrefix(name, "./"))
		}
	}
	return files
}

func testListingFollowsDeletion(t *testing.T, m Mounts) {
	shared := noise(t.Name(), 700)
	one, two := newImage(t.Name()+"1", 2, shared), newImage(t.Name()+"2", 2, shared)
	a := pushed(t, m, "m3-delete-a", one)
	ok(t, a.pushImage("library/known", "v2", two))
	r := registry3(m.Mount(t, "m3-delete-b", ReuseStore))
	ok(t, r.pushManifests("repo", "v1", one))
	ok(t, r.pushManifests("repo", "v2", two))
	ok(t, r.pushManifests("repo2", "v1", one))
	all := union(one.files("repo", "v1"), two.files("repo", "v2"), one.files("repo2", "v1"))
	sameList(t, "both", findFiles(t, r.root), all)
	ok(t, r.deleteManifest("repo", one.digest(), "v1"))
	sameList(t, "one deleted in one repository", findFiles(t, r.root), union(two.files("repo", "v2"), one.files("repo2", "v1")))
	ok(t, r.deleteManifest("repo2", one.digest(), "v1"))
	// The manifest itself was uploaded here; its layers were not.
	rest := union(two.files("repo", "v2"), []string{layout.BlobDataPath(one.digest())})
	sameList(t, "one deleted", findFiles(t, r.root), rest)
	ok(t, r.deleteManifest("repo", two.digest(), "v2"))
	rest = []string{layout.BlobDataPath(one.digest()), layout.BlobDataPath(two.digest())}
	sameList(t, "both deleted", findFiles(t, r.root), rest)
	root := m.remount(t, r.root, "m3-delete-b", ReuseStore)
	sameList(t, "both deleted, mounted again", findFiles(t, root), rest)
	sameList(t, "the other release", findFiles(t, a.root), union(one.files("library/known", "v1"), two.files("library/known", "v2")))
}

func testUnreferencedListed(t *testing.T, m Mounts) {
	content := noise(t.Name(), 700)
	d := digest.FromBytes(content)
	r := registry3(m.Mount(t, "m3-unreferenced", ReuseStore))
	ok(t, r.push("repo", content))
	want := []string{layout.BlobDataPath(d), layout.LayerLinkPath("repo", d)}
	sameList(t, "release", findFiles(t, r.root), want)
	root := m.remount(t, r.root, "m3-unreferenced", ReuseStore)
	sameList(t, "release, mounted again", findFiles(t, root), want)
}

func testSharedLayers(t *testing.T, m Mounts) {
	// One digest twice in a manifest, and as layer here and config there.
	shared := noise(t.Name(), 700)
	one := newImage(t.Name(), 0, shared, shared)
	two := newImage(t.Name()+"2", 0, one.config, shared)
	r := pushed(t, m, "m3-shared", one)
	ok(t, r.pushManifests("library/known", "v2", two))
	ok(t, r.pushManifests("library/known", "v2", two)) // linked again
	ok(t, r.push("library/known", two.config))
	want := union(one.files("library/known", "v1"), two.files("library/known", "v2"))
	sameList(t, "both", findFiles(t, r.root), want)
	ok(t, r.deleteManifest("library/known", two.digest(), "v2"))
	ok(t, r.deleteBlob(two.digest()))
	ok(t, r.deleteBlob(digest.FromBytes(two.config)))
	ok(t, r.deleteLayer("library/known", digest.FromBytes(two.config)))
	sameList(t, "one", findFiles(t, r.root), union(one.files("library/known", "v1")))
}

// testSparseIndex: a child that is nowhere is not listed, and does no harm.
func testSparseIndex(t *testing.T, m Mounts) {
	here, nowhere := newImage(t.Name()+"here", 2), newImage(t.Name()+"nowhere", 2)
	index := newIndex(t.Name(), here, nowhere)
	r := registry3(m.Mount(t, "m3-sparse", ReuseStore))
	ok(t, r.pushImage("repo", "", here))
	ok(t, r.pushManifest("repo", "v1", index.manifest))
	sparse := newIndex(t.Name(), here, nowhere)
	sparse.children = sparse.children[:1]
	sameList(t, "sparse", findFiles(t, r.root), sparse.files("repo", "v1"))
	ok(t, r.pushImage("repo", "", nowhere))
	sameList(t, "complete", findFiles(t, r.root), index.files("repo", "v1"))
}

// testChildFromElsewhere: what a listing shows does not depend on whether the
// release was mounted when another one brought what was missing.
func testChildFromElsewhere(t *testing.T, m Mounts) {
	child := newImage(t.Name()+"child", 2)
	index := newIndex(t.Name(), child)
	a := registry3(m.Mount(t, "m3-elsewhere-a", ReuseStore))
	ok(t, a.pushManifest("repo", "v1", index.manifest))
	b := registry3(m.Mount(t, "m3-elsewhere-b", ReuseStore))
	ok(t, b.pushImage("repo", "v1", child))
	before := findFiles(t, a.root)
	root := m.remount(t, a.root, "m3-elsewhere-a", ReuseStore)
	sameList(t, "mounted again", findFiles(t, root), before)
}

// testTreeCopiedIn: tar lays a registry's tree down in any order, links before
// their blobs too. (cp -a does not look before it makes what is below a new
// directory, and stumbles over links that follow from a manifest already.)
func testTreeCopiedIn(t *testing.T, m Mounts) {
	for name, command := range map[string]string{
		"tar": `tar -C "$1" -cf - docker | tar -C "$2" -xf -`,
		"blobs first": `cp -a "$1/docker/registry/v2/blobs" "$2/docker/registry/v2/" &&
			tar -C "$1" -cf - docker/registry/v2/repositories | tar -C "$2" -xf -`,
		"links first": `tar -C "$1" -cf - docker/registry/v2/repositories | tar -C "$2" -xf - &&
			tar -C "$1" -cf - docker/registry/v2/blobs | tar -C "$2" -xf -`,
	} {
		t.Run(name, func(t *testing.T) {
			from, want := sampleTree(t)
			release := "m3-copied-" + name[:2]
			dir := m.Mount(t, release, ReuseNone)
			shell(t, command, from, dir)
			sameList(t, "copied", findFiles(t, dir), want)
			dir = m.remount(t, dir, release, ReuseStore)
			sameList(t, "copied, mounted again", findFiles(t, dir), want)
		})
	}
}

// sampleTree is a registry's tree on an ordinary disk, and what a release has
// that was made of it.
func sampleTree(t *testing.T) (dir string, files []string) {
	one, two := newImage(t.Name()+"1", 3), newImage(t.Name()+"2", 2)
	index := newIndex(t.Name(), one, two)
	r := registry3(t.TempDir())
	ok(t, r.pushImage("a/b", "v1", index))
	ok(t, r.pushManifests("c", "v2", one)) // its layer links were never written
	ok(t, os.Remove(filepath.Join(r.repository("a/b"), "_uploads")))
	return r.root, union(index.files("a/b", "v1"), one.files("c", "v2"))
}

// shell runs a script with arguments. One that does not end is ended.
func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", append([]string{"-ec", script, "sh"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", script, errors.Join(err, ctx.Err()), out)
	}
}

// testTreeCopiedOver: the same once more, onto what is there, is the same
// still. tar removes what stands in its way, a needed blob too, and expects
// the name to be free then.
func testTreeCopiedOver(t *testing.T, m Mounts) {
	for name, command := range map[string]string{
		"cp":              `cp -a "$1/docker" "$2/"`,
		"rsync-like":      `cd "$1"; find docker -type f | while read f; do cp "$f" "$2/$f.xx"; mv "$2/$f.xx" "$2/$f"; done`,
		"tar":             `tar -C "$1" -cf - docker | tar -C "$2" -xf -`,
		"tar --overwrite": `tar -C "$1" -cf - docker | tar -C "$2" --overwrite -xf -`,
	} {
		t.Run(name, func(t *testing.T) {
			from, want := sampleTree(t)
			dir := m.Mount(t, "m3-over-"+strings.ReplaceAll(name, " ", ""), ReuseStore)
			r := registry{root: dir, put: putByRename}
			for _, p := range findFiles(t, from) {
				ok(t, r.put(r.path(p), must(os.ReadFile(filepath.Join(from, p)))(t)))
			}
			shell(t, command, from, dir)
			sameList(t, "copied over", findFiles(t, dir), want)
		})
	}
}

// testTools: what du, ls and diff make of it.
func testTools(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	r := pushed(t, m, "m3-tools", img)
	out := t.TempDir()
	for _, command := range []string{
		`cp -a "$1/." "$2/cp" && diff -r "$1" "$2/cp"`,
		`mkdir "$2/tar" && tar -C "$1" -cf - . | tar -C "$2/tar" -xf - && diff -r "$1" "$2/tar"`,
		`du -s "$1" && ls -lRi "$1"`,
	} {
		shell(t, command, r.root, out)
	}
	got := findFiles(t, filepath.Join(out, "tar"))
	sameList(t, "untarred", got, slices.Clone(img.files("library/known", "v1")))
}

// testPlatformOfAnotherRelease: a sparse index has no child of history's.
func testPlatformOfAnotherRelease(t *testing.T, m Mounts) {
	here, past := newImage(t.Name()+"here", 2), newImage(t.Name()+"past", 2)
	ok(t, registry3(m.Mount(t, "m3-platform-a", ReuseStore)).pushImage("repo", "", past))
	r := registry3(m.Mount(t, "m3-platform-b", ReuseStore))
	ok(t, r.pushImage("repo", "", here))
	sparse := newIndex(t.Name(), here, past)
	ok(t, r.pushManifest("repo", "v1", sparse.manifest))
	sparse.children = sparse.children[:1]
	sameList(t, "sparse", findFiles(t, r.root), sparse.files("repo", "v1"))
}
