package mounttest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// registrySteps run on one root, as one registry after the other would.
var registrySteps = []step{
	{"blob_in_place", testBlobInPlace},
	{"blob_by_rename", testBlobByRename},
	{"links", testLinks},
	{"upload", testUpload},
	{"upload_cancelled", testUploadCancelled},
	{"upload_of_nothing", testUploadOfNothing},
	{"image", testImage},
	{"tag_overwritten", testTagOverwritten},
	{"delete_blob", testDeleteBlob},
	{"delete_link", testDeleteLink},
	{"rewrite_under_readers", testRewriteUnderReaders},
	{"two_write_one_blob", testTwoWriteOneBlob},
	{"many_push_at_once", testManyPush},
	{"unsorted_readdir", testUnsortedReaddir},
	{"temp_removed", testTempRemoved},
	{"temp_reader_reads_on", testTempReader},
	{"half_written_blob_is_nobodys_business", testHandlesOfTwo},
	{"link_by_truncating_open", testLinkTruncatingOpen},
	{"blob_by_truncating_open", testBlobTruncatingOpen},
	{"root_files", testRootFiles},
}

// Each test has contents and a repository of its own.
func ownRepo(t *testing.T) string {
	d := digest.FromString(t.Name()).Encoded()
	return "posix/" + d[:12]
}

func checkBlob(t testing.TB, r registry, content []byte) {
	t.Helper()
	hasContent(t, r.blob(digest.FromBytes(content)), content)
}

func checkLink(t testing.TB, path string, d digest.Digest) {
	t.Helper()
	hasContent(t, path, []byte(d))
}

func both(t *testing.T, root string, run func(t *testing.T, r registry)) {
	t.Run("2.8", func(t *testing.T) { run(t, registry2(root)) })
	t.Run("3.x", func(t *testing.T) { run(t, registry3(root)) })
}

func testBlobInPlace(t *testing.T, root string) {
	testPut(t, registry2(root))
}

func testBlobByRename(t *testing.T, root string) {
	testPut(t, registry3(root))
}

func testPut(t *testing.T, r registry) {
	for _, size := range []int{1, 700, 5000, 3 << 20} {
		content := noise(fmt.Sprint(t.Name(), size), size)
		d := digest.FromBytes(content)
		absent(t, r.blob(d))
		ok(t, r.put(r.blob(d), content))
		checkBlob(t, r, content)
		sameList(t, "blob's directory", names(t, filepath.Dir(r.blob(d))), []string{"data"})
		ok(t, r.put(r.blob(d), content))
		checkBlob(t, r, content)
	}
}

func testLinks(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		img, repo := newImage(t.Name(), 1), ownRepo(t)
		ok(t, r.put(r.blob(img.digest()), img.manifest))
		d := img.digest()
		for _, p := range []string{r.revision(repo, d), r.current(repo, "v1"), r.history(repo, "v1", d)} {
			absent(t, p)
			ok(t, r.put(p, []byte(d)))
			checkLink(t, p, d)
			ok(t, r.put(p, []byte(d)))
			checkLink(t, p, d)
			sameList(t, "link's directory", names(t, filepath.Dir(p)), []string{"link"})
		}
		ok(t, r.put(r.blob(digest.FromBytes(img.layers[0])), img.layers[0]))
		l := r.layer(repo, digest.FromBytes(img.layers[0]))
		ok(t, r.put(l, []byte(digest.FromBytes(img.layers[0]))))
		checkLink(t, l, digest.FromBytes(img.layers[0]))
	})
}

func testUpload(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		content, repo := noise(t.Name(), 300_000), ownRepo(t)
		d := digest.FromBytes(content)
		u := must(r.newUpload(repo))(t)
		for part := range slices.Chunk(content, 70_000) {
			ok(t, u.write(part))
			if size := must(os.Stat(u.data()))(t).Size(); size != u.written {
				t.Errorf("upload has %d bytes, want %d", size, u.written)
			}
		}
		sameList(t, "upload", names(t, u.dir), []string{"data", "hashstates", "startedat"})
		if n := len(names(t, filepath.Dir(u.hashstate("")))); n == 0 {
			t.Error("no hashstate is listed")
		}
		ok(t, u.commit(d))
		absent(t, u.dir)
		checkBlob(t, r, content)
		checkLink(t, r.layer(repo, d), d)
		// The registry never takes a blob twice; who does it gets the same.
		ok(t, r.push(repo, content))
		checkBlob(t, r, content)
	})
}

func testUploadCancelled(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		u := must(r.newUpload(ownRepo(t)))(t)
		ok(t, u.write([]byte(t.Name())))
		ok(t, u.cancel())
		absent(t, u.dir)
		sameList(t, "_uploads", names(t, filepath.Dir(u.dir)), nil)
	})
}

func testUploadOfNothing(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		u := must(r.newUpload(ownRepo(t)))(t)
		ok(t, u.write(nil))
		ok(t, u.commit(digest.FromString("")))
		checkBlob(t, r, nil)
	})
}

func testImage(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		a, b := newImage(t.Name()+"a", 3), newImage(t.Name()+"b", 2)
		index := newIndex(t.Name(), a, b)
		repo := ownRepo(t)
		ok(t, r.pushImage(repo, "latest", index))
		for _, content := range append(index.blobs(), index.manifests()...) {
			checkBlob(t, r, content)
		}
		var got []string
		for _, p := range findFiles(t, r.repository(repo)) {
			got = append(got, "docker/registry/v2/repositories/"+repo+"/"+p)
		}
		want := slices.DeleteFunc(index.files(repo, "latest"), func(p string) bool { return p[19] == 'b' })
		sameList(t, "repository", got, want)
	})
}

func testTagOverwritten(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		repo := ownRepo(t)
		a, b := newImage(t.Name()+"a", 1), newImage(t.Name()+"b", 1)
		ok(t, r.pushImage(repo, "v1", a))
		checkLink(t, r.current(repo, "v1"), a.digest())
		old := must(os.Open(r.current(repo, "v1")))(t)
		defer old.Close()
		ok(t, r.pushImage(repo, "v1", b))
		checkLink(t, r.current(repo, "v1"), b.digest())
		checkLink(t, r.history(repo, "v1", a.digest()), a.digest())
		ok(t, r.tag(repo, "v1", a.digest()))
		checkLink(t, r.current(repo, "v1"), a.digest())
		sameList(t, "history", names(t, filepath.Dir(filepath.Dir(r.history(repo, "v1", a.digest())))),
			[]string{a.digest().Encoded(), b.digest().Encoded()})
		ok(t, r.untag(repo, "v1"))
		sameList(t, "tags", names(t, filepath.Join(r.repository(repo), "_manifests", "tags")), nil)
	})
}

func testDeleteBlob(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		content := noise(t.Name(), 5000)
		d := digest.FromBytes(content)
		ok(t, r.put(r.blob(d), content))
		f := must(os.Open(r.blob(d)))(t)
		defer f.Close()
		ok(t, r.deleteBlob(d))
		absent(t, r.blob(d))
		absent(t, filepath.Dir(r.blob(d)))
		same(t, "descriptor of the deleted blob", must(io.ReadAll(f))(t), content)
		ok(t, r.deleteBlob(d)) // what is gone is not missed
		ok(t, r.put(r.blob(d), content))
		checkBlob(t, r, content)
	})
}

func testDeleteLink(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		content, repo := noise(t.Name(), 5000), ownRepo(t)
		d := digest.FromBytes(content)
		for _, remove := range []func() error{
			func() error { return r.deleteLayer(repo, d) },
			func() error { return os.RemoveAll(r.layer(repo, d)) },
		} {
			ok(t, r.push(repo, content))
			checkLink(t, r.layer(repo, d), d)
			ok(t, remove())
			absent(t, r.layer(repo, d))
			checkBlob(t, r, content)
		}
	})
}

func testRewriteUnderReaders(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		content := noise(t.Name(), 200_000)
		p := r.blob(digest.FromBytes(content))
		ok(t, r.put(p, content))
		f := must(os.Open(p))(t)
		defer f.Close()
		m := must(unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_SHARED))(t)
		defer unix.Munmap(m)
		same(t, "mapping", m, content)
		for range 3 {
			ok(t, r.put(p, content))
			same(t, "mapping", m, content)
			same(t, "descriptor", must(io.ReadAll(io.NewSectionReader(f, 0, 1<<20)))(t), content)
			checkBlob(t, r, content)
		}
	})
}

func testTwoWriteOneBlob(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		for i := range 20 {
			content := noise(fmt.Sprint(t.Name(), i), 3000)
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for range 5 {
						if err := r.put(r.blob(digest.FromBytes(content)), content); err != nil {
							t.Errorf("writer %d: %v", w, err)
						}
					}
				})
			}
			wg.Wait()
			checkBlob(t, r, content)
		}
	})
}

func testManyPush(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		shared := noise(t.Name()+"shared", 50_000)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				repo := fmt.Sprint(ownRepo(t), "/", i%3)
				img := newImage(fmt.Sprint(t.Name(), i), 2, shared)
				if err := r.pushImage(repo, fmt.Sprint("v", i), img); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range 8 {
			repo := fmt.Sprint(ownRepo(t), "/", i%3)
			img := newImage(fmt.Sprint(t.Name(), i), 2, shared)
			checkLink(t, r.current(repo, fmt.Sprint("v", i)), img.digest())
			for _, b := range append(img.blobs(), img.manifest) {
				checkBlob(t, r, b)
			}
		}
	})
}

// testUnsortedReaddir: the registry lists with Readdirnames, part by part.
func testUnsortedReaddir(t *testing.T, root string) {
	r, repo := registry3(root), ownRepo(t)
	img := newImage(t.Name(), 1)
	ok(t, r.pushImage(repo, "", img))
	var want []string
	for i := range 60 {
		tag := fmt.Sprint("tag", i)
		ok(t, r.tag(repo, tag, img.digest()))
		want = append(want, tag)
	}
	d := must(os.Open(filepath.Join(r.repository(repo), "_manifests", "tags")))(t)
	defer d.Close()
	var got []string
	for {
		some, err := d.Readdirnames(7)
		got = append(got, some...)
		if err == io.EOF {
			break
		}
		ok(t, err)
	}
	sameList(t, "tags", got, want)
}

// testTempRemoved: a 3.x registry that fails half-way removes what it wrote.
func testTempRemoved(t *testing.T, root string) {
	r := registry3(root)
	content := noise(t.Name(), 100)
	p := r.blob(digest.FromBytes(content))
	ok(t, os.MkdirAll(filepath.Dir(p), 0o777))
	temp := p + "." + newUUID() + ".tmp"
	ok(t, writeSynced(temp, content[:50]))
	hasContent(t, temp, content[:50])
	sameList(t, "directory", names(t, filepath.Dir(p)), []string{filepath.Base(temp)})
	ok(t, os.Remove(temp))
	absent(t, temp)
	sameList(t, "directory", names(t, filepath.Dir(p)), nil)
	ok(t, os.Remove(filepath.Dir(p)))
}

// testTempReader: who has the file open over the rename reads on.
func testTempReader(t *testing.T, root string) {
	r := registry3(root)
	content := noise(t.Name(), 10_000)
	p := r.blob(digest.FromBytes(content))
	ok(t, os.MkdirAll(filepath.Dir(p), 0o777))
	temp := p + "." + newUUID() + ".tmp"
	ok(t, writeSynced(temp, content))
	f := must(os.Open(temp))(t)
	defer f.Close()
	ok(t, os.Rename(temp, p))
	same(t, "descriptor from before the rename", must(io.ReadAll(f))(t), content)
	checkBlob(t, r, content)
}

// testHandlesOfTwo: writers of two blobs do not meet.
func testHandlesOfTwo(t *testing.T, root string) {
	r := registry2(root)
	a, b := noise(t.Name()+"a", 1000), noise(t.Name()+"b", 1000)
	pa, pb := r.blob(digest.FromBytes(a)), r.blob(digest.FromBytes(b))
	ok(t, os.MkdirAll(filepath.Dir(pa), 0o777))
	f := must(os.OpenFile(pa, os.O_WRONLY|os.O_CREATE, 0o666))(t)
	must(f.Write(a[:500]))(t)
	ok(t, r.put(pb, b))
	must(f.Write(a[500:]))(t)
	ok(t, f.Sync())
	ok(t, f.Close())
	checkBlob(t, r, a)
	checkBlob(t, r, b)
}

func testLinkTruncatingOpen(t *testing.T, root string) {
	r, repo := registry3(root), ownRepo(t)
	a, b := newImage(t.Name()+"a", 1), newImage(t.Name()+"b", 1)
	ok(t, r.pushImage(repo, "v1", a))
	ok(t, r.pushImage(repo, "v2", b))
	ok(t, os.WriteFile(r.current(repo, "v1"), []byte(b.digest()), 0o644))
	checkLink(t, r.current(repo, "v1"), b.digest())
}

func testBlobTruncatingOpen(t *testing.T, root string) {
	r := registry3(root)
	content := noise(t.Name(), 1000)
	p := r.blob(digest.FromBytes(content))
	ok(t, r.put(p, content))
	ok(t, os.WriteFile(p, content, 0o644))
	checkBlob(t, r, content)
}

// testRootFiles: a registry in pull-through mode keeps a file at its root, and
// other tools leave others wherever they like.
func testRootFiles(t *testing.T, root string) {
	both(t, root, func(t *testing.T, r registry) {
		for _, p := range []string{"scheduler-state.json", "docker/notes", "docker/registry/v2/blobs/sha256/README",
			"docker/registry/v2/repositories/" + ownRepo(t) + "/_layers/NOTES", "lost+found/x"} {
			content := []byte(p)
			ok(t, r.put(r.path(p), content))
			hasContent(t, r.path(p), content)
			ok(t, r.put(r.path(p), append(content, '2')))
			hasContent(t, r.path(p), append(content, '2'))
			if !slices.Contains(names(t, filepath.Dir(r.path(p))), filepath.Base(p)) {
				t.Errorf("%s is not listed", p)
			}
			ok(t, os.Remove(r.path(p)))
			absent(t, r.path(p))
		}
	})
}
