package mounttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layout"
)

// Clauses that only some mounts keep, see docs/posix.md, "On overlay". Those
// that have a weaker form there name the clause of [Overlay] that checks it.
const (
	listsHistory = "listings show history; the release's own is O1_same_release"
	byRepository = "blobs of other releases are found by repository: O2_reuse"
	notAtOnce    = "what another mount brings is seen by the next mount: O2_reuse"
	neverNone    = "there is no --reuse none"
	checkedLater = "content is checked when it is brought into the store: O4_refused"
	ownFiles     = "files below the mount are files, with the owner, mode and time of who writes them"
	ownRemovals  = "what is removed is gone from the mount, needed or not: O3_removed"
)

// OverlayExceptions are the clauses of [Contract] that kernel overlayfs cannot
// keep.
var OverlayExceptions = map[string]string{
	"M2_reuse_store":                            byRepository,
	"M2_reuse_repository":                       listsHistory,
	"M2_reuse_none":                             neverNone,
	"M3_lookup_lists_nothing":                   byRepository,
	"M12_seen_at_once":                          notAtOnce,
	"M12_uploads_of_many_releases":              listsHistory,
	"M3_listing_is_the_release":                 listsHistory,
	"M3_listing_follows_deletion":               listsHistory,
	"M3_uploaded_and_not_referenced":            listsHistory,
	"M3_shared_layers":                          listsHistory,
	"M3_sparse_index":                           listsHistory,
	"M3_platform_of_another_release":            listsHistory,
	"M3_child_that_comes_by_another_release":    listsHistory,
	"M3_tree_copied_in":                         neverNone,
	"M3_tree_copied_over":                       listsHistory,
	"M3_tools":                                  listsHistory,
	"M4_deleted_link_stays_hidden":              byRepository,
	"M4_deleted_link_that_was_never_written":    byRepository,
	"M4_hidden_link_comes_with_manifest":        ownRemovals,
	"M4_needed_blob_stays":                      ownRemovals,
	"M4_deleted_blob_hidden":                    notAtOnce,
	"M4_hidden_blob_comes_with_manifest":        ownRemovals,
	"M4_collection_between_upload_and_manifest": ownRemovals,
	"M4_deleted_manifest":                       listsHistory,
	"M4_remove_everything":                      listsHistory,
	"M4_remove_a_repository":                    listsHistory,
	"M4_hidden_state_lasts":                     byRepository,
	"M5_mismatch":                               checkedLater,
	"M5_bad_link":                               checkedLater,
	"M5_whole_or_not_at_all":                    checkedLater,
	"M5_not_stored_again":                       notAtOnce,
	"M5_damaged_is_replaced":                    checkedLater,
	"M6_immutable":                              "a blob that is written to changes in this mount, not in the store: O4_refused",
	"M6_writer_of_the_upload":                   checkedLater,
	"M6_mapping_of_the_upload":                  checkedLater,
	"M6_rewritten_under_readers":                "a blob that is written in place is, for a moment, not whole for those who read it here",
	"M8_purge":                                  listsHistory,
	"M9_plain_files_last":                       "the mount's own directory is made anew for each mount",
	"M7_release_lasts":                          neverNone,
	"M7_empty_directories_last":                 neverNone,
	"M10_stable_attributes":                     ownFiles,
	"M10_true_sizes_and_times":                  ownFiles,
	"M10_attributes_belong_to_the_mount":        ownFiles,
	"M10_long_names":                            listsHistory,
}

// Overlay checks what holds in place of those clauses. The two backends mount
// releases of one store: what is written by overlayfs must be, on FUSE, the
// release that it would be had it been written there.
func Overlay(t *testing.T, overlay, fuse Mounts) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, overlay, fuse Mounts)
	}{
		{"O1_same_release", testSameRelease},
		{"O1_back_and_forth", testBackAndForth},
		{"O2_reuse", testOverlayReuse},
		{"O3_removed", testOverlayRemoved},
		{"O3_removed_everything", testOverlayRemovedAll},
		{"O4_refused", testOverlayRefused},
		{"O5_private_files_stay_private", testNothingPrivate},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, overlay, fuse) })
	}
}

// testSameRelease: all kinds of images, some of whose blobs history has.
func testSameRelease(t *testing.T, overlay, fuse Mounts) {
	for name, style := range map[string]func(string) registry{"2.8": registry2, "3.x": registry3} {
		t.Run(name, func(t *testing.T) {
			known, past := newImage(t.Name()+"known", 3), newImage(t.Name()+"past", 1)
			pushed(t, overlay, "o1-history-"+name, newIndex(t.Name()+"h", known, past))
			shared := noise(t.Name(), 700)
			one, two := newImage(t.Name()+"1", 3, shared), newImage(t.Name()+"2", 2, shared)
			index := newIndex(t.Name(), newIndex(t.Name()+"inner", one), two)
			sparse := newIndex(t.Name()+"sparse", one, past)
			r := style(overlay.Mount(t, "o1-"+name, ReuseRepository))
			ok(t, r.pushImage("new/name", "v1", index))
			ok(t, r.pushManifests("library/known", "v1", known))
			ok(t, r.pushManifests("library/derived", "v1", known))
			ok(t, r.pushManifest("new/name", "sparse", sparse.manifest))
			ok(t, r.push("loose", shared))
			ok(t, r.tag("new/name", "v2", one.digest()))
			ok(t, r.tag("new/name", "v2", two.digest()))
			sparse.children = sparse.children[:1]
			want := union(index.files("new/name", "v1"), sparse.files("new/name", "sparse"),
				known.files("library/known", "v1"), known.files("library/derived", "v1"),
				[]string{layout.LayerLinkPath("loose", digest.FromBytes(shared)), layout.TagCurrentLinkPath("new/name", "v2"),
					layout.TagIndexLinkPath("new/name", "v2", one.digest()), layout.TagIndexLinkPath("new/name", "v2", two.digest())})
			overlay.Unmount(t, r.root)
			dir := fuse.Mount(t, "o1-"+name, ReuseNone)
			sameList(t, "release, on FUSE", findFiles(t, dir), want)
			for _, b := range append(index.blobs(), index.manifests()...) {
				checkBlob(t, registry{root: dir}, b)
			}
		})
	}
}

// testBackAndForth: neither names nor plain files nor uploads are lost on the
// way, and nothing comes twice.
func testBackAndForth(t *testing.T, overlay, fuse Mounts) {
	one, two := newImage(t.Name()+"1", 2), newImage(t.Name()+"2", 2)
	r := registry3(fuse.Mount(t, "o1-forth", ReuseStore))
	ok(t, r.pushImage("a", "v1", one))
	u := must(r.newUpload("a"))(t)
	ok(t, u.write([]byte("begun on FUSE, ")))
	writeFile(t, r.path("scheduler-state.json"), []byte("{}"))
	fuse.Unmount(t, r.root)

	r = registry3(overlay.Mount(t, "o1-forth", ReuseRepository))
	hasContent(t, r.path("scheduler-state.json"), []byte("{}"))
	checkLink(t, r.current("a", "v1"), one.digest())
	u.registry, u.dir = r, filepath.Join(r.root, strings.TrimPrefix(u.dir, u.root))
	ok(t, u.write([]byte("ended on overlayfs")))
	ok(t, u.commit(digest.FromString("begun on FUSE, ended on overlayfs")))
	ok(t, r.pushImage("a", "v2", two))
	u = must(r.newUpload("a"))(t)
	ok(t, u.write([]byte("resumed")))
	root := overlay.remount(t, r.root, "o1-forth", ReuseRepository)
	checkLink(t, registry3(root).current("a", "v2"), two.digest())
	overlay.Unmount(t, root)

	r = registry3(fuse.Mount(t, "o1-forth", ReuseNone))
	u.registry, u.dir = r, filepath.Join(r.root, strings.TrimPrefix(u.dir, u.root))
	ok(t, u.commit(digest.FromString("resumed")))
	want := union(one.files("a", "v1"), two.files("a", "v2"), []string{"scheduler-state.json"})
	for _, text := range []string{"begun on FUSE, ended on overlayfs", "resumed"} {
		d := digest.FromString(text)
		want = append(want, layout.BlobDataPath(d), layout.LayerLinkPath("a", d))
	}
	sameList(t, "release, on FUSE", findFiles(t, r.root), want)
}

// testOverlayReuse: a blob is found where its repository had it, as soon as
// the release is mounted.
func testOverlayReuse(t *testing.T, overlay, fuse Mounts) {
	img := newImage(t.Name(), 2)
	pushed(t, overlay, "o2-a", img) // and stays mounted
	r := registry3(overlay.Mount(t, "o2-b", ReuseRepository))
	for _, b := range img.blobs() {
		d := digest.FromBytes(b)
		checkBlob(t, r, b)
		checkLink(t, r.layer("library/known", d), d)
		absent(t, r.layer("library/other", d))
	}
	absent(t, r.revision("library/known", img.digest()))
	absent(t, r.layer("library/known", img.digest()))
	absent(t, r.current("library/known", "v1"))
	// And what was written by overlayfs is found on FUSE, in every repository.
	r = registry3(fuse.Mount(t, "o2-c", ReuseStore))
	for _, b := range img.blobs() {
		checkBlob(t, r, b)
		checkLink(t, r.layer("anywhere", digest.FromBytes(b)), digest.FromBytes(b))
	}
}

func testOverlayRemoved(t *testing.T, overlay, fuse Mounts) {
	one, two, loose := newImage(t.Name()+"1", 2), newImage(t.Name()+"2", 2), noise(t.Name(), 500)
	other := pushed(t, overlay, "o3-other", one)
	r := pushed(t, overlay, "o3", one)
	ok(t, r.pushImage("library/known", "v2", two))
	ok(t, r.push("library/known", loose))
	d := digest.FromBytes(loose)
	root := overlay.remount(t, r.root, "o3", ReuseRepository)
	r = registry3(root)
	ok(t, r.deleteManifest("library/known", two.digest(), "v2"))
	ok(t, r.deleteLayer("library/known", d))
	ok(t, r.deleteBlob(d))
	ok(t, r.deleteLayer("library/known", digest.FromBytes(one.config))) // history's as well
	ok(t, r.deleteBlob(digest.FromBytes(one.config)))                   // and needed
	absent(t, r.blob(d))
	absent(t, r.blob(digest.FromBytes(one.config)))
	root = overlay.remount(t, root, "o3", ReuseRepository)
	absent(t, registry3(root).blob(d))
	absent(t, registry3(root).layer("library/known", digest.FromBytes(one.config)))
	checkBlob(t, registry3(root), one.config) // a linked manifest needs it
	overlay.Unmount(t, root)

	rest := union(one.files("library/known", "v1"))
	for _, b := range append(two.blobs(), two.manifest) { // uploaded here, and not removed themselves
		rest = append(rest, layout.BlobDataPath(digest.FromBytes(b)))
	}
	for _, b := range two.blobs() {
		rest = append(rest, layout.LayerLinkPath("library/known", digest.FromBytes(b)))
	}
	hidden := layout.LayerLinkPath("library/known", digest.FromBytes(one.config))
	rest = slices.DeleteFunc(rest, func(p string) bool { return p == hidden })
	dir := fuse.Mount(t, "o3", ReuseStore)
	sameList(t, "release, on FUSE", findFiles(t, dir), rest)
	absent(t, registry3(dir).blob(d))
	checkBlob(t, other, one.config)

	// Pushed again, it is there again.
	fuse.Unmount(t, dir)
	r = registry3(overlay.Mount(t, "o3", ReuseRepository))
	ok(t, r.push("library/known", loose))
	ok(t, r.push("library/known", one.config))
	overlay.Unmount(t, r.root)
	dir = fuse.Mount(t, "o3", ReuseNone)
	sameList(t, "pushed again", findFiles(t, dir), append(rest, hidden, layout.BlobDataPath(d), layout.LayerLinkPath("library/known", d)))
}

func testOverlayRemovedAll(t *testing.T, overlay, fuse Mounts) {
	img := newImage(t.Name(), 2)
	other := pushed(t, fuse, "o3-all-other", img)
	r := pushed(t, overlay, "o3-all", img)
	ok(t, os.RemoveAll(r.repository("library/known")))
	ok(t, os.RemoveAll(r.path("docker")))
	root := overlay.remount(t, r.root, "o3-all", ReuseRepository)
	for _, b := range img.blobs() {
		absent(t, registry3(root).blob(digest.FromBytes(b)))
		absent(t, registry3(root).layer("library/known", digest.FromBytes(b)))
	}
	overlay.Unmount(t, root)
	dir := fuse.Mount(t, "o3-all", ReuseStore)
	sameList(t, "emptied release, on FUSE", findFiles(t, dir), nil)
	sameList(t, "other release", findFiles(t, other.root), img.files("library/known", "v1"))
}

// testOverlayRefused: wrong content is nobody's but this mount's, and is not
// lost.
func testOverlayRefused(t *testing.T, overlay, fuse Mounts) {
	good := newImage(t.Name(), 1)
	promised, written := noise(t.Name()+"promised", 500), noise(t.Name()+"written", 500)
	d := digest.FromBytes(promised)
	r := registry2(overlay.Mount(t, "o4", ReuseRepository))
	ok(t, r.pushImage("repo", "v1", good))
	ok(t, r.put(r.blob(d), written))
	ok(t, r.put(r.layer("repo", d), []byte(d)))
	ok(t, r.put(r.current("repo", "bad"), []byte("no digest")))
	changed := digest.FromBytes(good.config)
	root := overlay.remount(t, r.root, "o4", ReuseRepository)
	r = registry2(root)
	ok(t, r.put(r.blob(changed), []byte("not the config"))) // copied up, not written through
	overlay.Unmount(t, root)

	logged(t, overlay, d.String())
	logged(t, overlay, digest.FromBytes(written).String())
	absent(t, overlay.storeBlob(d))
	for name, want := range map[string][]byte{
		layout.BlobDataPath(d): written, layout.LayerLinkPath("repo", d): []byte(d),
		layout.TagCurrentLinkPath("repo", "bad"): []byte("no digest"), layout.BlobDataPath(changed): []byte("not the config"),
	} {
		hasContent(t, filepath.Join(overlay.Store, "releases", "o4", "refused", name), want)
	}
	dir := fuse.Mount(t, "o4", ReuseNone)
	sameList(t, "release, on FUSE", findFiles(t, dir), good.files("repo", "v1"))
	checkBlob(t, registry2(dir), good.config)
}

// testNothingPrivate: of the store's own files none is seen, nor can one be
// reached.
func testNothingPrivate(t *testing.T, overlay, _ Mounts) {
	dir := overlay.Mount(t, "o5", ReuseRepository)
	sameList(t, "the mount's root", names(t, dir), []string{"docker"})
	for _, name := range []string{"index", "lock", "regfs.json", "releases", "tmp", "overlay", "registry"} {
		absent(t, filepath.Join(dir, name))
	}
	content := []byte("on the mount")
	for _, name := range []string{"index", "regfs.json", "registry"} {
		writeFile(t, filepath.Join(dir, name), content)
	}
	dir = overlay.remount(t, dir, "o5", ReuseRepository)
	hasContent(t, filepath.Join(dir, "regfs.json"), content)
	if in := must(os.ReadFile(filepath.Join(overlay.Store, "regfs.json")))(t); string(in) == string(content) {
		t.Error("a file of the store was written to")
	}
	var st unix.Stat_t
	ok(t, unix.Stat(filepath.Join(overlay.Store, "index"), &st))
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Error("the store's index is no directory any more")
	}
}
