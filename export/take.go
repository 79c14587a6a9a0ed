package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// Take lists everything that a release's export consists of: all linked
// manifests, tagged or not, what they need, and the links by which a registry
// finds it. What was uploaded and is needed by no manifest is left out.
//
// That the release is incomplete, or that a blob cannot be read, is not an error
// here: [Inventory.Err] says it.
func Take(release *index.Release, blobs *cas.Store) *Inventory {
	return NewTaker(blobs).Take(release)
}

// A Taker takes the inventories of several releases, and asks the store for
// each blob once. It is for one goroutine.
type Taker struct{ sizes sizes }

// NewTaker returns a Taker for releases of one store.
func NewTaker(blobs *cas.Store) *Taker { return &Taker{newSizes(blobs)} }

// Take is [Take].
func (taker *Taker) Take(release *index.Release) *Inventory {
	inv, _ := taker.take(release, Selection{}) // all of it is always there
	return inv
}

// TakePart is [Take] for a part of a release. That the release has not what was
// asked for is a [*SelectionError]. The blobs are pinned, for whoever is going
// to read them.
func TakePart(release *index.Release, blobs *cas.Store, pins *cas.Pins, part Selection) (*Inventory, error) {
	taker := NewTaker(blobs)
	taker.sizes.pins = pins
	return taker.take(release, part)
}

func (taker *Taker) take(release *index.Release, part Selection) (*Inventory, error) {
	t := newTaking(release, taker.sizes)
	var repos []*repository
	for _, name := range release.Repositories() {
		repos = append(repos, survey(release, name))
	}
	if err := part.apply(t, repos); err != nil {
		return nil, err
	}
	for _, repo := range repos {
		t.repository(repo)
	}
	inv := t.inventory()
	inv.Part = !part.IsAll()
	return inv, nil
}

// A taking is an inventory in the making. Its maps take each thing once, and
// are put in order at the end.
type taking struct {
	release *index.Release
	sizes   sizes
	links   map[string]digest.Digest // path → content
	needed  users[digest.Digest]     // blobs that go into the tar
	roles   map[digest.Digest]Role
	missing users[digest.Digest]
	damaged users[damage]
	wrong   users[damage] // of which a manifest states a wrong size
	images  names
	notes   names
}

func newTaking(release *index.Release, sizes sizes) *taking {
	return &taking{
		release: release,
		sizes:   sizes,
		links:   make(map[string]digest.Digest),
		needed:  make(users[digest.Digest]),
		roles:   make(map[digest.Digest]Role),
		missing: make(users[digest.Digest]),
		damaged: make(users[damage]),
		wrong:   make(users[damage]),
		images:  make(names),
		notes:   make(names),
	}
}

type damage struct {
	digest     digest.Digest
	problem    string
	unreadable bool
}

type names map[string]bool

func (n names) sorted() []string { return slices.Sorted(maps.Keys(n)) }

// users are the images that have to do with something.
type users[K comparable] map[K]names

func (u users[K]) add(k K, images []string) {
	if u[k] == nil {
		u[k] = make(names)
	}
	for _, image := range images {
		u[k][image] = true
	}
}

func (t *taking) repository(repo *repository) {
	for _, rev := range repo.revisions {
		t.revision(repo, rev)
	}
	for _, tag := range repo.tags {
		t.tag(repo, tag)
	}
}

func (t *taking) revision(repo *repository, rev *revision) {
	t.links[layout.RevisionLinkPath(repo.name, rev.digest)] = rev.digest
	for _, image := range rev.images {
		t.images[image] = true
	}
	for _, need := range rev.needs {
		t.need(repo, rev, need)
	}
}

// need enters one blob that a revision needs.
func (t *taking) need(repo *repository, rev *revision, need index.Need) {
	size, there, err := t.sizes.of(need.Digest)
	switch {
	case err != nil:
		t.unreadable(rev, need, err)
	case need.Absent, !there && need.Optional:
		t.note(rev, absence(need))
	case !there:
		t.missing.add(need.Digest, rev.images)
	case need.Manifest && !repo.knows(rev, need.Digest):
		t.unknown(repo, rev, need)
	case need.Size > 0 && need.Size != size:
		t.wrongSize(repo, rev, need, size)
	default:
		t.enter(repo, rev, need)
	}
}

// enter enters a blob that is there.
func (t *taking) enter(repo *repository, rev *revision, need index.Need) {
	t.needed.add(need.Digest, rev.images)
	t.roles[need.Digest] = max(t.roles[need.Digest], roleOf(need))
	t.layer(repo, rev, need)
}

func roleOf(need index.Need) Role {
	if need.Manifest {
		return Manifest
	}
	return Role(need.Role)
}

func (t *taking) unreadable(rev *revision, need index.Need, err error) {
	t.damaged.add(damage{need.Digest, "cannot be read: " + cause(err).Error(), true}, rev.images)
}

// wrongSize finds out whether the blob is wrong or the manifest: a registry
// compares digests, not sizes.
func (t *taking) wrongSize(repo *repository, rev *revision, need index.Need, size int64) {
	whole, err := t.sizes.whole(need.Digest)
	if err != nil {
		t.unreadable(rev, need, err)
		return
	}
	if !whole {
		problem := fmt.Sprintf("damaged: %d bytes in the store, %d by the manifest", size, need.Size)
		t.damaged.add(damage{digest: need.Digest, problem: problem}, rev.images)
		return
	}
	wrong := fmt.Sprintf("has %d bytes, and %d by the manifest, which is wrong", size, need.Size)
	t.note(rev, fmt.Sprintf("%s %s %s", need.Role, need.Digest, wrong))
	t.wrong.add(damage{digest: need.Digest, problem: wrong}, rev.images)
	t.enter(repo, rev, need)
}

// absence says why a blob may be absent.
func absence(need index.Need) string {
	if !need.Manifest {
		return fmt.Sprintf("%s %s is left out, as it was when the image was pushed: foreign, embedded or of a sparse index",
			need.Role, need.Digest)
	}
	return fmt.Sprintf("manifest %s is left out, as it was when the image was pushed: the index is sparse", describe(need))
}

func describe(need index.Need) string {
	if need.Platform == "" {
		return need.Digest.String()
	}
	return fmt.Sprintf("%s (%s)", need.Digest, need.Platform)
}

// unknown enters a manifest that is in the store while the index does not know
// what it needs. If it is linked, what it needs must not be left out unseen.
// If not, an index lists it that was sparse when it was pushed, and another
// release has brought the blob since: to this release it is still absent, as
// no registry would serve it.
func (t *taking) unknown(repo *repository, rev *revision, need index.Need) {
	if need.Optional && !repo.linked(need.Digest) {
		t.note(rev, fmt.Sprintf("manifest %s is not linked: the index is sparse", describe(need)))
		return
	}
	t.damaged.add(damage{digest: need.Digest, problem: "a manifest, but what it needs is not in the index; push it again"}, rev.images)
}

// layer enters the link of a config or a layer, written by a registry or not.
// Only a removed one is left out. One that the release does not mention belongs
// to a manifest that was removed after the survey: it is in the tar, whole.
func (t *taking) layer(repo *repository, rev *revision, need index.Need) {
	if need.Manifest {
		return
	}
	if t.release.Layer(repo.name, need.Digest).State == index.Hidden {
		t.note(rev, fmt.Sprintf("%s %s was removed from the repository: its link is left out", need.Role, need.Digest))
		return
	}
	t.links[layout.LayerLinkPath(repo.name, need.Digest)] = need.Digest
}

// tag enters a tag with its history. Without a manifest it is left out whole:
// a registry lists a tag for its directory alone, and could not serve it.
func (t *taking) tag(repo *repository, tag tag) {
	name := repo.name + ":" + tag.name
	if !repo.linked(tag.current) {
		t.notes[fmt.Sprintf("tag %s: left out, as it points at %s", name, dangling(tag.current))] = true
		return
	}
	t.links[layout.TagCurrentLinkPath(repo.name, tag.name)] = tag.current
	for _, d := range tag.history {
		if !repo.linked(d) {
			t.notes[fmt.Sprintf("tag %s: left out of its history is %s", name, dangling(d))] = true
			continue
		}
		t.links[layout.TagIndexLinkPath(repo.name, tag.name, d)] = d
	}
}

func dangling(d digest.Digest) string {
	if d == "" {
		return "nothing"
	}
	return fmt.Sprintf("%s, which is not linked", d)
}

func (t *taking) note(rev *revision, text string) {
	for _, image := range rev.images {
		t.notes["image "+image+": "+text] = true
	}
}

// inventory puts in order what was found.
func (t *taking) inventory() *Inventory {
	inv := &Inventory{
		Release: t.release.Name,
		Images:  t.images.sorted(),
		Notes:   t.notes.sorted(),
	}
	inv.Files = append(t.blobFiles(inv.Images), t.linkFiles()...)
	putInOrder(inv.Files)
	for d, images := range t.missing {
		inv.Missing = append(inv.Missing, Missing{d, images.sorted()})
	}
	slices.SortFunc(inv.Missing, func(a, b Missing) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	inv.Damaged, inv.Wrong = sorted(t.damaged), sorted(t.wrong)
	return inv
}

func sorted(found users[damage]) []Damage {
	var all []Damage
	for d, images := range found {
		all = append(all, Damage{d.digest, d.problem, images.sorted(), d.unreadable})
	}
	slices.SortFunc(all, func(a, b Damage) int {
		return strings.Compare(a.Digest.String()+a.Problem, b.Digest.String()+b.Problem)
	})
	return all
}

func (t *taking) blobFiles(images []string) []File {
	position := make(map[string]int, len(images))
	for i, image := range images {
		position[image] = i
	}
	files := make([]File, 0, len(t.needed)+len(t.links))
	for d, needers := range t.needed {
		f := File{Path: layout.BlobDataPath(d), Size: t.sizes.known[d], Blob: d, Role: t.roles[d]}
		for image := range needers {
			f.NeededBy = append(f.NeededBy, position[image])
		}
		slices.Sort(f.NeededBy)
		files = append(files, f)
	}
	return files
}

func (t *taking) linkFiles() []File {
	files := make([]File, 0, len(t.links))
	for path, d := range t.links {
		files = append(files, File{Path: path, Size: int64(len(d)), Link: d})
	}
	return files
}
