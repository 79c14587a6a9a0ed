package mounttest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

var attributeClauses = []clause{
	{"M10_stable_attributes", testStableAttributes},
	{"M10_inode_numbers", testInodeNumbers},
	{"M10_true_sizes_and_times", testTrueSizes},
	{"M10_statfs", testStatfsOfStore},
	{"M10_attributes_belong_to_the_mount", testAttributesIgnored},
	{"M10_another_user", testAnotherUser},
	{"M10_long_names", testLongTree},
}

// A state is what must be the same after mounting again.
type state struct {
	ino  uint64
	mode fs.FileMode
	size int64
	time time.Time // of files; a directory's may be that of its making or of the release
}

func states(t testing.TB, dir string) map[string]state {
	t.Helper()
	all := make(map[string]state)
	for _, p := range append(find(t, dir), ".") {
		info := must(os.Lstat(filepath.Join(dir, p)))(t)
		s := state{info.Sys().(*syscall.Stat_t).Ino, info.Mode(), info.Size(), info.ModTime()}
		if info.IsDir() {
			s.time, s.size = time.Time{}, 0
		}
		all[p] = s
	}
	return all
}

func sameStates(t testing.TB, got, want map[string]state) {
	t.Helper()
	for p, w := range want {
		if g, there := got[p]; !there {
			t.Errorf("%s is gone", p)
		} else if g != w {
			t.Errorf("%s: %+v, was %+v", p, g, w)
		}
	}
}

func testStableAttributes(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 3)
	pushed(t, m, "m10-stable-a", img)
	r := registry3(m.Mount(t, "m10-stable-b", ReuseStore))
	ok(t, r.pushManifests("repo", "v1", img)) // with links that nobody wrote
	ok(t, r.pushImage("repo2", "v1", newImage(t.Name()+"2", 2)))
	u := must(r.newUpload("repo"))(t)
	ok(t, u.write([]byte("in progress")))
	ok(t, putByRename(r.path("scheduler-state.json"), []byte("{}")))
	before := states(t, r.root)
	sameStates(t, states(t, r.root), before)
	root := m.remount(t, r.root, "m10-stable-b", ReuseStore)
	after := states(t, root)
	for p, w := range before {
		if _, there := after[p]; !there && w.mode.IsDir() {
			delete(before, p) // the directory of one link or blob may go when it is empty
		}
	}
	sameStates(t, after, before)
}

// testInodeNumbers: no two files have one, and readdir says what stat does.
func testInodeNumbers(t *testing.T, m Mounts) {
	r := pushed(t, m, "m10-inodes", newImage(t.Name(), 5))
	u := must(r.newUpload("library/known"))(t)
	ok(t, u.write([]byte("in progress")))
	seen := make(map[uint64]string)
	for _, p := range append(find(t, r.root), ".") {
		path := filepath.Join(r.root, p)
		ino := inodeOf(t, path)
		if other, there := seen[ino]; there {
			t.Errorf("%s and %s have inode %d both", other, p, ino)
		}
		seen[ino] = p
		if info := must(os.Lstat(path))(t); !info.IsDir() {
			continue
		}
		for _, e := range allEntries(t, path) {
			if st := inodeOf(t, filepath.Join(path, e.name)); st != e.ino {
				t.Errorf("%s: readdir says inode %d, stat %d", filepath.Join(p, e.name), e.ino, st)
			}
		}
	}
}

func testTrueSizes(t *testing.T, m Mounts) {
	start := time.Now().Add(-time.Second) // the kernel's clock ticks coarsely
	img := newImage(t.Name(), 2)
	r := pushed(t, m, "m10-true", img)
	end := time.Now().Add(time.Second)
	for _, p := range findFiles(t, r.root) {
		info := must(os.Lstat(r.path(p)))(t)
		content := must(os.ReadFile(r.path(p)))(t)
		st := info.Sys().(*syscall.Stat_t)
		if info.Size() != int64(len(content)) || st.Blocks == 0 {
			t.Errorf("%s: size %d and %d blocks, has %d bytes", p, info.Size(), st.Blocks, len(content))
		}
		if at := info.ModTime(); at.Before(start) || at.After(end) {
			t.Errorf("%s: time %v, was written after %v and before %v", p, at, start, end)
		}
	}
	first := must(os.Stat(r.current("library/known", "v1")))(t).ModTime()
	time.Sleep(20 * time.Millisecond)
	ok(t, r.tag("library/known", "v1", img.digest()))
	if again := must(os.Stat(r.current("library/known", "v1")))(t).ModTime(); !again.After(first) {
		t.Errorf("tag written again has time %v, had %v", again, first)
	}
}

func testStatfsOfStore(t *testing.T, m Mounts) {
	dir := m.Mount(t, "m10-statfs", ReuseStore)
	var mounted, disk unix.Statfs_t
	ok(t, unix.Statfs(dir, &mounted))
	ok(t, unix.Statfs(m.Store, &disk))
	if mounted.Blocks != disk.Blocks || mounted.Files != disk.Files || mounted.Namelen != disk.Namelen {
		t.Errorf("statfs says %+v, of the store's disk %+v", mounted, disk)
	}
}

// testAttributesIgnored: tar and cp set owners, modes and times of what they
// lay down. It does no harm, and nothing comes of it.
func testAttributesIgnored(t *testing.T, m Mounts) {
	img := newImage(t.Name(), 1)
	r := pushed(t, m, "m10-ignored", img)
	for _, p := range []string{r.blob(img.digest()), r.revision("library/known", img.digest()), filepath.Dir(r.blob(img.digest()))} {
		before := must(os.Stat(p))(t)
		ok(t, os.Chmod(p, 0o700))
		ok(t, os.Chown(p, 1, 1))
		ok(t, os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0)))
		after := must(os.Stat(p))(t)
		if before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
			t.Errorf("%s: %v %v, was %v %v", p, after.Mode(), after.ModTime(), before.Mode(), before.ModTime())
		}
	}
}

// testAnotherUser: modes are checked, and those who may read can.
func testAnotherUser(t *testing.T, m Mounts) {
	if os.Geteuid() != 0 {
		t.Skip("only root may be another user")
	}
	img := newImage(t.Name(), 1)
	r := pushed(t, m, "m10-user", img)
	writeFile(t, r.path("secret"), []byte("x"))
	ok(t, os.Chmod(r.path("secret"), 0o600))
	ok(t, os.Mkdir(r.path("open"), 0o777))
	ok(t, os.Chmod(r.path("open"), 0o777))
	as := func(script string) error {
		// Root goes to the mount, which lies in a directory that only root may
		// enter, and becomes another there.
		c := exec.Command("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-ec", script)
		c.Dir = r.root
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	ok(t, as("find . >/dev/null"))
	ok(t, as("cat "+must(filepath.Rel(r.root, r.blob(img.digest())))(t)))
	ok(t, as("mkdir open/own && echo x >open/own/file && mv open/own/file open/own/file2 && test $(stat -c %u open/own/file2) = 12345"))
	for _, script := range []string{"cat secret", "echo x >new", "mkdir new", "rm -r docker/registry/v2/blobs",
		"mkdir docker/registry/v2/repositories/library/known/_uploads"} {
		if as(script) == nil {
			t.Errorf("another user may: %s", script)
		}
	}
	absent(t, r.path("new"))
}

var scaleClauses = []clause{
	{"M10_100000_entries", testManyEntries},
	{"M10_10000_tags", testManyTags},
}

func testManyEntries(t *testing.T, m Mounts) {
	n := m.many(100_000)
	dir := filepath.Join(m.Mount(t, "m10-entries", ReuseStore), "many")
	ok(t, os.Mkdir(dir, 0o755))
	inParallel(t, n, func(i int) error { return os.Symlink("x", filepath.Join(dir, fmt.Sprintf("entry-%06d", i))) })
	start := time.Now()
	if got := len(names(t, dir)); got != n {
		t.Errorf("%d entries listed, want %d", got, n)
	}
	listed := time.Since(start)
	first := firstEntry(t, dir)
	start = time.Now()
	must(os.Lstat(filepath.Join(dir, fmt.Sprintf("entry-%06d", n/2))))(t)
	looked := time.Since(start)
	t.Logf("%d entries: listed in %v, the first after %v, one looked up in %v", n, listed, first, looked)
	if listed > time.Minute || first > 20*time.Second || looked > time.Second {
		t.Error("that is too slow")
	}
}

// firstEntry says how long one waits for the beginning of a listing.
func firstEntry(t *testing.T, dir string) time.Duration {
	t.Helper()
	start := time.Now()
	d := must(os.Open(dir))(t)
	defer d.Close()
	must(d.Readdirnames(1))(t)
	return time.Since(start)
}

func testManyTags(t *testing.T, m Mounts) {
	n := m.many(10_000)
	img := newImage(t.Name(), 1)
	r := pushed(t, m, "m10-tags", img)
	inParallel(t, n, func(i int) error {
		p := r.current("library/known", fmt.Sprintf("tag-%05d", i))
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			return err
		}
		return writeSyncedInPlace(p, []byte(img.digest()))
	})
	tags := filepath.Join(r.repository("library/known"), "_manifests", "tags")
	start := time.Now()
	if got := len(names(t, tags)); got != n+1 {
		t.Errorf("%d tags listed, want %d", got, n+1)
	}
	listed := time.Since(start)
	start = time.Now()
	checkLink(t, r.current("library/known", fmt.Sprintf("tag-%05d", n/2)), img.digest())
	t.Logf("%d tags: listed in %v, one read in %v", n, listed, time.Since(start))
	if listed > 20*time.Second {
		t.Error("that is too slow")
	}
	root := m.remount(t, r.root, "m10-tags", ReuseStore)
	if got := len(names(t, filepath.Join(registry3(root).repository("library/known"), "_manifests", "tags"))); got != n+1 {
		t.Errorf("%d tags listed after mounting again, want %d", got, n+1)
	}
}

func writeSyncedInPlace(p string, content []byte) error {
	return writeInPlace(p, content, (*os.File).Close)
}

// inParallel does something n times, many at once: what is slow is the disk.
func inParallel(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	const workers = 32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// testLongTree: the longest names that a registry allows.
func testLongTree(t *testing.T, m Mounts) {
	long := func(n int) string {
		return string(digest.FromString(t.Name()).Encoded()[:1]) + fmt.Sprintf("%0*d", n-1, 7)
	}
	img := newImage(t.Name(), 1)
	r := registry3(m.Mount(t, "m10-long", ReuseStore))
	repo, tag := long(127)+"/"+long(127), long(128)
	ok(t, r.pushImage(repo, tag, img))
	sameList(t, "release", findFiles(t, r.root), img.files(repo, tag))
	root := m.remount(t, r.root, "m10-long", ReuseStore)
	sameList(t, "release, mounted again", findFiles(t, root), img.files(repo, tag))
}
