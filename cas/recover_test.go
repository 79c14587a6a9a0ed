package cas

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestDiscardTemp(t *testing.T) {
	f := setup(t)
	f.must(f.DiscardTemp())
	f.write("tmp/file", "left")
	f.write("tmp/dir/file", "left")
	f.write("releases/r/files/kept", "kept")
	f.plant("../releases/r/files", "tmp/link")
	f.plant("/etc/passwd", "tmp/escape")
	f.must(f.DiscardTemp())
	f.checkNoTemp()
	f.checkFile("releases/r/files/kept", "kept")
}

// A process that was killed between Commit and Flush leaves blobs pending. The
// next one has them at their places, and durable.
func TestKilledWithBlobsPending(t *testing.T) {
	f := setup(t)
	one, two := f.put("one"), f.put("two")
	f.reopen()
	if _, err := f.Stat(one); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a blob that is not proven yet is found: %v", err)
	}
	before, inode := f.Syncs(), f.inode(pendingPath(one))
	f.must(f.DiscardTemp())
	f.checkFile(blobPath(one), "one")
	f.checkFile(blobPath(two), "two")
	f.checkNoTemp()
	if got := f.Syncs() - before; got != 2+3 {
		t.Errorf("%d syncs for two blobs and three directories", got)
	}
	if f.inode(blobPath(one)) != inode {
		t.Error("the blob was copied")
	}
}

// A disk that is full has no room for a blob's directory, and a server has to
// come up there, and to leave in good order.
func TestRecoveredBlobsThatCannotGoToTheirPlaces(t *testing.T) {
	f := setup(t)
	one, two := f.put("one"), f.put("two")
	f.reopen()
	f.write("docker", "no directory can be made here")
	f.must(f.DiscardTemp())
	f.mustFind(one)
	f.mustFind(two)
	if err := f.Settle(); err == nil || !strings.Contains(err.Error(), "; 1 others stay") {
		t.Errorf("Settle says: %v", err)
	}
	f.must(f.Close())
	f.reopen()
	f.must(os.Remove(f.path("docker")))
	f.must(f.DiscardTemp())
	f.checkFile(blobPath(one), "one")
	f.checkFile(blobPath(two), "two")
	f.checkNoTemp()
}

// After a power loss what was not flushed may be anything.
func TestPendingIsProven(t *testing.T) {
	f := setup(t)
	whole, torn, empty := digest.FromString("whole"), digest.FromString("torn"), digest.SHA512.FromString("empty")
	f.write(pendingPath(whole), "whole")
	f.write(pendingPath(torn), "to\x00\x00")
	f.write(pendingPath(empty), "")
	f.write(pendingDir+"/stranger", "stranger")
	f.write(pendingDir+"/"+digest.FromString("dir").String()+"/file", "stranger")
	f.write("elsewhere", "linked")
	f.plant("../../elsewhere", pendingPath(digest.FromString("linked")))
	f.must(f.DiscardTemp())
	f.checkNoTemp()
	f.checkFile(blobPath(whole), "whole")
	n := 0
	for info, err := range f.All() {
		if f.must(err); info.Digest != whole {
			t.Errorf("%s is a blob now", info.Digest)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d blobs", n)
	}
	info, err := os.Lstat(f.path(blobPath(whole)))
	f.must(err)
	if info.Mode() != blobMode {
		t.Errorf("a recovered blob has mode %v", info.Mode())
	}
}

// Killed between the move to its place and nothing else, or while a damaged
// blob was there.
func TestPendingMeetsWhatIsThere(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.must(f.Settle())
	inode := f.inode(blobPath(d))
	f.write(pendingPath(d), "content")
	f.must(f.DiscardTemp())
	if f.inode(blobPath(d)) != inode {
		t.Error("a blob that is whole was replaced")
	}
	f.must(os.Remove(f.path(blobPath(d))))
	f.write(blobPath(d), "cont")
	f.write(pendingPath(d), "content")
	f.must(f.DiscardTemp())
	f.checkFile(blobPath(d), "content")
	f.checkNoTemp()
}

// If the disk fails under the recovery, nothing is thrown away that the next
// one could save.
func TestRecoveryStartsOverAfterFault(t *testing.T) {
	f := setup(t)
	d := f.put("content")
	f.reopen()
	f.disk.syncDir = func(string) error { return errFault }
	if err := f.DiscardTemp(); !errors.Is(err, errFault) {
		t.Errorf("DiscardTemp: %v", err)
	}
	f.checkFile(pendingPath(d), "content")
	f.reopen()
	f.must(f.DiscardTemp())
	f.checkFile(blobPath(d), "content")
}

// An upload that was being committed when the process was killed is where it
// was, for its client to go on with; one that was committed is a blob.
func TestAdoptedIsGivenBack(t *testing.T) {
	f := setup(t)
	f.write("files/upload", "half an upload")
	_, err := f.Adopt("files/upload")
	f.must(err)
	f.checkGone("files/upload")
	f.write("files/other", "a whole upload")
	w, err := f.Adopt("files/other")
	f.must(err)
	// Killed after the rename: the link that says where it came from is left.
	d := digest.FromString("a whole upload")
	f.must(os.MkdirAll(f.path(pendingDir), 0o755))
	f.must(os.Rename(f.path(w.name), f.path(pendingPath(d))))
	f.reopen()
	f.must(f.DiscardTemp())
	f.checkFile("files/upload", "half an upload")
	f.checkGone("files/other")
	f.checkFile(blobPath(d), "a whole upload")
	f.checkNoTemp()
	if !strings.HasPrefix(w.name, tempDir+"/") {
		t.Errorf("adopted as %s", w.name)
	}
}
