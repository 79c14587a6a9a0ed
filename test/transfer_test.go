package test

import (
	"archive/tar"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// TestBrokenTransfer breaks tar off over a running customer's registry, in and
// after each of a patch's files. Whatever a tag says then, old or new, is there
// to the last layer; once more from the beginning makes it whole. Files in
// another order are found out.
func TestBrokenTransfer(t *testing.T) {
	releases, err := threeReleases()
	ok(t, err)
	s := newStore(t)
	older, newer := packMoving(t, s, releases[0]), packMoving(t, s, releases[1])
	out := t.TempDir()
	base, patch, wrong := filepath.Join(out, "base.tar"), filepath.Join(out, "patch.tar"), filepath.Join(out, "wrong.tar")
	s.must(t, "export", older.Name, "-o", base)
	s.must(t, "export", newer.Name, "--base", older.Name, "-o", patch)
	backwards(t, patch, wrong)
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		b := &breaker{customer: newCustomer(t), older: changed(older, newer), newer: changed(newer, older)}
		b.untar(base)
		b.registry = serve(t, v, b.dir, nil)
		if faults := b.breakOff(patch); len(faults) > 0 {
			t.Errorf("%d faults: %q", len(faults), first(faults))
		}
		if b.wasOld < 10 || b.wasNew == 0 {
			t.Errorf("the customer had not all of the new release %d times, and all of it %d times", b.wasOld, b.wasNew)
		}
		b.untar(patch)
		verify(t, b.registry, newer)
		s.must(t, "verify", b.dir)
	})
	t.Run("control: tags first", func(t *testing.T) {
		b := &breaker{customer: newCustomer(t), older: changed(older, newer), newer: changed(newer, older)}
		b.untar(base)
		b.registry = serve(t, registrytest.V31, b.dir, nil)
		if len(b.breakOff(wrong)) == 0 {
			t.Error("the wrong order of files is not noticed")
		}
	})
}

// A breaker is a customer whose transfers break off.
type breaker struct {
	*customer
	older, newer   imagetest.Release // what changes between them
	registry       *registrytest.Registry
	wasOld, wasNew int // times that the new release was not there, or there, to the last tag
}

// breakOff unpacks more and more of a tar, and looks each time at what the
// registry serves.
func (b *breaker) breakOff(file string) (faults []string) {
	b.t.Helper()
	for _, cut := range cuts(b.t, file) {
		b.untarUntil(file, cut.at)
		old, now := b.tagged(b.older), b.tagged(b.newer)
		for _, image := range b.newer.Images {
			if image.Tag == movingTag && !names(old, image.Ref()) && !names(now, image.Ref()) {
				faults = append(faults, fmt.Sprintf("cut %s: %s is neither the old one nor the new one", cut, image.Ref()))
			}
		}
		for _, release := range []imagetest.Release{old, now} {
			if err := imagetest.Verify(b.t.Context(), b.registry.Client(), b.registry.URL(), release); err != nil {
				faults = append(faults, fmt.Sprintf("cut %s: %v", cut, err))
			}
		}
		if len(now.Images) < len(b.newer.Images) {
			b.wasOld++
		} else {
			b.wasNew++
		}
	}
	return faults
}

// changed is the part of a release that another one has not, or otherwise.
func changed(release, other imagetest.Release) imagetest.Release {
	release.Images = slices.DeleteFunc(slices.Clone(release.Images), func(i imagetest.Image) bool { return slices.Contains(other.Images, i) })
	return release
}

// backwards writes the files of a tar in the opposite order.
func backwards(t *testing.T, from, to string) {
	t.Helper()
	type member struct {
		*tar.Header
		content []byte
	}
	var all []member
	eachMember(t, from, func(h *tar.Header, r io.Reader, _ int64) {
		content, err := io.ReadAll(r)
		ok(t, err)
		if h.Typeflag == tar.TypeReg {
			all = append(all, member{h, content})
		}
	})
	out, err := os.Create(to)
	ok(t, err)
	defer out.Close()
	w := tar.NewWriter(out)
	for _, m := range slices.Backward(all) {
		ok(t, w.WriteHeader(m.Header))
		_, err := w.Write(m.content)
		ok(t, err)
	}
	ok(t, w.Close())
}

// movingTag names another image in each release.
const movingTag = "stable"

// packMoving pushes a release through a registry, each image by that tag, too.
func packMoving(t *testing.T, s store, release imagetest.Release) imagetest.Release {
	t.Helper()
	s.must(t, "release", "create", release.Name)
	r := serve(t, registrytest.V31, s.mount(t, release.Name).dir, nil)
	defer r.Stop()
	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), release))
	api := r.API(t)
	for _, image := range slices.Clone(release.Images) {
		m, _ := api.GetManifest(image.Repository, image.Tag)
		_, status := api.PutManifest(image.Repository, movingTag, m.MediaType, m.Body)
		want(t, "status of "+image.Repository+":"+movingTag, status, http.StatusCreated)
		image.Tag = movingTag
		release.Images = append(slices.Clip(release.Images), image)
	}
	return release
}

// tagged is the part of a release whose tags say what they say in it.
func (b *breaker) tagged(release imagetest.Release) imagetest.Release {
	b.t.Helper()
	part := imagetest.Release{Name: release.Name, Dir: release.Dir}
	for _, image := range release.Images {
		if m, _ := b.registry.API(b.t).HeadManifest(image.Repository, image.Tag); m.Digest == image.Digest {
			part.Images = append(part.Images, image)
		}
	}
	return part
}

// names says whether one of a release's images has a name.
func names(release imagetest.Release, ref string) bool {
	return slices.ContainsFunc(release.Images, func(i imagetest.Image) bool { return i.Ref() == ref })
}

// A cut is a place at which a transfer breaks off.
type cut struct {
	at    int64 // bytes of the tar
	where string
}

func (c cut) String() string { return fmt.Sprintf("%s (%d)", c.where, c.at) }

// cuts are the middle and the end of the content of each file of a tar.
func cuts(t *testing.T, name string) (all []cut) {
	t.Helper()
	eachMember(t, name, func(h *tar.Header, _ io.Reader, at int64) {
		if h.Typeflag != tar.TypeReg {
			return
		}
		if h.Size > 1024 {
			all = append(all, cut{at + h.Size/2, "in " + h.Name})
		}
		all = append(all, cut{at + (h.Size+511)&^511, "after " + h.Name})
	})
	return all
}

// untarUntil unpacks what has come of a tar when the transfer breaks off.
func (c *customer) untarUntil(file string, at int64) {
	c.t.Helper()
	f, err := os.Open(file)
	ok(c.t, err)
	defer f.Close()
	cmd := exec.Command("tar", "-xf", "-", "-C", c.dir)
	cmd.Stdin = io.LimitReader(f, at)
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "EOF") {
		c.t.Fatalf("tar: %v: %s", err, out)
	}
}
