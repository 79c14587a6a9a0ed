package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func (f *fixture) there(d digest.Digest) bool {
	f.T.Helper()
	_, err := f.Stat(d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Fatal(err)
	}
	return err == nil
}

func (f *fixture) wantThere(what string, d digest.Digest, want bool) {
	f.T.Helper()
	if got := f.there(d); got != want {
		f.Errorf("%s: the blob is there: %v, want %v", what, got, want)
	}
}

func (f *fixture) wantPinned(what string, d digest.Digest, want bool) {
	f.T.Helper()
	err := f.Remove(d)
	if got := errors.Is(err, ErrPinned); got != want || err != nil && !got {
		f.Errorf("%s: removed with %v, want it pinned: %v", what, err, want)
	}
	f.wantThere(what, d, want)
}

func TestRemove(t *testing.T) {
	f := setup(t)
	d := f.put("blob")
	open, err := f.Open(d)
	f.must(err)
	defer open.Close()
	f.must(f.Remove(d))
	f.wantThere("removed", d, false)
	if _, err := os.Lstat(f.path(path.Dir(blobPath(d)))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is there: %v", err)
	}
	if _, err := os.Lstat(f.path(path.Dir(path.Dir(blobPath(d))))); err != nil {
		t.Errorf("the directory above is not: %v", err)
	}
	if content := make([]byte, 4); true {
		if _, err := open.ReadAt(content, 0); err != nil || string(content) != "blob" {
			t.Errorf("who has it open reads %q, %v", content, err)
		}
	}
	f.must(f.Remove(d)) // again
	f.put("blob")
	f.wantThere("put again", d, true)
	f.must(f.Remove(d))
	if names, err := f.tempNames(); err != nil || len(names) > 1 { // unflushedMark
		t.Errorf("left in tmp: %q, %v", names, err)
	}
}

// A removal that was killed leaves an empty directory, or a file put aside.
func TestRemoveLeftovers(t *testing.T) {
	f := setup(t)
	d, other := f.put("blob"), f.put("other")
	r := f.Condemn(d)
	f.must(r.Remove(d)) // and killed
	f.must(os.MkdirAll(f.path(path.Dir(blobPath(d))), 0o755))
	f.reopen()
	f.must(f.DiscardTemp())
	if names, err := f.tempNames(); err != nil || len(names) > 0 {
		t.Errorf("left in tmp: %q, %v", names, err)
	}
	places := map[digest.Digest]Place{}
	for p, err := range f.Places() {
		f.must(err)
		places[p.Digest] = p
	}
	if len(places) != 2 || !places[d].Empty || places[other].Empty || places[other].Size != 5 {
		t.Errorf("places: %v", places)
	}
	f.must(f.Remove(d))
	if _, err := os.Lstat(f.path(path.Dir(blobPath(d)))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty directory is there: %v", err)
	}
}

// What is none of the store's stays, and its directory with it.
func TestRemoveLeavesForeign(t *testing.T) {
	f := setup(t)
	d := f.put("blob")
	f.write(path.Join(path.Dir(blobPath(d)), "note"), "mine")
	f.must(f.Remove(d))
	if _, err := os.Lstat(f.path(path.Join(path.Dir(blobPath(d)), "note"))); err != nil {
		t.Error(err)
	}
}

func TestPins(t *testing.T) {
	f := setup(t)
	d := f.put("blob")
	p, q := f.NewPins("p"), f.NewPins("q")
	p.Add(d)
	q.Add(d)
	f.wantPinned("by two", d, true)
	p.Release()
	p.Release()
	f.wantPinned("by one", d, true)
	q.Release()
	f.wantPinned("by nobody", d, false)
}

func TestPinsAll(t *testing.T) {
	f := setup(t)
	d := f.put("blob")
	p, q := f.NewPins("all"), f.NewPins("this one")
	p.AddAll()
	f.wantPinned("by a set of all", d, true)
	q.Add(d)
	if why, _ := f.Pinned(d); why != "this one" {
		t.Errorf("pinned by %q, want the set that has it", why)
	}
	p.Release()
	q.Release()
	f.wantPinned("by nobody", d, false)
}

// Who asks for blobs that there are not costs no memory.
func TestPinsForgetWhatIsNotThere(t *testing.T) {
	f := setup(t)
	p := f.NewPins("p")
	defer p.Release()
	for i := range 100 {
		if _, err := p.Stat(digest.FromString(fmt.Sprint(i))); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if len(p.held)+len(p.asked) > 0 {
		t.Errorf("%d held and %d asked for", len(p.held), len(p.asked))
	}
	d := f.put("blob")
	_, err := p.Stat(d)
	f.must(err)
	f.wantPinned("found", d, true)
}

// A look that fails must not take away the pin of one that did not.
func TestPinsOfTwoLooks(t *testing.T) {
	f := setup(t)
	p := f.NewPins("p")
	d := digest.FromString("blob")
	err := p.Hold(d, func() error {
		err := p.Hold(d, func() error { f.put("blob"); return nil })
		return errors.Join(err, fs.ErrNotExist)
	})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	f.wantPinned("found by the second look", d, true)
	p.Release()
	f.wantPinned("released", d, false)
}

func TestKeepPins(t *testing.T) {
	f := setup(t)
	early, late := f.put("early"), f.put("late")
	p := f.NewPins("p")
	p.Add(early)
	end, end2 := f.KeepPins(), f.KeepPins()
	p.Release()
	q := f.NewPins("q") // comes and goes meanwhile
	q.Add(late)
	q.Release()
	for _, d := range []digest.Digest{early, late} {
		f.wantPinned("while pins are kept", d, true)
	}
	end()
	end()
	f.wantPinned("while another keeps them", early, true)
	end2()
	for _, d := range []digest.Digest{early, late} {
		f.wantPinned("when nobody keeps them", d, false)
	}
}

// While a blob is condemned, who wants to pin it waits, and nobody else.
func TestPinWaitsForRemoval(t *testing.T) {
	f := setup(t)
	d, other := f.put("blob"), f.put("other")
	r := f.Condemn(d)
	if second := f.Condemn(d, other); !slices.Equal(second.Blobs, []digest.Digest{other}) {
		t.Errorf("condemned twice: %v", second.Blobs)
	} else {
		f.must(second.End())
	}
	p := f.NewPins("p")
	defer p.Release()
	p.Add(other) // does not wait
	found := make(chan error)
	go func() {
		_, err := p.Stat(d)
		found <- err
	}()
	all := make(chan bool)
	go func() {
		f.NewPins("all").AddAll()
		all <- true
	}()
	select {
	case err := <-found:
		t.Fatalf("the look did not wait: %v", err)
	case <-all:
		t.Fatal("the pin of all did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	f.must(r.Remove(d))
	f.must(r.End())
	if err := <-found; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found: %v", err)
	}
	<-all
}

// TestRemoveUnderLoad lets users find or bring blobs and count on them, while
// everything that is not pinned is removed. Nobody must lose what he counts on.
func TestRemoveUnderLoad(t *testing.T) {
	f := setup(t)
	var contents []string
	for i := range 8 {
		contents = append(contents, fmt.Sprintf("blob %d", i))
	}
	var stop atomic.Bool
	var users, sweeper sync.WaitGroup
	var found, brought, removed, refused atomic.Int64
	for i := range 4 {
		users.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 400 {
				content := contents[random.IntN(len(contents))]
				d := digest.FromString(content)
				p := f.NewPins("user")
				if _, err := p.Stat(d); err == nil {
					found.Add(1)
				} else if err := p.Hold(d, func() error { return f.bring(content) }); err != nil {
					t.Errorf("commit: %v", err)
				} else {
					brought.Add(1)
				}
				for range 3 {
					runtime.Gosched() // one processor has to be given away, to be met
					if _, err := f.Stat(d); err != nil {
						t.Errorf("lost: %v", err)
					}
				}
				p.Release()
			}
		})
	}
	sweeper.Go(func() {
		for !stop.Load() {
			for _, content := range contents {
				switch err := f.Remove(digest.FromString(content)); {
				case err == nil:
					removed.Add(1)
				case errors.Is(err, ErrPinned):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		}
	})
	users.Wait()
	stop.Store(true)
	sweeper.Wait()
	t.Logf("found %d, brought %d, removed %d, refused %d", found.Load(), brought.Load(), removed.Load(), refused.Load())
	if brought.Load() == 0 || refused.Load() == 0 {
		t.Error("nothing has met")
	}
}

func (f *fixture) bring(content string) error {
	w, err := f.NewWriter()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.File().WriteString(content); err != nil {
		return err
	}
	_, err = w.Commit(digest.FromString(content))
	return err
}
