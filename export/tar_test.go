package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/layout"
)

// largeBlob is so large that its content is aligned in the tar.
const largeBlob = 128 << 10

// fill pushes a release with something of everything, the images in the given
// order.
func (f *fixture) fill(order ...int) {
	amd, arm := image(f.put("config amd64"), f.put("base")), image(f.put("config arm64"))
	pushes := []func(){
		func() { f.push("library/app", "1", image(f.put("config 1"), f.put("base"), f.put(""))) },
		func() { f.push("library/app-tools", "1", image(f.put("config 2"), f.put("base"))) },
		func() { f.push("multi", "", arm); f.push("multi", "", amd) },
		func() { f.push("multi", "1", list(child(amd, "amd64"), child(arm, "arm64"))) },
		func() { f.push("multi/nested", "big", image(f.put("config 3"), f.put(strings.Repeat("x", 3<<20+17)))) },
		func() { f.push("windows", "1", image(f.put("config 4"), foreign("absent"))) },
	}
	for _, i := range order {
		pushes[i]()
	}
}

func TestSameBytes(t *testing.T) {
	f, g := setup(t), setup(t)
	f.fill(0, 1, 2, 3, 4, 5)
	first, second := f.tar(), f.tar()
	if !bytes.Equal(first, second) {
		t.Error("two exports of a release differ")
	}
	g.pushTo(g.newRelease("v0"), "old", "1", image(g.put("old config"), g.put("old")))
	g.fill(5, 2, 4, 3, 1, 0)
	if !bytes.Equal(first, g.tar()) {
		t.Error("the same release, built in another order, differs")
	}
}

func TestUnpackedByGNUTar(t *testing.T) {
	f := setup(t)
	config, layer, digest512 := f.put("config"), f.put("layer"), f.putAs(digest.SHA512, "layer of sha512")
	repo := strings.Repeat("long/", 40) + strings.Repeat("n", 55) // 255 bytes
	content := image(config, layer, digest512)
	d := f.push(repo, strings.Repeat("t", 128), content)
	f.push("short", "1", content)

	want := make(tree)
	want.blob("config", "layer", content)
	want[layout.BlobDataPath(digest512.Digest)] = "layer of sha512"
	for repo, tag := range map[string]string{repo: strings.Repeat("t", 128), "short": "1"} {
		for _, l := range []digest.Digest{config.Digest, layer.Digest, digest512.Digest} {
			want.link(layout.LayerLinkPath(repo, l), l)
		}
		want.link(layout.RevisionLinkPath(repo, d), d)
		want.link(layout.TagCurrentLinkPath(repo, tag), d)
		want.link(layout.TagIndexLinkPath(repo, tag, d), d)
	}
	if got := f.dump(f.tar()); got != want.dump() {
		t.Errorf("unpacked:\n%s\nwant:\n%s", got, want.dump())
	}
}

// TestBytes holds the bytes: a change of them breaks the promise that a
// release has the same tar, now and by a later version.
func TestBytes(t *testing.T) {
	f := setup(t)
	f.fill(0, 1, 2, 3, 4, 5)
	f.push("large", "1", image(f.put("config 5"), f.put(strings.Repeat("y", largeBlob)), f.putAs(digest.SHA512, strings.Repeat("z", 1<<20+1))))
	const want = "sha256:8635682d303a724831dbc40de14436b9bde1c5489e4bf009c4b918cb86e66893"
	if got := digest.FromBytes(f.tar()); got != want {
		t.Errorf("the tar is %s, want %s", got, want)
	}
}

func TestUnpackedByOthers(t *testing.T) {
	f := setup(t)
	f.fill(0, 1, 2, 3, 4, 5)
	f.push("large", "1", image(f.put("config 5"), f.put(strings.Repeat("y", largeBlob))))
	tar := f.tar()
	want := onlyFiles(f.dump(tar))
	for _, command := range [][]string{
		{"python3", "-c", "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('.')"},
		{"bsdtar", "-xpf", "-"},
		{"busybox", "tar", "-xpf", "-"},
	} {
		t.Run(command[0], func(t *testing.T) {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("NOT TESTED: %v", err)
			}
			if got := onlyFiles(f.unpack(tar, command...)); got != want {
				t.Errorf("unpacked:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// onlyFiles leaves out the directories, whose times busybox does not set.
func onlyFiles(dump string) string {
	lines := strings.Split(dump, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, " drwx") }), "\n")
}

func TestVerifyFindsFlippedByte(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	f.push("app", "1", image(f.put("config"), layer))
	f.overwrite(layer.Digest, "lqyer")
	inv := f.take()
	f.must(inv.WriteTar(t.Context(), io.Discard, f.blobs, archive.Options{}))
	err := inv.WriteTar(t.Context(), io.Discard, f.blobs, archive.Options{Verify: true})
	var corrupt *cas.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Want != layer.Digest || corrupt.Got != digest.FromString("lqyer") {
		t.Fatalf("WriteTar: %v", err)
	}
	if !strings.Contains(err.Error(), "needed by app:1") {
		t.Errorf("%q does not name the image", err)
	}
}

func TestBlobChangesAfterTheInventory(t *testing.T) {
	f := setup(t)
	layer := f.put("layer")
	f.push("app", "1", image(f.put("config"), layer))
	inv := f.take()
	for _, content := range []string{"lay", "layers"} {
		f.overwrite(layer.Digest, content)
		err := inv.WriteTar(t.Context(), io.Discard, f.blobs, archive.Options{})
		f.damaged(err, layer.Digest, "app:1", fmt.Sprintf("%d bytes", len(content)), "5 by")
	}
	f.remove(layer.Digest)
	err := inv.WriteTar(t.Context(), io.Discard, f.blobs, archive.Options{})
	var missing *MissingError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "app:1") {
		t.Errorf("WriteTar: %v", err)
	}
}

func TestIncompleteIsRefused(t *testing.T) {
	f := setup(t)
	f.push("app", "1", image(lost("config")))
	var out bytes.Buffer
	err := f.take().WriteTar(t.Context(), &out, f.blobs, archive.Options{})
	var missing *MissingError
	if !errors.As(err, &missing) || out.Len() > 0 {
		t.Errorf("WriteTar: %v, %d bytes", err, out.Len())
	}
}

// A trap cancels the context, or fails, when it has taken enough.
type trap struct {
	left int
	then func() error
}

func (o *trap) Write(p []byte) (int, error) {
	if o.left -= len(p); o.left > 0 {
		return len(p), nil
	}
	return len(p), o.then()
}

func TestCancelledWithinABlob(t *testing.T) {
	f := setup(t)
	layer := f.put(strings.Repeat("x", 8<<20))
	f.push("app", "1", image(f.put("config"), layer))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the test")
	out := &trap{left: 2 << 20, then: func() error { cancel(stop); return nil }}
	err := f.take().WriteTar(ctx, out, f.blobs, archive.Options{})
	if !errors.Is(err, stop) || out.left < -2<<20 {
		t.Errorf("WriteTar: %v, after %d bytes more", err, -out.left)
	}
	err = f.take().WriteTar(ctx, io.Discard, f.blobs, archive.Options{})
	if !errors.Is(err, stop) {
		t.Errorf("WriteTar: %v", err)
	}
}

func TestOutputFails(t *testing.T) {
	f := setup(t)
	f.fill(0, 4)
	size := int(f.take().Size())
	for _, left := range []int{1, 2 << 20, size - 100} {
		full := &os.PathError{Op: "write", Path: "out.tar", Err: errors.New("no space left on device")}
		out := &trap{left: left, then: func() error { return full }}
		err := f.take().WriteTar(t.Context(), out, f.blobs, archive.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), "export v1: ") || !strings.HasSuffix(err.Error(), ": no space left on device") {
			t.Errorf("after %d bytes: %v", left, err)
		}
	}
}
