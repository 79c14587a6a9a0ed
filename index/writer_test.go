package index

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// counted makes the writer count its commits.
func counted(db *DB) *atomic.Int64 {
	n := new(atomic.Int64)
	write := db.writer.commit
	db.writer.commit = func(rs records) error {
		if len(rs) > 0 {
			n.Add(1)
		}
		return write(rs)
	}
	return n
}

// One commit serves many waiting callers.
func TestGroupCommit(t *testing.T) {
	r := newRelease(t)
	commits := counted(r.db)
	const callers, each = 64, 20
	var group sync.WaitGroup
	begun := time.Now()
	for i := range callers {
		group.Go(func() {
			for j := range each {
				if err := r.LinkLayer("a", dg(fmt.Sprint(i, " ", j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	n := commits.Load()
	t.Logf("%d changes of %d callers: %d commits in %v", callers*each, callers, n, time.Since(begun))
	if n > callers*each/4 {
		t.Errorf("%d commits for %d changes", n, callers*each)
	}
	equal(t, "links", len(reopen(t, r).Layers("a")), callers*each)
}

// A caller who waits for the disk gets a sync, and who does not, does not; what
// the one has waited for, the other has too.
func TestSyncs(t *testing.T) {
	r := newRelease(t)
	r.db.writer.lazy = time.Hour
	before := r.db.Syncs()
	check := func(what string, want int) {
		t.Helper()
		equal(t, what, int(r.db.Syncs()-before), want)
	}
	for i := range 5 {
		ok(t, r.LinkLayer("a", dg(fmt.Sprint(i))))
	}
	check("syncs after layer links", 0)
	ok(t, r.Tag("a", "1", dg("m")))
	check("syncs after a tag", 1)
	ok(t, r.Sync())
	check("syncs after a Sync of nothing", 1)
	ok(t, r.LinkLayer("a", dg("one more")))
	ok(t, r.Sync())
	check("syncs after a Sync of a layer link", 2)
	// The timer of the first link has not come, and would not for an hour.
	r = reopen(t, r)
	before = r.db.Syncs() - 2
	ok(t, r.LinkLayer("a", dg("last")))
	for end := time.Now().Add(50 * lazy); r.db.Syncs() == before+2; time.Sleep(lazy / 10) {
		if time.Now().After(end) {
			t.Fatal("a layer link does not go to the disk by itself")
		}
	}
	check("syncs of what nobody has asked for", 3)
}

// When LinkLayer returns, the kernel has the record: the process may be killed.
func TestWrittenSurvivesTheProcess(t *testing.T) {
	r := newRelease(t)
	d := dg("layer")
	ok(t, r.LinkLayer("some/repository", d))
	content, err := os.ReadFile(r.db.wal.file.Name())
	ok(t, err)
	if !bytes.Contains(content, key(r.Name, keyLayer, "some/repository", d.String())) {
		t.Error("the record is not in the log")
	}
}

// The log that is synced is the one that Badger writes to, also after it has
// begun another one.
func TestLogFollowsBadger(t *testing.T) {
	r := newRelease(t)
	first := r.db.wal.number
	value := make([]byte, maxValue-1)
	for i := range 2 * (16 << 20) / len(value) {
		k := fmt.Appendf(nil, "zz%04d", i)
		ok(t, r.db.writer.wait(r.db.writer.enqueue(records{put(k, value)})))
		content, err := os.ReadFile(r.db.wal.file.Name())
		ok(t, err)
		if !bytes.Contains(content, k) {
			t.Fatalf("record %d is not in the log that was synced", i)
		}
	}
	if r.db.wal.number == first {
		t.Error("Badger has not begun another log; the test proves nothing")
	}
}

// awaitIdle returns when no goroutine commits.
func (w *writer) awaitIdle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.running {
		w.idle.Wait()
	}
}

// One change can be larger than several logs, of which Badger has removed some
// when the sync comes.
func TestLogFollowsBadgerInOneChange(t *testing.T) {
	r := newRelease(t)
	first := r.db.wal.number
	value := make([]byte, maxValue-1)
	var rs records
	for i := range 6 * (16 << 20) / len(value) {
		rs = append(rs, put(fmt.Appendf(nil, "zz%04d", i), value))
	}
	ok(t, r.db.writer.wait(r.db.writer.enqueue(rs)))
	r.db.writer.awaitIdle()
	equal(t, "log that was synced", r.db.wal.path(r.db.wal.number), r.db.wal.newest())
	if r.db.wal.number < first+3 {
		t.Error("the change has filled few logs; the test proves nothing")
	}
}

// After a sync that failed, no change is taken any more: what came after the
// gap in the log could not be read.
func TestFailedSyncIsFinal(t *testing.T) {
	r := newRelease(t)
	ok(t, r.Tag("a", "1", dg("m")))
	file := r.db.wal.file
	gone, err := os.Open(file.Name())
	ok(t, err)
	ok(t, gone.Close())
	r.db.wal.file = gone
	defer func() { r.db.wal.file = file }()
	for range 3 {
		if err := r.Tag("a", "2", dg("m")); err == nil {
			t.Error("a change is taken after a sync has failed")
		}
	}
	if err := r.LinkLayer("a", dg("l")); err == nil {
		t.Error("a change that does not wait is taken")
	}
}

// A caller alone gets a commit for each change, at once.
func TestCommitAlone(t *testing.T) {
	r := newRelease(t)
	commits := counted(r.db)
	for i := range 5 {
		ok(t, r.LinkLayer("a", dg(fmt.Sprint(i))))
	}
	equal(t, "commits", commits.Load(), 5)
	ok(t, r.Sync())
	equal(t, "commits after a sync of nothing", commits.Load(), 5)
}

// Changes that do not wait share a commit with what comes after them, and Sync
// waits for them.
func TestSoon(t *testing.T) {
	r := newRelease(t)
	commits := counted(r.db)
	for i := range 100 {
		ok(t, r.HideBlob(dg(fmt.Sprint(i))))
	}
	ok(t, r.Sync())
	on := 0
	ok(t, r.db.scan(append(releasePrefix("v1"), keyBlob), func(_, _ []byte) error { on++; return nil }))
	equal(t, "records on the disk after Sync", on, 100)
	if n := commits.Load(); n > 50 {
		t.Errorf("%d commits for 100 changes", n)
	}
}

// gate lets the writer's commits wait until the test opens it, and fail.
type gate struct {
	entered chan int // how many records come to the commit
	verdict chan error
}

func newGate(db *DB) *gate {
	g := &gate{make(chan int), make(chan error)}
	write := db.writer.commit
	db.writer.commit = func(rs records) error {
		g.entered <- len(rs)
		if err := <-g.verdict; err != nil {
			return err
		}
		return write(rs)
	}
	return g
}

// A commit that fails fails all who wait for it and all who came after; memory
// is what the disk is; and the next change works.
func TestFailedCommit(t *testing.T) {
	r := newRelease(t)
	db := r.db
	ok(t, db.Create("v2"))
	other := openRelease(t, db, "v2")
	facts := map[string]*manifest.Manifest{"m": image("c", "l")}
	link(t, r, "a", "m", facts)
	ok(t, r.Tag("a", "1", dg("m")))
	ok(t, other.LinkLayer("b", dg("x")))
	repos, digests := []string{"a", "b", "new"}, []digest.Digest{dg("m"), dg("m2"), dg("c"), dg("c2"), dg("l"), dg("l2"), dg("x"), dg("y")}
	state := func() string {
		return view(r, repos, []string{"1", "2"}, digests) + view(other, repos, nil, digests)
	}
	before := state()

	working := db.writer.commit
	gate := newGate(db)
	results := make(chan error, 16)
	ask := func(change func() error) { go func() { results <- change() }() }
	ask(func() error { return r.LinkLayer("new", dg("y")) })
	<-gate.entered // and while this is under way:
	second := []func() error{
		func() error { return r.LinkManifest("a", dg("m2"), Facts{dg("m2"): image("c2", "l2")}) },
		func() error { return r.Tag("a", "2", dg("m")) },
		func() error { return r.LinkLayer("b", dg("y")) },
		func() error { return other.LinkLayer("b", dg("y")) },
		func() error { return db.Create("v3") },
	}
	for _, change := range second {
		ask(change)
	}
	ok(t, r.UnlinkManifest("a", dg("m"))) // these do not wait
	ok(t, other.HideLayer("b", dg("x")))
	ok(t, r.AddDir("somewhere"))
	ok(t, r.AddHistory("a", "1", dg("m2")))
	for end := time.Now().Add(10 * time.Second); r.Blob(dg("l2")).State != Needed || other.Layer("b", dg("y")).State != Linked; {
		if time.Now().After(end) {
			t.Fatal("a change is not visible at once")
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // the rest is queued; what is not fails later
	gate.verdict <- syscall.ENOSPC
	over := make(chan struct{})
	defer close(over)
	go func() {
		for {
			select {
			case <-gate.entered:
				gate.verdict <- syscall.ENOSPC
			case <-over:
				return
			}
		}
	}()
	for range 1 + len(second) {
		if err := <-results; !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a caller got %v", err)
		}
	}
	// The releases are read back before the writer takes anything again.
	waitWorking(t, db)
	if d := diffText(before, state()); d != "" {
		t.Errorf("after the failure: before, then after: %s", d)
	}
	if _, err := db.Manifest(dg("m2")); err == nil {
		t.Error("the facts of a manifest that could not be linked are known")
	}
	if _, err := db.Open("v3"); err == nil {
		t.Error("a release that could not be written is there")
	}

	db.writer.commit = working
	ok(t, r.LinkManifest("a", dg("m2"), Facts{dg("m2"): image("c2", "l2")}))
	ok(t, other.LinkLayer("b", dg("y")))
	after := state()
	dir := db.badger.Opts().Dir
	ok(t, db.Close())
	db = openDB(t, dir)
	r, other = openRelease(t, db, "v1"), openRelease(t, db, "v2")
	if d := diffText(after, state()); d != "" {
		t.Errorf("opened again: %s", d)
	}
	wantLayer(t, r, "a", "l2", Needed)
}

func waitWorking(t *testing.T, db *DB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		db.writer.mu.Lock()
		idle := !db.writer.running && db.writer.failed == nil
		db.writer.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the writer does not come to rest")
		}
	}
}

// Commits fail at random under load. Whoever was told nil finds his change
// after the index was opened again, whoever got an error does not; memory and
// disk agree.
func TestFailuresUnderLoad(t *testing.T) {
	r := newRelease(t)
	write := r.db.writer.commit
	n := 0 // one commit at a time
	r.db.writer.commit = func(rs records) error {
		if n++; n%3 == 0 {
			return syscall.EIO
		}
		return write(rs)
	}
	type result struct {
		name string
		err  error
	}
	results := make(chan result, 1000)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 30 {
				name := fmt.Sprint(i, " ", j)
				err := r.LinkManifest("a", dg("m"+name), Facts{dg("m" + name): image("c", "l"+name)})
				results <- result{name, err}
			}
		})
	}
	group.Wait()
	close(results)
	waitWorking(t, r.db)
	r.db.writer.commit = write
	var digests []digest.Digest
	failed, all := 0, []result{}
	for res := range results {
		all = append(all, res)
		digests = append(digests, dg("m"+res.name), dg("l"+res.name))
		if res.err != nil {
			failed++
		}
	}
	before := view(r, []string{"a"}, nil, digests)
	r = reopen(t, r)
	if d := diffText(before, view(r, []string{"a"}, nil, digests)); d != "" {
		t.Errorf("memory, then disk: %s", d)
	}
	for _, res := range all {
		if _, there := r.Revision("a", dg("m"+res.name)); there != (res.err == nil) {
			t.Errorf("%s: told %v, and there: %v", res.name, res.err, there)
		}
		if res.err == nil {
			wantLayer(t, r, "a", "l"+res.name, Needed)
		}
	}
	t.Logf("%d of %d changes failed", failed, len(all))
	if failed == 0 || failed == len(all) {
		t.Errorf("%d of %d changes failed", failed, len(all))
	}
}

// The facts of a manifest are on the disk with every link to it, also if the
// first link to it could not be written.
func TestFactsOfAFailedLink(t *testing.T) {
	r := newRelease(t)
	db := r.db
	facts := Facts{dg("m"): image("c", "l")}
	gate := newGate(db)
	first, second := make(chan error), make(chan error)
	go func() { first <- r.LinkManifest("a", dg("m"), facts) }()
	<-gate.entered
	go func() { second <- r.LinkManifest("b", dg("m"), facts) }()
	gate.verdict <- syscall.ENOSPC
	if err := <-first; !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	var err error
	select {
	case err = <-second: // it came in time to fail with the first
	case <-gate.entered:
		gate.verdict <- nil
		err = <-second
	}
	waitWorking(t, db)
	db.writer.commit = db.writer.write
	if err != nil {
		ok(t, r.LinkManifest("b", dg("m"), facts))
	}
	r = reopen(t, r)
	wantLayer(t, r, "b", "l", Needed)
}

// A batch that is larger than a transaction of Badger goes in several.
func TestLargeBatch(t *testing.T) {
	r := newRelease(t)
	m := &manifest.Manifest{}
	for i := range 10_000 {
		m.Refs = append(m.Refs, layerRef(fmt.Sprint("layer ", i)))
	}
	long := "a"
	for len(long) < 200 {
		long += "/component-of-a-name"
	}
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if err := r.LinkManifest(long+fmt.Sprint(i), dg("m"), Facts{dg("m"): m}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	r = reopen(t, r)
	for i := range 4 {
		equal(t, "layers", len(r.Layers(long+fmt.Sprint(i))), 10_000)
	}
}

// Many goroutines change and read one release, and one other; for the race
// detector, and for the order of the locks.
func TestConcurrent(t *testing.T) {
	r := newRelease(t)
	ok(t, r.db.Create("v2"))
	var digests []digest.Digest
	for i := range 8 {
		for _, kind := range []string{"m", "c", "l"} {
			digests = append(digests, dg(fmt.Sprint(kind, i)))
		}
	}
	repos := []string{"a", "a/b", "ab"}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			other, err := r.db.Open("v2")
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			name := func(kind string, j int) digest.Digest { return dg(fmt.Sprint(kind, (i+j)%8)) }
			for j := range 20 {
				repo := repos[(i+j)%3]
				facts := Facts{name("m", j): image(fmt.Sprint("c", (i+j)%8), fmt.Sprint("l", (i+j)%8))}
				for _, err := range []error{
					other.LinkManifest(repo, name("m", j), nil),
					r.LinkManifest(repo, name("m", j), facts),
					other.AddFacts(name("m", j), facts),
					r.HideLayer(repo, name("l", j)),
					r.UnlinkManifest(repos[j%3], name("m", j+1)),
					r.Tag(repo, "t", name("m", j)),
					r.AddHistory(repo, "t", name("m", j)),
					r.RemoveHistory(repo, "t", name("m", j+1)),
					r.AddBlob(name("l", j)),
					r.HideBlob(name("l", j+1)),
					r.AddDir(repo),
				} {
					if err != nil {
						t.Error(err)
					}
				}
				if j%8 == 0 {
					view(r, repos, []string{"t"}, digests)
				}
			}
			if err := other.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	before := view(r, repos, []string{"t"}, digests)
	r = reopen(t, r)
	if d := diffText(before, view(r, repos, []string{"t"}, digests)); d != "" {
		t.Errorf("memory, then disk: %s", d)
	}
}

// Below the low-water mark nothing is written, and what is there can be read.
// (That the mark itself works is tested on a small disk, in package test.)
func TestSpaceIsChecked(t *testing.T) {
	r := newRelease(t)
	ok(t, r.LinkLayer("a", dg("l")))
	dir := r.db.writer.dir
	r.db.writer.dir = "/proc/self/nothing-there"
	if err := r.LinkLayer("a", dg("l2")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the disk cannot be asked, and the change gives %v", err)
	}
	waitWorking(t, r.db)
	wantLayer(t, r, "a", "l", Linked)
	wantLayer(t, r, "a", "l2", Absent)
	r.db.writer.dir = dir
	ok(t, r.LinkLayer("a", dg("l2")))
}
