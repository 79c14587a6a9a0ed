package test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// An imported is what "regfs import --json" prints.
type imported struct {
	Images []struct {
		Repository, Tag, Source string
		Digest                  digest.Digest
		Size                    int64
		NewBytes                int64 `json:"new_bytes"`
	}
	Refused  []struct{ Source, Image, Reason string }
	Notes    []string
	Blobs    int
	Bytes    int64
	NewBlobs int   `json:"new_blobs"`
	NewBytes int64 `json:"new_bytes"`
}

func (i imported) names() (names []string) {
	for _, image := range i.Images {
		names = append(names, image.Repository+":"+image.Tag+"@"+image.Digest.String())
	}
	return names
}

// imports brings sources into a release that is made for them.
func (s store) imports(t *testing.T, release string, sources ...string) (in imported) {
	t.Helper()
	s.mustJSON(t, &in, append([]string{"import", "--create", release}, sources...)...)
	return in
}

// exported is the release as a file.
func (s store) exported(t *testing.T, release string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), release+".tar")
	s.must(t, "export", release, "-o", file, "--verify")
	return file
}

// servesImported mounts a release under a stock registry, and pulls all of it.
func (s store) servesImported(t *testing.T, release string, want imagetest.Release) {
	t.Helper()
	m := s.mount(t, release)
	r := serve(t, registrytest.V31, m.dir, nil)
	verify(t, r, want)
	sameSet(t, "catalog", r.API(t).AllRepositories(7), repositories(want))
	r.Stop()
	m.stop(syscall.SIGTERM)
}

// TestImportRegistry brings in the storage of a stock registry, and what is
// made of it.
func TestImportRegistry(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		release := debian(t)[0]
		root := t.TempDir()
		r := serve(t, v, root, nil)
		ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
		r.Stop()
		wanted := closureOf(t, release)
		s := newStore(t)

		in := s.imports(t, "v1.0", root)
		want(t, "blobs", in.Blobs, len(wanted.blobs))
		want(t, "refused", len(in.Refused), 0)
		full := s.exported(t, "v1.0")
		sameSet(t, "export", dumpTar(t, full).files(), wanted.dump())
		s.servesImported(t, "v1.0", release)
		if v != registrytest.V31 {
			return // the rest depends on nothing but the file
		}

		zst, gz := full+".zst", full+".gz"
		command(t, "zstd", "-q", full, "-o", zst)
		command(t, "sh", "-c", "gzip -1c "+full+" > "+gz)
		moved := filepath.Join(t.TempDir(), "moved.tar") // of /var/lib/registry
		command(t, "tar", "-cf", moved, "-C", filepath.Dir(filepath.Dir(root)), filepath.Base(filepath.Dir(root))+"/"+filepath.Base(root))
		for name, source := range map[string]string{
			"of docker/registry/v2": filepath.Join(root, "docker/registry/v2"), "tar.zst": zst, "tar.gz": gz, "tar of a directory": moved,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				other := newStore(t)
				other.imports(t, "v1.0", source)
				sameFile(t, other.exported(t, "v1.0"), full)
				again := other.imports(t, "v1.1", source)
				want(t, "blobs copied again", again.NewBlobs, 0)
				sameFile(t, other.exported(t, "v1.1"), full)
			})
		}
	})
}

// TestImportLayout brings in an OCI layout with all kinds of images.
func TestImportLayout(t *testing.T) {
	release := debian(t)[1]
	wanted := closureOf(t, release).dump()
	file := filepath.Join(t.TempDir(), "layout.tar")
	command(t, "tar", "-czf", file, "-C", release.Dir, ".")
	for name, source := range map[string]string{"tar.gz": file, "as skopeo has it": "oci:" + release.Dir} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.imports(t, "v1.1", source)
			sameSet(t, "export", dumpTar(t, s.exported(t, "v1.1")).files(), wanted)
		})
	}
	t.Run("one image", func(t *testing.T) {
		s := newStore(t)
		image := release.Images[0]
		in := s.imports(t, "v1.1", "oci:"+release.Dir+":"+image.Ref())
		sameSet(t, "images", in.names(), []string{image.Ref() + "@" + image.Digest.String()})
	})
}

// TestImportFromTools brings in what skopeo, crane and podman write.
func TestImportFromTools(t *testing.T) {
	release := synthetic(t)[0]
	r := serve(t, registrytest.V31, t.TempDir(), nil)
	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
	image := release.Images[0]
	at := "docker://" + r.Addr() + "/" + image.Ref()
	named := []string{image.Ref() + "@" + image.Digest.String()}
	copyTo := func(t *testing.T, to string, more ...string) {
		t.Helper()
		args := append([]string{"copy", "--all"}, more...)
		registrytest.Skopeo(t, append(append(args, r.SkopeoFlags("src")...), at, to)...)
	}

	t.Run("skopeo sync", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		args := append([]string{"sync", "--scoped", "--all", "--src", "docker", "--dest", "dir"}, r.SkopeoFlags("src")...)
		for _, repo := range repositories(release) {
			registrytest.Skopeo(t, append(args, r.Addr()+"/"+repo, dir)...)
		}
		s := newStore(t)
		s.imports(t, "v1.0", dir)
		sameSet(t, "export", dumpTar(t, s.exported(t, "v1.0")).files(), closureOf(t, release).dump())
		s.servesImported(t, "v1.0", release)
		kept := s.imports(t, "hosts", "--keep-host", dir)
		want(t, "name with its host", kept.Images[0].Repository, r.Addr()+"/"+image.Repository)

		tar := filepath.Join(t.TempDir(), "tree.tar.gz")
		command(t, "tar", "-czf", tar, "-C", dir, ".")
		s.imports(t, "v1.1", tar)
		sameFile(t, s.exported(t, "v1.1"), s.exported(t, "v1.0"))
	})
	t.Run("skopeo dir", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, "v1.0")
		dir := filepath.Join(t.TempDir(), "one")
		copyTo(t, "dir:"+dir)
		s.refuses(t, 3, []string{"no name", "--name"}, "import", "v1.0", "dir:"+dir)
		in := s.imports(t, "v1.0", "--name", image.Ref(), "dir:"+dir)
		sameSet(t, "images", in.names(), named)
	})
	t.Run("skopeo oci", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, "v1.0")
		dir := filepath.Join(t.TempDir(), "layout")
		copyTo(t, "oci:"+dir+":"+image.Tag)
		s.refuses(t, 3, []string{"only the tag", image.Tag, "--name"}, "import", "v1.0", dir)
		in := s.imports(t, "v1.0", "--name", image.Repository, "oci:"+dir+":"+image.Tag)
		sameSet(t, "images", in.names(), named)
	})
	t.Run("skopeo docker-archive", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "docker.tar")
		registrytest.Skopeo(t, append(append([]string{"copy"}, r.SkopeoFlags("src")...), at, "docker-archive:"+file+":quay.io/"+image.Ref())...)
		s := newStore(t)
		in := s.imports(t, "v1.0", file)
		want(t, "name", in.Images[0].Repository+":"+in.Images[0].Tag, image.Ref())
		s.pulledBack(t, "v1.0", in, file)
	})
	t.Run("crane", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		oci, tarball := filepath.Join(t.TempDir(), "oci"), filepath.Join(t.TempDir(), "docker.tar")
		name := r.Addr() + "/" + image.Ref()
		registrytest.Crane(t, "pull", "--format", "oci", name, oci)
		in := s.imports(t, "v1.0", "--name", image.Ref(), oci)
		sameSet(t, "images", in.names(), named)
		registrytest.Crane(t, "pull", "--format", "tarball", name, tarball)
		in = s.imports(t, "v1.1", tarball) // its layers are compressed, and stay so
		want(t, "name", in.Images[0].Repository+":"+in.Images[0].Tag, image.Ref())
		s.pulledBack(t, "v1.1", in, tarball)
	})
	t.Run("podman save", func(t *testing.T) {
		t.Parallel()
		p := newPodman(t)
		if res := p.podman("pull", "--tls-verify=false", r.Addr()+"/"+image.Ref()); res.code != 0 {
			t.Fatal(res.stderr)
		}
		s := newStore(t)
		for _, format := range []string{"docker-archive", "oci-archive"} {
			file := filepath.Join(t.TempDir(), format+".tar")
			if res := p.podman("save", "--format", format, "-o", file, r.Addr()+"/"+image.Ref()); res.code != 0 {
				t.Fatal(res.stderr)
			}
			in := s.imports(t, format, file)
			want(t, "name", in.Images[0].Repository+":"+in.Images[0].Tag, image.Ref())
			s.pulledBack(t, format, in, file)
		}
	})
}

// pulledBack lets each client pull an image that was brought in, from both
// registries, and compares its ID, which is its config, with that in a file.
func (s store) pulledBack(t *testing.T, release string, in imported, file string) {
	t.Helper()
	id := configOf(t, file)
	m := s.mount(t, release)
	for _, v := range registrytest.Versions {
		r := serve(t, v, m.dir, nil)
		name := r.Addr() + "/" + in.Images[0].Repository + ":" + in.Images[0].Tag
		config := registrytest.Skopeo(t, append(append([]string{"inspect", "--config", "--raw"}, r.SkopeoFlags("")...), "docker://"+name)...)
		want(t, "ID by skopeo", digest.FromString(config), id)
		dir := filepath.Join(t.TempDir(), "dir")
		registrytest.Skopeo(t, append(append([]string{"copy"}, r.SkopeoFlags("src")...), "docker://"+name, "dir:"+dir)...)
		// Not crane validate, which takes all layers for compressed.
		registrytest.Crane(t, "pull", name, filepath.Join(t.TempDir(), "crane.tar"))
		p := newPodman(t)
		if res := p.podman("pull", "--tls-verify=false", "-q", name); res.code != 0 || strings.TrimSpace(res.stdout) != id.Encoded() {
			t.Errorf("podman pull: %s%s, want %s", res.stdout, res.stderr, id.Encoded())
		}
		r.Stop()
	}
	m.stop(syscall.SIGTERM)
}

// configOf asks skopeo for the config of the image in an archive.
func configOf(t *testing.T, file string) digest.Digest {
	t.Helper()
	for _, form := range []string{"docker-archive:", "oci-archive:"} {
		if config, err := registrytest.TrySkopeo(t, "inspect", "--config", "--raw", form+file); err == nil {
			return digest.FromString(config)
		}
	}
	t.Fatalf("skopeo cannot read %s", file)
	return ""
}

// TestImportWhileServed: an import works beside a server, but not into a
// release that it has mounted, nor is one mounted that is being imported into.
func TestImportWhileServed(t *testing.T) {
	withRaceDetector(t)
	releases := synthetic(t)
	s := newStore(t, "v1.0", "v1.1")
	m := s.mount(t, "v1.0")
	s.refuses(t, 1, []string{"v1.0", m.dir, "umount"}, "import", "v1.0", releases[0].Dir)
	before := len(s.servers())
	s.imports(t, "v1.1", releases[1].Dir)
	want(t, "servers", len(s.servers()), before)
	s.servesImported(t, "v1.1", releases[1])

	r := serve(t, registrytest.V31, m.dir, accessLog)
	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), releases[1]))
	_, brought := uploads(r)
	want(t, "blobs uploaded that the import has brought", len(brought), 0)
}

// TestImportKilled: what was brought in before stays, and the next one brings
// the rest.
func TestImportKilled(t *testing.T) {
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{Images: 60, LayerSize: 300_000, Bare: true})
	ok(t, err)
	for name, served := range map[string]bool{"alone": false, "beside a server": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, err := series.Blobs()
			ok(t, err)
			s, had := killedImport(t, series.Dir, served)
			for range 5 {
				if had < len(all) {
					break
				}
				s, had = killedImport(t, series.Dir, served) // it was faster than we
			}
			in := s.imports(t, "v1.0", series.Dir)
			want(t, "images", len(in.Images), len(series.Images))
			if in.NewBlobs == 0 || in.NewBlobs > len(all)-had {
				t.Errorf("%d blobs were copied, of %d, though %d were there", in.NewBlobs, len(all), had)
			}
			sameSet(t, "export", dumpTar(t, s.exported(t, "v1.0")).files(), closureOf(t, series.Release).dump())
			left, _ := os.ReadDir(filepath.Join(string(s), "incoming"))
			want(t, "files left", len(left), 0)
		})
	}
}

// killedImport kills an import in the middle, and returns how many blobs it has
// brought into a new store.
func killedImport(t *testing.T, from string, served bool) (s store, had int) {
	t.Helper()
	s = newStore(t, "v1.0", "other")
	if served {
		s.mount(t, "other")
	}
	cmd := exec.Command(program, "--store", string(s), "import", "v1.0", from)
	cmd.Stderr = io.Discard
	ok(t, cmd.Start())
	blobs := func() int {
		// In this order: what moves meanwhile is missed, and not counted twice.
		placed, _ := filepath.Glob(filepath.Join(string(s), "docker/registry/v2/blobs/sha256/*/*/data"))
		pending, _ := filepath.Glob(filepath.Join(string(s), "tmp/pending/*"))
		return len(pending) + len(placed)
	}
	if !within(20*time.Second, func() bool { return blobs() > 30 }) {
		t.Fatal("the import does not begin")
	}
	ok(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return s, blobs()
}

// TestImportDryRun says what would come, and brings nothing.
func TestImportDryRun(t *testing.T) {
	release := synthetic(t)[0]
	s := newStore(t, "v1.0")
	var planned imported
	s.mustJSON(t, &planned, "import", "-n", "v1.0", release.Dir)
	want(t, "images", len(planned.Images), len(release.Images))
	want(t, "images in the release", strings.Count(s.must(t, "ls", "v1.0"), "\n"), 1)
	in := s.imports(t, "v1.0", release.Dir)
	want(t, "bytes", in.NewBytes, planned.NewBytes)
	s.refuses(t, 1, []string{"no release", "regfs release create"}, "import", "v9", release.Dir)
	s.refuses(t, 2, []string{"no such file"}, "import", "v1.0", filepath.Join(t.TempDir(), "none"))
	s.refuses(t, 2, []string{"REPOSITORY"}, "import", "v1.0", "--name", "A B", release.Dir)
	s.refuses(t, 1, []string{"neither a registry"}, "import", "v1.0", t.TempDir())
	s.refuses(t, 1, []string{"regfs store", "export"}, "import", "v1.0", string(s))
}

// TestImportPatch brings the second release to a store that has the first: by
// its patch alone, and the same comes out.
func TestImportPatch(t *testing.T) {
	releases := synthetic(t)
	from, to := newStore(t), newStore(t)
	from.imports(t, "v1.0", releases[0].Dir)
	from.imports(t, "v1.1", releases[1].Dir)
	patch := filepath.Join(t.TempDir(), "patch.tar")
	from.must(t, "export", "v1.1", "--base", "v1.0", "-o", patch)

	refused(t, to.regfs(t, "import", "--create", "v1.1", patch), 3, "missing")
	to.imports(t, "v1.0", from.exported(t, "v1.0"))
	in := to.imports(t, "v1.1", patch)
	want(t, "images", len(in.Images), len(releases[1].Images))
	if in.NewBytes == 0 || in.NewBytes >= in.Bytes {
		t.Errorf("%d bytes of %d are new", in.NewBytes, in.Bytes)
	}
	sameFile(t, to.exported(t, "v1.1"), from.exported(t, "v1.1"))
}

// TestImportExports: what goes out in any form that keeps manifests comes in as
// the same release.
func TestImportExports(t *testing.T) {
	from := newStore(t)
	from.imports(t, "v1.1", debian(t)[1].Dir)
	full := from.exported(t, "v1.1")
	for _, format := range []string{"registry", "oci", "dir"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			file, tree := filepath.Join(t.TempDir(), format+".tar.zst"), filepath.Join(t.TempDir(), format)
			from.must(t, "export", "v1.1", "--format", format, "--compress", "zstd", "-o", file)
			from.must(t, "export", "v1.1", "--format", format, "--dir", tree)
			to := newStore(t)
			for release, source := range map[string]string{"tar": file, "tree": tree} {
				in := to.imports(t, release, source)
				want(t, "refused", len(in.Refused), 0)
				sameFile(t, to.exported(t, release), full)
			}
		})
	}
	t.Run("docker-archive", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		s.imports(t, "v1.0", synthetic(t)[0].Dir)
		file := filepath.Join(t.TempDir(), "docker.tar")
		s.must(t, "export", "v1.0", "--format", "docker-archive", "-o", file)
		in := s.imports(t, "v1.1", file)
		want(t, "images", len(in.Images), len(synthetic(t)[0].Images))
		again := filepath.Join(t.TempDir(), "again.tar")
		s.must(t, "export", "v1.1", "--format", "docker-archive", "-o", again)
		sameSet(t, "archive of the archive", dumpTar(t, again), dumpTar(t, file))
	})
}

// TestImportOutlivesServer: the server is killed in the middle, or leaves with
// its last mount, and the import goes on by itself.
func TestImportOutlivesServer(t *testing.T) {
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{Images: 60, LayerSize: 300_000, Bare: true})
	ok(t, err)
	for name, end := range map[string]func(t *testing.T, s store, mounted string){
		"killed": func(t *testing.T, s store, _ string) { s.crashServer(t)() },
		"left":   func(t *testing.T, s store, mounted string) { s.must(t, "umount", mounted) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, "v1.0", "other")
			dir := s.detach(t, "other")
			done := make(chan result, 1)
			go func() { done <- s.regfs(t, "import", "v1.0", series.Dir) }()
			begun := func() bool {
				all, _ := filepath.Glob(filepath.Join(string(s), "docker/registry/v2/blobs/sha256/*/*/data"))
				return len(all) > 30
			}
			if !within(20*time.Second, begun) {
				t.Fatal("the import does not begin")
			}
			end(t, s, dir)
			if r := <-done; r.code != 0 {
				t.Fatalf("import: exit code %d\n%s\n%s", r.code, r.stderr, s.log())
			}
			sameSet(t, "export", dumpTar(t, s.exported(t, "v1.0")).files(), closureOf(t, series.Release).dump())
			if isMounted(dir) {
				s.must(t, "umount", dir)
			}
		})
	}
}

// TestImportSharesBlocks: where the disk can, an import takes no space, from a
// directory and from an export's tar.
func TestImportSharesBlocks(t *testing.T) {
	d := newDisk(t, "xfs")
	series, err := imagetest.Synthetic(filepath.Join(d.dir, "images"), imagetest.Options{Images: 10, LayerSize: 4 << 20, Bare: true})
	ok(t, err)
	s := d.newStore(t, "store")
	used := func() int64 {
		command(t, "sync", "-f", d.dir)
		var st syscall.Statfs_t
		ok(t, syscall.Statfs(d.dir, &st))
		return int64(st.Blocks-st.Bfree) * st.Bsize
	}
	before := used()
	in := s.imports(t, "v1.0", series.Dir)
	if took := used() - before; in.NewBytes < 40<<20 || took > in.NewBytes/2 {
		t.Errorf("a directory of %d MB took %d MB", in.NewBytes>>20, took>>20)
	}
	file := filepath.Join(d.dir, "v1.0.tar")
	s.must(t, "export", "v1.0", "-o", file)
	other := store(filepath.Join(d.dir, "other"))
	other.must(t, "init")
	before = used()
	in = other.imports(t, "v1.0", file)
	if took := used() - before; took > in.NewBytes/2 {
		t.Errorf("a tar of %d MB took %d MB", in.NewBytes>>20, took>>20)
	}
	sameSet(t, "export", dumpTar(t, s.exported(t, "v1.0")), dumpTar(t, file))
}
