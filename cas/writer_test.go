package cas

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/beneath"
)

func TestWriterLeavesNothing(t *testing.T) {
	f := setup(t)
	f.must(f.writer("discarded").Close())
	f.put("content")
	f.put("content")
	w := f.writer("other content")
	if _, err := w.Commit(digest.FromString("content")); err == nil {
		t.Error("Commit of other content succeeds")
	}
	f.must(w.Close())
	f.must(f.Settle())
	f.checkNoTemp()
}

func TestMismatchMakesNoDirectories(t *testing.T) {
	f := setup(t)
	if _, err := f.writer("got").Commit(digest.FromString("want")); err == nil {
		t.Error("Commit of other content succeeds")
	}
	f.checkGone("docker")
}

func TestSecondCommitKeepsTheFile(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	before := f.inode(pendingPath(d))
	f.put("content")
	f.must(f.Settle())
	f.put("content")
	f.must(f.Settle())
	if f.inode(blobPath(d)) != before {
		t.Error("a later Commit replaced the file")
	}
}

// A blob that comes to its place while another one is pending: the later one
// must not replace what somebody may have opened.
func TestRacingCommitKeepsTheFile(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.write(blobPath(d), "content")
	first := f.inode(blobPath(d))
	f.must(f.Settle())
	if f.inode(blobPath(d)) != first {
		t.Error("the later one replaced the file")
	}
	f.checkNoTemp()
}

// A Commit that fails after another one has begun to wait for it: that one does
// the work itself.
func TestCommitWaitsForAnother(t *testing.T) {
	f := setup(t)
	d := digest.FromString("content")
	first := &pendingBlob{digest: d, here: make(chan struct{})}
	f.pending.reserve(first)
	done := make(chan error)
	w := f.writer("content")
	go func() {
		_, err := w.Commit(d)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("Commit did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.arrive(first, nil, errFault)
	f.must(<-done)
	f.must(f.Settle())
	f.checkFile(blobPath(d), "content")
}

func TestDamagedSizeIsReplaced(t *testing.T) {
	for _, damaged := range []string{"", "conten", "content and more"} {
		f := setup(t)
		d := digest.FromString("content")
		f.write(blobPath(d), damaged)
		f.put("content")
		if info, err := f.Stat(d); err != nil || info.Size != int64(len("content")) {
			t.Errorf("a damaged blob is preferred to a proven one: %v, %v", info, err)
		}
		f.must(f.Settle())
		f.checkFile(blobPath(d), "content")
		f.checkNoTemp()
	}
}

func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can own files of others")
	}
	f := setup(t)
	owned := func(name string) int {
		info, err := os.Lstat(f.path(name))
		f.must(err)
		uid, _ := owner(info)
		return uid
	}
	f.write("upload", "content")
	f.must(os.Chown(f.path("upload"), 1234, 1234))
	w, err := f.Adopt("upload")
	f.must(err)
	_, err = w.Commit(digest.FromString("content"))
	f.must(err)
	f.must(f.Settle())
	if uid := owned(blobPath(digest.FromString("content"))); uid != 0 {
		t.Errorf("the blob belongs to %d", uid)
	}
}

func TestAdoptAndReturn(t *testing.T) {
	f := setup(t)
	const name = "releases/r/files/upload/data"
	f.write(name, "content")
	before := f.inode(name)
	w, err := f.Adopt(name)
	f.must(err)
	f.checkGone(name)
	if _, err := w.Commit(digest.FromString("other")); err == nil {
		t.Error("Commit as another digest succeeds")
	}
	f.must(w.Return(name))
	f.checkFile(name, "content")
	if f.inode(name) != before {
		t.Error("another file is returned")
	}
	f.checkNoTemp()

	w, err = f.Adopt(name)
	f.must(err)
	_, err = w.Commit(digest.FromString("content"))
	f.must(err)
	f.must(f.Settle())
	f.checkGone(name)
	if f.inode(blobPath(digest.FromString("content"))) != before {
		t.Error("the content was copied")
	}
}

func TestReturnRestores(t *testing.T) {
	f := setup(t)
	f.write("upload", "content")
	if os.Geteuid() == 0 {
		f.must(os.Chown(f.path("upload"), 1234, 1234))
	}
	before, err := os.Lstat(f.path("upload"))
	f.must(err)
	w, err := f.Adopt("upload")
	f.must(err)
	f.write(pendingDir, "no directory can be made here")
	if _, err := w.Commit(digest.FromString("content")); err == nil {
		t.Error("Commit without a directory succeeds")
	}
	f.must(w.Return("upload"))
	after, err := os.Lstat(f.path("upload"))
	f.must(err)
	uid, gid := owner(before)
	if u, g := owner(after); u != uid || g != gid || after.Mode() != before.Mode() {
		t.Errorf("returned with mode %v and owner %d:%d", after.Mode(), u, g)
	}
}

func TestReturnOverwritesNothing(t *testing.T) {
	f := setup(t)
	f.write("upload", "content")
	w, err := f.Adopt("upload")
	f.must(err)
	f.write("upload", "newer")
	if err := w.Return("upload"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Return to a name that is taken: %v", err)
	}
	f.checkFile("upload", "newer")
	f.must(w.Return("elsewhere"))
	f.checkFile("elsewhere", "content")
	if err := w.Return("again"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Return: %v", err)
	}
	if err := f.writer("own").Return("own"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Return of what was not adopted: %v", err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	f := setup(t)
	blob := blobPath(f.put("blob"))
	f.must(f.Settle())
	f.write("files/real/upload", "content")
	f.write("files/hard", "content")
	f.must(os.Link(f.path("files/hard"), f.path("files/hard2")))
	f.must(syscall.Mkfifo(f.path("files/fifo"), 0o644))
	f.plant("real/upload", "files/link")
	f.plant("real", "files/linkdir")
	f.plant("../"+filepath.Dir(blob), "files/blobdir")
	f.plant("/etc", "files/etc")
	f.must(os.WriteFile(f.path("tmp/file"), nil, 0o644))
	f.must(os.WriteFile(f.dir+".outside", nil, 0o644))
	defer os.Remove(f.dir + ".outside")
	for _, name := range []string{
		"", ".", "/", "..", "../x", "../" + filepath.Base(f.dir) + ".outside", "files/../../x", "files/./real/upload",
		"files//real/upload", f.path("files/real/upload"), "tmp/file", "tmp", pendingDir, blob, "docker",
		"files", "files/real", "files/fifo", "files/link", "files/hard",
		"files/linkdir/upload", "files/blobdir/data", "files/etc/hostname", "files/absent", "absent/absent",
	} {
		if w, err := f.Adopt(name); err == nil {
			t.Errorf("Adopt of %q succeeds", name)
			w.Close()
		}
	}
	for _, name := range []string{"files/real/upload", "files/link", "files/fifo", "files/hard", "tmp/file", blob} {
		f.inode(name)
	}
	f.must(os.Remove(f.path("tmp/file")))
	f.checkNoTemp()
	if _, err := f.Adopt("files/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Adopt of what is not there: %v", err)
	}
}

func TestReturnRefuses(t *testing.T) {
	f := setup(t)
	f.write("upload", "content")
	f.must(os.Mkdir(f.path("dir"), 0o755))
	f.plant("dir", "link")
	w, err := f.Adopt("upload")
	f.must(err)
	for _, name := range []string{"", ".", "../x", "/x", "tmp/x", "docker/x", "link/x", "absent/x", "dir"} {
		if err := w.Return(name); err == nil {
			t.Errorf("Return to %q succeeds", name)
		}
	}
	f.must(w.Return("dir/upload"))
	f.checkFile("dir/upload", "content")
}

// What is exchanged between the look and the move is found out afterwards, and
// put back.
func TestTakeLooksAgain(t *testing.T) {
	f := setup(t)
	f.plant("/etc/passwd", "tmp/moved")
	if _, err := f.take("tmp/moved"); !errors.Is(err, beneath.ErrNotRegular) {
		t.Errorf("a symlink is taken: %v", err)
	}
}

// A symlink in tmp that has the name of a writer's file is not followed.
func TestPlantedInTemp(t *testing.T) {
	f := setup(t)
	f.write("victim", "content")
	f.plant("../victim", "tmp/NAME")
	if _, err := f.createTemp("tmp/NAME"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file is made through a symlink: %v", err)
	}
	f.checkFile("victim", "content")
}

func TestCloneOfAdopted(t *testing.T) {
	f := setup(t)
	f.write("upload", "content")
	writing, err := os.OpenFile(f.path("upload"), os.O_RDWR, 0)
	f.must(err)
	defer writing.Close()
	w, err := f.Adopt("upload")
	f.must(err)
	clone, err := w.Clone()
	f.must(err)
	_, err = writing.WriteAt([]byte("CONTENT, and more"), 0)
	f.must(err)
	d := digest.FromString("content")
	_, err = clone.Commit(d)
	f.must(err)
	f.must(f.Settle())
	f.checkFile(blobPath(d), "content")
	f.must(w.Return("upload"))
	f.checkFile("upload", "CONTENT, and more")
	if _, err := w.Clone(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Clone after Return: %v", err)
	}
}

func TestCloneHasItsPositionAtTheBeginning(t *testing.T) {
	f := setup(t)
	clone, err := f.writer("content").Clone()
	f.must(err)
	defer clone.Close()
	_, err = clone.File().WriteString("CON")
	f.must(err)
	if _, err := clone.Commit(digest.FromString("CONtent")); err != nil {
		t.Error(err)
	}
}

// Many goroutines replace one damaged blob, and readers see it damaged or
// whole, never absent.
func TestReplaceConcurrently(t *testing.T) {
	f := setup(t)
	d := digest.FromString("content")
	f.write(blobPath(d), "damaged!")
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			w, err := f.NewWriter()
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			w.File().WriteString("content")
			if _, err := w.Commit(d); err != nil {
				t.Error(err)
			}
			if err := f.Settle(); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() {
			if _, err := f.Stat(d); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	f.checkFile(blobPath(d), "content")
	f.checkNoTemp()
}
