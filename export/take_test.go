package export

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// has checks whether the inventory has a file.
func (f *fixture) has(path string, want bool) {
	f.Helper()
	got := slices.ContainsFunc(f.take().Files, func(file File) bool { return file.Path == path })
	if got != want {
		f.Errorf("%s is in the inventory: %v, want %v", path, got, want)
	}
}

// notes checks that each note has all the words of one of those wanted.
func (f *fixture) notes(want ...[]string) {
	f.Helper()
	notes := f.take().Notes
	if len(notes) != len(want) {
		f.Fatalf("notes %q, want %d", notes, len(want))
	}
	for i, words := range want {
		for _, word := range words {
			if !strings.Contains(notes[i], word) {
				f.Errorf("note %q does not say %q", notes[i], word)
			}
		}
	}
}

// sound checks that nothing keeps the release from being exported.
func (f *fixture) sound() {
	f.Helper()
	f.must(f.take().Err())
}

func TestEmptyRelease(t *testing.T) {
	f := setup(t)
	if inv := f.take(); len(inv.Files) > 0 || inv.Err() != nil {
		t.Errorf("inventory of nothing: %+v", inv)
	}
	if got := f.dump(f.tar()); got != "" {
		t.Errorf("tar of nothing holds %s", got)
	}
}

func TestHistoryOfAnotherReleaseIsLeftOut(t *testing.T) {
	f := setup(t)
	old := f.newRelease("v0")
	f.pushTo(old, "app", "0", image(f.put("old config"), f.put("base"), f.put("old")))
	f.push("app", "1", image(f.put("config"), f.put("base")))
	for _, content := range []string{"old config", "old"} {
		f.has(layout.BlobDataPath(digest.FromString(content)), false)
		f.has(layout.LayerLinkPath("app", digest.FromString(content)), false)
	}
	f.has(layout.BlobDataPath(digest.FromString("base")), true)
	f.has(layout.TagCurrentLinkPath("app", "0"), false)
}

func TestUnreferencedUploadIsLeftOut(t *testing.T) {
	f := setup(t)
	used, unused := f.put("layer"), f.put("unused")
	for _, d := range []digest.Digest{used.Digest, unused.Digest} {
		f.must(f.release.AddBlob(d))
		f.must(f.release.LinkLayer("app", d))
		f.must(f.release.LinkLayer("other", d))
	}
	f.push("app", "1", image(f.put("config"), used))
	f.has(layout.BlobDataPath(unused.Digest), false)
	f.has(layout.LayerLinkPath("app", unused.Digest), false)
	f.has(layout.LayerLinkPath("app", used.Digest), true)
	// The blob is needed, but not by this repository.
	f.has(layout.LayerLinkPath("other", used.Digest), false)
}

func TestHiddenLayerLinkIsLeftOut(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	m := image(f.put("config"), layer)
	f.push("a", "1", m)
	f.push("b", "1", m)
	f.must(f.release.HideLayer("b", layer.Digest))
	f.must(f.release.HideBlob(layer.Digest))
	f.has(layout.BlobDataPath(layer.Digest), true)
	f.has(layout.LayerLinkPath("a", layer.Digest), true)
	f.has(layout.LayerLinkPath("b", layer.Digest), false)
	f.notes([]string{"image b:1", layer.Digest.String(), "removed"})
	f.sound()
}

func TestUntaggedRevisionCounts(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	d := f.push("app", "", image(f.put("config"), layer))
	f.has(layout.RevisionLinkPath("app", d), true)
	f.has(layout.BlobDataPath(layer.Digest), true)
	f.remove(layer.Digest)
	f.missing(layer.Digest, "app@"+d.String())
}

// missing checks that one blob is missing, and who is said to need it.
func (f *fixture) missing(d digest.Digest, images ...string) {
	f.Helper()
	var missing *MissingError
	if err := f.take().Err(); !errors.As(err, &missing) {
		f.Fatalf("Err is %v, want a MissingError", err)
	}
	if len(missing.Missing) != 1 || missing.Missing[0].Digest != d || !slices.Equal(missing.Missing[0].Images, images) {
		f.Errorf("missing %v, want %s of %v", missing.Missing, d, images)
	}
	for _, word := range append(images, d.String(), "export v1") {
		if !strings.Contains(missing.Error(), word) {
			f.Errorf("%q does not say %q", missing, word)
		}
	}
}

func TestMissingBlobNamesItsImages(t *testing.T) {
	f := setup(t)
	base := f.put("base")
	f.push("library/app", "1", image(f.put("config 1"), base, f.put("1")))
	same := image(f.put("config 2"), base, f.put("2"))
	f.push("library/app", "2", same)
	f.push("library/app", "latest", same)
	amd := image(f.put("config amd64"), base)
	f.push("multi", "", amd)
	f.push("multi", "1", list(child(amd, "amd64")))
	f.push("other", "1", image(f.put("config 3")))
	f.remove(base.Digest)
	f.missing(base.Digest, "library/app:1", "library/app:2", "library/app:latest", "multi:1")
}

func TestMissingManifest(t *testing.T) {
	f := setup(t)
	amd := image(f.put("config"))
	d := f.push("multi", "", amd)
	f.push("multi", "1", list(child(amd, "amd64")))
	f.remove(d) // its index could do without, its own link cannot
	f.missing(d, "multi:1")
}

func TestForeignLayerIsNoted(t *testing.T) {
	f := setup(t)
	absent, there := foreign("absent"), foreign("there")
	f.put("there")
	f.push("windows", "1", image(f.put("config"), absent, there))
	f.has(layout.LayerLinkPath("windows", absent.Digest), false)
	f.has(layout.LayerLinkPath("windows", there.Digest), true)
	f.has(layout.BlobDataPath(there.Digest), true)
	f.notes([]string{"image windows:1", absent.Digest.String(), "foreign"})
	f.sound()
	// A registry does not write such a link, but a copied tree may have it.
	f.must(f.release.LinkLayer("windows", absent.Digest))
	f.has(layout.LayerLinkPath("windows", absent.Digest), false)
}

func TestForeignForOneNeededByAnother(t *testing.T) {
	f := setup(t)
	f.push("windows", "1", image(f.put("config"), foreign("layer")))
	f.push("strict", "1", image(f.put("config"), lost("layer")))
	f.missing(lost("layer").Digest, "strict:1")
}

func TestSparseIndexIsNoted(t *testing.T) {
	f := setup(t)
	amd, arm := image(f.put("config amd64")), image(lost("config arm64"))
	f.push("multi", "", amd)
	f.push("multi", "1", list(child(amd, "amd64"), child(arm, "arm64")))
	f.notes([]string{"image multi:1", lost(arm).Digest.String(), "linux/arm64", "sparse"})
	f.sound()
}

// A child that another release brought later does not make this one's sparse
// index whole, nor damaged.
func TestSparseIndexStaysSparse(t *testing.T) {
	f := setup(t)
	arm := image(f.put("config arm64"))
	f.push("multi", "1", list(child(arm, "arm64")))
	f.put(arm)
	f.has(layout.BlobDataPath(lost(arm).Digest), false)
	f.notes([]string{"image multi:1", lost(arm).Digest.String(), "not linked", "sparse"})
	f.sound()
}

func TestChildLinkedAfterItsIndex(t *testing.T) {
	f := setup(t)
	arm := image(f.put("config arm64"))
	f.push("multi", "1", list(child(arm, "arm64")))
	f.push("multi", "", arm)
	f.has(layout.BlobDataPath(lost(arm).Digest), true)
	f.has(layout.LayerLinkPath("multi", lost("config arm64").Digest), true)
	f.notes()
	f.sound()
}

// damaged checks that one blob is, and that the message says so.
func (f *fixture) damaged(err error, d digest.Digest, words ...string) {
	f.Helper()
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		f.Fatalf("error is %v, want a DamagedError", err)
	}
	for _, word := range append(words, d.String(), "export v1") {
		if !strings.Contains(damaged.Error(), word) {
			f.Errorf("%q does not say %q", damaged, word)
		}
	}
}

func TestLinkedManifestOfWhichNothingIsKnown(t *testing.T) {
	f := setup(t)
	d := f.put(image(f.put("config"))).Digest
	f.must(f.release.LinkManifest("app", d, nil))
	f.must(f.release.Tag("app", "1", d))
	f.damaged(f.take().Err(), d, "app:1", "index")
}

func TestSizeUnlikeTheManifests(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	f.push("app", "1", image(f.put("config"), layer))
	f.overwrite(layer.Digest, "lay")
	f.damaged(f.take().Err(), layer.Digest, "app:1", "3 bytes", "5 by")
}

func TestMissingAndDamaged(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	f.push("app", "1", image(lost("config"), layer))
	f.overwrite(layer.Digest, "lay")
	f.missing(lost("config").Digest, "app:1")
	f.damaged(f.take().Err(), layer.Digest, "app:1")
}

func TestUnreadableBlob(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	f.push("app", "1", image(f.put("config"), layer))
	f.remove(layer.Digest)
	f.must(os.Mkdir(f.path(layer.Digest), 0o700)) // no blob, and not absent either
	err := f.take().Err()
	f.damaged(err, layer.Digest, "app:1")
	if !strings.Contains(err.Error(), "cannot be read: not a regular file") {
		t.Errorf("Take: %v", err)
	}
}

func TestDanglingTags(t *testing.T) {
	f := setup(t)
	one := f.push("app", "1", image(f.put("config 1")))
	two := f.push("app", "1", image(f.put("config 2")))
	f.must(f.release.UnlinkManifest("app", one))
	gone := f.push("app", "gone", image(f.put("config 3")))
	f.must(f.release.UnlinkManifest("app", gone))
	f.push("app", "untagged", image(f.put("config 4")))
	f.must(f.release.Untag("app", "untagged"))

	f.has(layout.TagIndexLinkPath("app", "1", one), false)
	f.has(layout.TagIndexLinkPath("app", "1", two), true)
	f.has(layout.TagCurrentLinkPath("app", "1"), true)
	f.has(layout.TagCurrentLinkPath("app", "gone"), false)
	for _, file := range f.take().Files {
		if strings.Contains(file.Path, "/tags/gone/") || strings.Contains(file.Path, "/tags/untagged/") {
			t.Errorf("%s is in the inventory", file.Path)
		}
	}
	f.notes(
		[]string{"tag app:1: ", "history", one.String()},
		[]string{"tag app:gone: ", "left out", gone.String()},
		[]string{"tag app:untagged: ", "nothing"})
	f.sound()
}

func TestNeededByOutOfRange(t *testing.T) {
	inv := &Inventory{Images: []string{"app:1"}}
	got := inv.ImagesOf(File{NeededBy: []int{-1, 0, 1}})
	if !slices.Equal(got, []string{"app:1"}) {
		t.Errorf("images %v", got)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	var missing []Missing
	for range 1000 {
		missing = append(missing, Missing{digest.FromString("blob"), make([]string, 1000)})
	}
	message := (&MissingError{"v1", missing}).Error()
	if len(message) > 4096 || !strings.Contains(message, "990 more blobs") || !strings.Contains(message, "995 more") {
		t.Errorf("%d bytes: %s", len(message), message)
	}
}

func TestFaultsAreSorted(t *testing.T) {
	f := setup(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		torn := f.put(name)
		f.push("app", name, image(lost("config "+name), torn))
		f.overwrite(torn.Digest, "torn")
	}
	inv := f.take()
	byDigest := func(a, b digest.Digest) int { return strings.Compare(a.String(), b.String()) }
	if len(inv.Missing) != 4 || !slices.IsSortedFunc(inv.Missing, func(a, b Missing) int { return byDigest(a.Digest, b.Digest) }) {
		t.Errorf("missing: %v", inv.Missing)
	}
	if len(inv.Damaged) != 4 || !slices.IsSortedFunc(inv.Damaged, func(a, b Damage) int { return byDigest(a.Digest, b.Digest) }) {
		t.Errorf("damaged: %v", inv.Damaged)
	}
}

// The image is in the tar all the same, and so it must be whole.
func TestReleaseChangesMeanwhile(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	d := f.push("app", "1", image(f.put("config"), layer))
	repo := survey(f.release, "app")
	f.must(f.release.UnlinkManifest("app", d))
	if state := f.release.Layer("app", layer.Digest).State; state != index.Absent {
		t.Fatalf("layer link is %v", state)
	}
	tk := newTaking(f.release, newSizes(f.blobs))
	tk.repository(repo)
	if _, ok := tk.links[layout.LayerLinkPath("app", layer.Digest)]; !ok {
		t.Error("an image is in the tar without the link of its layer")
	}
}
