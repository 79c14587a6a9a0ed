package test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// threeReleases returns a row of three releases of a few small images, the
// third without the first's last image.
var threeReleases = sync.OnceValues(func() ([]imagetest.Release, error) {
	s, err := imagetest.Synthetic(filepath.Join(shared, "history"), imagetest.Options{Images: 8, LayerSize: 40_000, Seed: 5})
	if err != nil {
		return nil, err
	}
	all := []imagetest.Release{s.Release}
	for range 2 {
		next, err := s.Next(0.3)
		if err != nil {
			return nil, err
		}
		all = append(all, next)
	}
	all[2].Images = all[2].Images[:len(all[2].Images)-1]
	return all, nil
})

// packaged returns a store that has some releases, each pushed through a
// registry.
func packaged(t *testing.T, releases []imagetest.Release) store {
	t.Helper()
	s := newStore(t)
	for _, release := range releases {
		s.must(t, "release", "create", release.Name)
		m := s.mount(t, release.Name)
		r := serve(t, registrytest.V31, m.dir, nil)
		ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
		r.Stop()
	}
	return s
}

// A customer is a registry's storage directory that releases are brought to.
type customer struct {
	t   *testing.T
	dir string
}

func newCustomer(t *testing.T) *customer { return &customer{t, t.TempDir()} }

// apply does what the script in a patch is for.
func (c *customer) apply(patch, release string, more ...string) result {
	c.t.Helper()
	script := filepath.Join(c.t.TempDir(), "apply.sh")
	writeFile(c.t, script, []byte(command(c.t, "tar", "-xOf", patch, "regfs/"+release+"/apply.sh")))
	return runProgram(c.t, nil, "sh", append([]string{script, patch, c.dir}, more...)...)
}

func (c *customer) untar(file string) {
	c.t.Helper()
	command(c.t, "tar", "-xf", file, "-C", c.dir)
}

// hasAll checks that the directory has all files of a full export, and is
// whole.
func (c *customer) hasAll(full string) {
	c.t.Helper()
	if lost := minus(dumpTar(c.t, full).files(), dumpDir(c.t, c.dir)); len(lost) > 0 {
		c.t.Errorf("the customer lacks, or has otherwise: %q", first(lost))
	}
	if said := (store("")).must(c.t, "verify", c.dir); !strings.Contains(said, "good") {
		c.t.Errorf("verify says %s", said)
	}
}

// TestHandover is a history of three releases on its way to customers: as
// full, patch, patch; and to one who skipped a release.
func TestHandover(t *testing.T) {
	releases, err := threeReleases()
	ok(t, err)
	s := packaged(t, releases)
	out := t.TempDir()
	file := func(name string) string { return filepath.Join(out, name) }
	for _, args := range [][]string{
		{"v1.0", "-o", file("v1.0.tar")},
		{"v1.1", "-o", file("v1.1.tar")},
		{"v1.2", "-o", file("v1.2.tar")},
		{"v1.1", "--base", "v1.0", "-o", file("v1.1-over-v1.0.tar")},
		{"v1.2", "--base", "v1.1", "-o", file("v1.2-over-v1.1.tar")},
		{"v1.2", "--works-on-any", "v1.0,v1.1", "-o", file("v1.2-any.tar")},
		{"v1.2", "--base", "v1.0", "--base", "v1.1", "-o", file("v1.2-union.tar")},
	} {
		s.must(t, append([]string{"export"}, args...)...)
	}
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		t.Run("full, patch, patch over a running registry", func(t *testing.T) {
			c := newCustomer(t)
			c.untar(file("v1.0.tar"))
			r := serve(t, v, c.dir, nil)
			for i, patch := range []string{"v1.1-over-v1.0.tar", "v1.2-over-v1.1.tar"} {
				s.must(t, "verify", "--against", c.dir, file(patch))
				c.untar(file(patch))
				verify(t, r, releases[i+1])
				c.hasAll(file(releases[i+1].Name + ".tar"))
			}
		})
		t.Run("skipped one", func(t *testing.T) {
			c := newCustomer(t)
			c.untar(file("v1.0.tar"))
			want(t, "a patch over v1.1 and v1.0", c.apply(file("v1.2-union.tar"), "v1.2").code, 3)
			want(t, "a patch over any", c.apply(file("v1.2-any.tar"), "v1.2").code, 0)
			verify(t, serve(t, v, c.dir, nil), releases[2])
			c.hasAll(file("v1.2.tar"))
		})
	})
	t.Run("the digests that a customer has", func(t *testing.T) { byInventory(t, s, releases, out) })
	t.Run("a wrong base is refused", func(t *testing.T) { wrongBase(t, s, file("v1.0.tar"), file("v1.2-over-v1.1.tar")) })
	t.Run("the plan is exact", func(t *testing.T) {
		for name, args := range map[string][]string{"v1.1.tar": {"v1.1"}, "v1.2-any.tar": {"v1.2", "--works-on-any", "v1.0,v1.1"}} {
			var plan struct {
				Size   int64
				Images []struct{ Name string }
			}
			s.mustJSON(t, &plan, append([]string{"export", "-n"}, args...)...)
			want(t, "size of "+name, plan.Size, fileSize(t, file(name)))
			if said := s.must(t, append([]string{"export", "-n"}, args...)...); !strings.Contains(said, plan.Images[0].Name) {
				t.Errorf("the plan does not name %s:\n%s", plan.Images[0].Name, said)
			}
		}
	})
	t.Run("compressed, and in parts", func(t *testing.T) {
		for program, suffix := range map[string]string{"gzip": "gz", "zstd": "zst"} {
			name := file("v1.1.tar." + suffix)
			s.must(t, "export", "v1.1", "--compress", program, "--split", "1MiB", "-o", name)
			command(t, "sh", "-c", "cd "+out+" && sha256sum -c --quiet "+name+".SHA256SUMS && cat "+name+".[0-9][0-9][0-9] > "+name)
			c := newCustomer(t)
			c.untar(name)
			c.hasAll(file("v1.1.tar"))
			s.must(t, "verify", name)
		}
		s.refuses(t, 2, []string{"no size"}, "export", "v1.1", "--split", "some", "-o", file("x.tar"))
		s.refuses(t, 2, []string{"gzip and zstd"}, "export", "v1.1", "--compress", "lzma", "-o", file("x.tar"))
		s.refuses(t, 1, []string{".000 exists"}, "export", "v1.1", "--compress", "gzip", "--split", "1MiB", "-o", file("v1.1.tar.gz"))
	})
	t.Run("a list of images", func(t *testing.T) {
		images := filepath.Join(t.TempDir(), "images.list")
		part := imagetest.Release{Name: "part", Dir: releases[1].Dir, Images: releases[1].Images[2:5]}
		text := "# a part of the release\n\n"
		for _, i := range part.Images {
			text += "registry.example.com/" + i.Ref() + "\n"
		}
		writeFile(t, images, []byte(text))
		s.must(t, "export", "v1.1", "--images", images, "-o", file("part.tar"))
		sameSet(t, "part.tar", dumpTar(t, file("part.tar")).files(), closureOf(t, part).dump())
		writeFile(t, images, []byte(text+"none:1\n"))
		s.refuses(t, 1, []string{"not in the release: none:1"}, "export", "v1.1", "--images", images, "-o", file("none.tar"))
		s.refuses(t, 2, []string{"not of the form os/arch"}, "export", "v1.1", "--platform", "linux", "-o", file("none.tar"))
	})
	t.Run("tags that are gone are listed", func(t *testing.T) {
		c := newCustomer(t)
		c.untar(file("v1.1.tar"))
		c.untar(file("v1.2-over-v1.1.tar"))
		command(t, "sh", "-c", "cd "+c.dir+" && xargs rm -r < regfs/v1.2/removed-tags")
		command(t, "sh", "-c", "cd "+c.dir+" && sha256sum -c --quiet regfs/v1.2/SHA256SUMS")
		r := serve(t, registrytest.V31, c.dir, nil)
		verify(t, r, releases[2])
		gone := releases[0].Images[len(releases[0].Images)-1]
		want(t, "tags of an image that is gone", len(r.API(t).Tags(gone.Repository, 0, "").Names), 0)
	})
}

// byInventory makes a patch for a customer who lists what he has.
func byInventory(t *testing.T, s store, releases []imagetest.Release, out string) {
	c := newCustomer(t)
	c.untar(filepath.Join(out, "v1.0.tar"))
	list := filepath.Join(t.TempDir(), "have")
	writeFile(t, list, []byte(command(t, "find", c.dir, "-name", "data")))
	patch := filepath.Join(t.TempDir(), "v1.2.tar")
	s.must(t, "export", "v1.2", "--base-inventory", list, "-o", patch)
	want(t, "apply", c.apply(patch, "v1.2").code, 0)
	verify(t, serve(t, registrytest.V28, c.dir, nil), releases[2])
	c.hasAll(filepath.Join(out, "v1.2.tar"))
	if has, full := fileSize(t, patch), fileSize(t, filepath.Join(out, "v1.2.tar")); has > full/2 {
		t.Errorf("the patch has %d bytes of %d", has, full)
	}
	writeFile(t, list, []byte("find: no such directory\n"))
	s.refuses(t, 1, []string{"line 1", "neither"}, "export", "v1.2", "--base-inventory", list, "-o", patch, "--force")
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	ok(t, err)
	return info.Size()
}

// wrongBase puts a patch over what it is not for, by each of the ways to find
// out.
func wrongBase(t *testing.T, s store, base, patch string) {
	c := newCustomer(t)
	c.untar(base)
	before := dumpDir(t, c.dir)
	r := s.regfs(t, "verify", "--against", c.dir, patch)
	want(t, "exit code of verify", r.code, damage)
	if !strings.Contains(r.stdout, "requires it") {
		t.Errorf("verify says %s", r.stdout)
	}
	want(t, "exit code of apply.sh", c.apply(patch, "v1.2").code, 3)
	sameSet(t, "the customer's directory", dumpDir(t, c.dir), before)

	// A byte of the patch itself.
	text, err := os.ReadFile(patch)
	ok(t, err)
	broken := filepath.Join(t.TempDir(), "broken.tar")
	at := bytes.Index(text, []byte("docker/registry/v2/blobs")) // in a list of checksums
	text[len(text)*3/4] ^= 1
	writeFile(t, broken, text)
	if r := s.regfs(t, "verify", broken); r.code == 0 || at < 0 {
		t.Errorf("verify finds nothing wrong: %s", r.stdout)
	}
}
