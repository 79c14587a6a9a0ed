package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/mountpoint"
	"github.com/regfs/regfs/store"
)

var quiet = slog.New(slog.DiscardHandler)

// finishVariable lets this program finish an overlay, to be killed at it.
const finishVariable = "OVERLAY_FINISH"

func TestMain(m *testing.M) {
	if dir := os.Getenv(finishVariable); dir != "" {
		s, err := store.Open(dir, quiet)
		if err == nil {
			fmt.Println("go")
			_, err = New(s, "v1", quiet).Finish()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REGFS_REQUIRE_TOOLS") == "1" {
		t.Fatal("not root")
	}
	t.Skip("SKIPPED, NOTHING IS TESTED: not root")
}

func newStore(t testing.TB, releases ...string) *store.Store {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "store")
	ok(t, store.Init(dir))
	s := open(t, dir)
	for _, name := range releases {
		ok(t, s.Index.Create(name))
	}
	return s
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, quiet)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// laidOut is an overlay that is prepared and not mounted: tests write where a
// registry's writes come out.
func laidOut(t testing.TB, s *store.Store, release string) *Overlay {
	t.Helper()
	o := New(s, release, quiet)
	ok(t, o.prepare(true))
	return o
}

func (o *Overlay) put(t testing.TB, name string, content []byte) {
	t.Helper()
	path := filepath.Join(o.dir(upperDir), name)
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	ok(t, os.WriteFile(path, content, 0o644))
}

// An image is the files that a registry has written for one.
type image struct {
	manifest digest.Digest
	blobs    map[digest.Digest][]byte
}

func newImage(seed string, layers int) image {
	img := image{blobs: make(map[digest.Digest][]byte)}
	add := func(content string) map[string]any {
		d := digest.FromString(content)
		img.blobs[d] = []byte(content)
		return map[string]any{"mediaType": "application/octet-stream", "digest": d, "size": len(content)}
	}
	m := map[string]any{"schemaVersion": 2, "config": add("config " + seed)}
	var list []any
	for i := range layers {
		list = append(list, add(fmt.Sprint("layer ", seed, i)))
	}
	m["layers"] = list
	text, _ := json.Marshal(m)
	img.manifest = digest.FromBytes(text)
	img.blobs[img.manifest] = text
	return img
}

func (o *Overlay) push(t testing.TB, repo, tag string, img image) {
	t.Helper()
	for d, content := range img.blobs {
		o.put(t, layout.BlobDataPath(d), content)
		if d != img.manifest {
			o.put(t, layout.LayerLinkPath(repo, d), []byte(d))
		}
	}
	o.put(t, layout.RevisionLinkPath(repo, img.manifest), []byte(img.manifest))
	o.put(t, layout.TagCurrentLinkPath(repo, tag), []byte(img.manifest))
	o.put(t, layout.TagIndexLinkPath(repo, tag, img.manifest), []byte(img.manifest))
}

// state is all that the index says of a release, without times.
func state(t testing.TB, s *store.Store, name string) []string {
	t.Helper()
	r, err := s.Index.Open(name)
	ok(t, err)
	defer r.Close()
	var all []string
	add := func(args ...any) { all = append(all, fmt.Sprint(args...)) }
	for _, repo := range r.AllRepositories() {
		for _, l := range r.Layers(repo) {
			add("layer ", repo, " ", l.Digest, l.State)
		}
		for _, d := range r.HiddenLayers(repo) {
			add("hidden layer ", repo, " ", d)
		}
		for _, l := range r.Revisions(repo) {
			add("manifest ", repo, " ", l.Digest)
		}
		for _, tag := range r.Tags(repo) {
			l, _ := r.TagLink(repo, tag)
			add("tag ", repo, " ", tag, l.Digest, len(r.History(repo, tag)))
		}
	}
	for _, prefix := range r.BlobPrefixes(digest.SHA256) {
		for _, l := range r.Blobs(digest.SHA256, prefix) {
			add("blob ", l.Digest, l.State)
		}
	}
	for _, d := range r.HiddenBlobs() {
		add("hidden blob ", d)
	}
	for _, d := range r.Dirs() {
		add("directory ", d)
	}
	slices.Sort(all)
	return all
}

func sameState(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// TestSyncTwice: while mounted and after, the second time brings nothing.
func TestSyncTwice(t *testing.T) {
	s := newStore(t, "v1")
	o := laidOut(t, s, "v1")
	o.push(t, "repo", "v1", newImage("one", 3))
	first, err := o.Sync()
	ok(t, err)
	if first.Blobs != 5 || first.Links != 7 || first.Removed != 0 || len(first.Refused) != 0 {
		t.Errorf("first: %+v", first)
	}
	want := state(t, s, "v1")
	for range 2 {
		again, err := o.Sync()
		ok(t, err)
		if again.Blobs+again.Links+again.Removed != 0 {
			t.Errorf("again: %+v", again)
		}
	}
	last, err := o.Finish()
	ok(t, err)
	if last.Blobs+last.Links+last.Removed != 0 {
		t.Errorf("finished: %+v", last)
	}
	sameState(t, "finished", state(t, s, "v1"), want)
	if o.Pending() {
		t.Error("something is left")
	}
	// A command that has asked for it while it was being finished comes late.
	late, err := o.Sync()
	ok(t, err)
	if late.Blobs+late.Links+late.Removed+len(late.Refused) != 0 {
		t.Errorf("late: %+v", late)
	}
	sameState(t, "late", state(t, s, "v1"), want)
	// Laid out and read back, a release is what it was.
	o = laidOut(t, s, "v1")
	last, err = o.Finish()
	ok(t, err)
	if last.Blobs+last.Links+last.Removed != 0 {
		t.Errorf("laid out and finished: %+v", last)
	}
	sameState(t, "laid out and finished", state(t, s, "v1"), want)
}

// TestUnfinished: a registry that is writing while the release is synced is not
// told of as damage, nor is anything of it entered.
func TestUnfinished(t *testing.T) {
	s := newStore(t, "v1")
	o := laidOut(t, s, "v1")
	d := digest.FromString("whole")
	o.put(t, layout.BlobDataPath(d), []byte("who"))
	o.put(t, layout.LayerLinkPath("repo", d), []byte(d))
	o.put(t, layout.TagCurrentLinkPath("repo", "v1"), nil)
	report, err := o.Sync()
	ok(t, err)
	if report.Blobs+report.Links+len(report.Refused) != 0 {
		t.Errorf("half-written: %+v", report)
	}
	o.put(t, layout.BlobDataPath(d), []byte("whole"))
	report, err = o.Finish()
	ok(t, err)
	if report.Blobs != 1 || report.Links != 1 || len(report.Refused) != 1 {
		t.Errorf("finished: %+v", report)
	}
}

// TestRefusedInTurn: what is refused has a place, whatever was refused before.
func TestRefusedInTurn(t *testing.T) {
	s := newStore(t, "v1")
	blob := layout.BlobDataPath(digest.FromString("whole"))
	for i, name := range []string{filepath.Dir(blob), blob, blob, filepath.Dir(blob)} {
		o := laidOut(t, s, "v1")
		o.put(t, name, []byte("something else"))
		report, err := o.Finish()
		ok(t, err)
		if len(report.Refused) != 1 || o.Pending() {
			t.Errorf("%d: %+v", i, report)
		}
	}
}

// TestSecondName: a file with two names stays where it is, and its blob is a
// copy that nobody can write to.
func TestSecondName(t *testing.T) {
	s := newStore(t, "v1")
	o := laidOut(t, s, "v1")
	d := digest.FromString("content")
	o.put(t, layout.BlobDataPath(d), []byte("content"))
	ok(t, os.Link(filepath.Join(o.dir(upperDir), layout.BlobDataPath(d)), filepath.Join(o.dir(upperDir), "plain")))
	_, err := o.Finish()
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(o.plainDir(), "plain"), []byte("CONTENT"), 0o644))
	content, err := os.ReadFile(filepath.Join(s.Dir, layout.BlobDataPath(d)))
	ok(t, err)
	if string(content) != "content" {
		t.Errorf("the blob was written to: %q", content)
	}
}

// TestKilled: killed at any point, the next one ends with the same.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	var want []string
	var took time.Duration
	for i := range 9 {
		s := newStore(t, "v0", "v1")
		history := laidOut(t, s, "v0")
		history.push(t, "repo", "v0", newImage("history", 6))
		_, err := history.Finish()
		ok(t, err)
		o := laidOut(t, s, "v1")
		for n := range 12 {
			o.push(t, fmt.Sprint("repo", n), "v1", newImage(fmt.Sprint("image", n%7), 4))
		}
		o.put(t, layout.BlobDataPath(digest.FromString("alone")), []byte("alone"))
		o.put(t, layout.BlobDataPath(digest.FromString("wrong")), []byte("content"))
		o.put(t, layout.Root+"/repositories/repo1/_uploads/1/data", []byte("half"))
		o.put(t, "state.json", []byte("{}"))
		ok(t, os.RemoveAll(filepath.Join(o.dir(upperDir), layout.Root, "blobs/sha256", "ff")))
		ok(t, makeWhiteout(filepath.Join(o.dir(upperDir), layout.Root, "repositories/repo")))
		ok(t, s.Close())
		begun := time.Now()
		if i == 0 {
			finishIn(t, s.Dir, time.Minute)
			took = time.Since(begun)
		} else {
			finishIn(t, s.Dir, time.Duration(rand.Int64N(int64(took))))
		}
		s = open(t, s.Dir)
		o = New(s, "v1", quiet)
		_, err = o.Finish()
		ok(t, err)
		got := append(state(t, s, "v1"), files(t, filepath.Join(s.Dir, "releases"))...)
		if i == 0 {
			want = got
		}
		sameState(t, fmt.Sprint("killed, trial ", i), got, want)
		ok(t, s.Close())
	}
	t.Logf("one finish takes %v", took)
	if len(want) < 100 {
		t.Errorf("only %d names", len(want))
	}
}

// finishIn finishes an overlay in another process, and kills that in the middle.
func finishIn(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	ok(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), finishVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	out.Read(make([]byte, 3)) // it has the store open
	kill := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer kill.Stop()
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	ok(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, relative(dir, path))
		}
		return err
	}))
	return all
}

// TestLinksGrow: what is laid out is not looked at again, and what is new is
// not missed, also after the index was opened anew.
func TestLinksGrow(t *testing.T) {
	s := newStore(t, "v1", "v2")
	one, two := newImage("one", 2), newImage("two", 2)
	o := laidOut(t, s, "v1")
	o.push(t, "repo", "v1", one)
	_, err := o.Finish()
	ok(t, err)
	ok(t, layOut(s))
	links := func(img image) (n int) {
		for d := range img.blobs {
			if _, err := os.Stat(filepath.Join(linksDir(s.Dir), layout.LayerLinkPath("repo", d))); err == nil {
				n++
			}
		}
		return n
	}
	if links(one) != 3 {
		t.Errorf("%d links are laid out, want 3: two layers and a config, and no manifest", links(one))
	}
	ok(t, os.RemoveAll(filepath.Join(linksDir(s.Dir), layout.Root, "repositories", "repo")))
	ok(t, s.Close())
	s = open(t, s.Dir)
	o = laidOut(t, s, "v2")
	o.push(t, "repo", "v1", two)
	o.push(t, "repo", "v0", one)
	_, err = o.Finish()
	ok(t, err)
	ok(t, layOut(s))
	if links(one) != 0 || links(two) != 3 {
		t.Errorf("%d old links were laid out again, %d new ones of 3 are", links(one), links(two))
	}
	ok(t, os.RemoveAll(filepath.Dir(linksDir(s.Dir))))
	ok(t, layOut(s))
	if links(one) != 3 || links(two) != 3 {
		t.Errorf("laid out from nothing: %d and %d of 3", links(one), links(two))
	}
}

// TestLinksAfterPowerLoss: links that were being laid out when the power failed
// may be empty, or have their size and be zeros.
func TestLinksAfterPowerLoss(t *testing.T) {
	s := newStore(t, "v1")
	img := newImage("one", 2)
	o := laidOut(t, s, "v1")
	o.push(t, "repo", "v1", img)
	_, err := o.Finish()
	ok(t, err)
	path := func(d digest.Digest) string { return filepath.Join(linksDir(s.Dir), layout.LayerLinkPath("repo", d)) }
	n := 0
	for d := range img.blobs {
		ok(t, os.MkdirAll(filepath.Dir(path(d)), 0o755))
		ok(t, os.WriteFile(path(d), make([]byte, len(d)*(n%2)), 0o644))
		n++
	}
	ok(t, layOut(s))
	right := 0
	for d := range img.blobs {
		if content, _ := os.ReadFile(path(d)); string(content) == d.String() {
			right++
		}
	}
	if right != 3 {
		t.Errorf("%d links of 3 are right: two layers and a config", right)
	}
}

// TestCheck: a store on an overlay is refused with what to do.
func TestCheck(t *testing.T) {
	s := newStore(t)
	ok(t, Check(s.Dir))
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		ok(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	merged := filepath.Join(dir, "merged")
	ok(t, unix.Mount("overlay", merged, "overlay", 0,
		fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)))
	defer unix.Unmount(merged, unix.MNT_DETACH)
	if err := Check(merged); err == nil || !strings.Contains(err.Error(), "lies on an overlay itself") {
		t.Errorf("a store on an overlay: %v", err)
	}
}

// BenchmarkPrepare is what a mount costs before the kernel has it, for the next
// release after so many of 100 images, a tenth of them new in each: for one
// that is new, and once the release before it has been laid out ("new"), and
// including that ("grown").
func BenchmarkPrepare(b *testing.B) {
	for _, releases := range []int{1, 10, 50, 100} {
		b.Run(fmt.Sprint(releases), func(b *testing.B) {
			s := newStore(b)
			for i := range releases - 1 {
				pushIndex(b, s, i)
			}
			begun := time.Now()
			ok(b, layOut(s))
			all := time.Since(begun)
			var grown, fresh time.Duration
			n := releases - 1
			for b.Loop() {
				pushIndex(b, s, n)
				grown += prepareOnce(b, s, fmt.Sprint("grown", n))
				fresh += prepareOnce(b, s, fmt.Sprint("fresh", n))
				n++
			}
			b.ReportMetric(all.Seconds()*1000, "first-ms")
			b.ReportMetric(grown.Seconds()*1000/float64(b.N), "grown-ms")
			b.ReportMetric(fresh.Seconds()*1000/float64(b.N), "new-ms")
		})
	}
}

func prepareOnce(b *testing.B, s *store.Store, name string) time.Duration {
	ok(b, s.Index.Create(name))
	o := New(s, name, quiet)
	begun := time.Now()
	ok(b, o.prepare(true))
	took := time.Since(begun)
	_, err := o.Finish()
	ok(b, err)
	return took
}

// pushIndex enters a release of 100 images of five blobs, a tenth of them new.
func pushIndex(b *testing.B, s *store.Store, n int) {
	name := fmt.Sprint("r", n)
	ok(b, s.Index.Create(name))
	r, err := s.Index.Open(name)
	ok(b, err)
	defer r.Close()
	var wg sync.WaitGroup
	for i := range 100 {
		version := n / 10
		if i%10 <= n%10 {
			version++
		}
		wg.Go(func() {
			m := &manifest.Manifest{MediaType: "application/vnd.oci.image.manifest.v1+json"}
			for l := range 5 {
				m.Refs = append(m.Refs, manifest.Ref{Digest: digest.FromString(fmt.Sprint(i, version, l)), Role: manifest.Layer})
			}
			d := digest.FromString(fmt.Sprint("manifest", i, version))
			ok(b, r.LinkManifest(fmt.Sprint("group/repo", i), d, index.Facts{d: m}))
			ok(b, r.Tag(fmt.Sprint("group/repo", i), "v1", d))
		})
	}
	wg.Wait()
}

// TestOddPath: no character of a store's path means anything to the kernel's
// options, and the mount is found again by it.
func TestOddPath(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), `a:b,c\d e`, "[store]*")
	ok(t, os.MkdirAll(dir, 0o700))
	ok(t, store.Init(dir))
	s := open(t, dir)
	ok(t, s.Index.Create("v1"))
	mnt := t.TempDir()
	o := New(s, "v1", quiet)
	ok(t, o.Mount(mnt, true))
	defer unix.Unmount(mnt, unix.MNT_DETACH)
	at, found, err := mountpoint.Find(mnt)
	ok(t, err)
	if !found || at.Store != dir || at.Release != "v1" || at.Type != mountpoint.Overlay {
		t.Errorf("found %v: %+v", found, at)
	}
	pending, err := Pending(s)
	ok(t, err)
	if !slices.Equal(pending, []string{"v1"}) {
		t.Errorf("pending: %q", pending)
	}
	ok(t, os.WriteFile(filepath.Join(mnt, "plain"), []byte("text"), 0o644))
	if _, err := o.Finish(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("finished while it is mounted: %v", err)
	}
	ok(t, unix.Unmount(mnt, 0))
	_, err = o.Finish()
	ok(t, err)
	if text, err := os.ReadFile(filepath.Join(o.plainDir(), "plain")); string(text) != "text" {
		t.Errorf("plain file: %q, %v", text, err)
	}
}

// TestKilledWhilePreparing: half of a release's plain files have moved to a
// draft whose links are not all there. Nothing is taken for removed.
func TestKilledWhilePreparing(t *testing.T) {
	s := newStore(t, "v1")
	o := laidOut(t, s, "v1")
	o.push(t, "repo", "v1", newImage("one", 2))
	o.put(t, "a", []byte("a"))
	o.put(t, layout.Root+"/repositories/repo/_uploads/1/data", []byte("half"))
	_, err := o.Finish()
	ok(t, err)
	want := append(state(t, s, "v1"), files(t, o.plainDir())...)
	ok(t, os.MkdirAll(o.dir(draftDir), 0o755))
	ok(t, os.MkdirAll(filepath.Join(o.dir(draftDir), layout.Root, "repositories/repo/_manifests"), 0o755))
	ok(t, os.Rename(filepath.Join(o.plainDir(), "a"), filepath.Join(o.dir(draftDir), "a")))
	_, err = New(s, "v1", quiet).Finish()
	ok(t, err)
	sameState(t, "finished", append(state(t, s, "v1"), files(t, o.plainDir())...), want)
	if left, _ := Pending(s); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
