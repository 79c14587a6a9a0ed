package control

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/tree"
)

// importInto begins an import into a new release, in this process.
func importInto(t *testing.T, dir string) (*Client, *Import) {
	t.Helper()
	c, err := Dial(dir, quiet)
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	ok(t, c.CreateRelease(t.Context(), "v1"))
	i, err := c.Import(t.Context(), "v1")
	ok(t, err)
	return c, i
}

// lay puts a file where an import takes it from.
func lay(t *testing.T, dir string, i *Import, name, content string) digest.Digest {
	t.Helper()
	ok(t, os.WriteFile(filepath.Join(dir, i.Dir, name), []byte(content), 0o600))
	return digest.FromString(content)
}

func TestImport(t *testing.T) {
	dir := newStore(t)
	c, i := importInto(t, dir)
	config := lay(t, dir, i, "config", `{}`)
	layer := lay(t, dir, i, "layer", "layer")
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	top := lay(t, dir, i, "top", `{"schemaVersion":2,"mediaType":"`+mediaType+`","config":{"mediaType":"c","digest":"`+config.String()+
		`","size":2},"layers":[{"mediaType":"l","digest":"`+layer.String()+`","size":5}]}`)
	image := intake.Image{Repository: "team/app", Manifests: []digest.Digest{top}, Tags: []index.TagLink{{Tag: "1", Digest: top}}}

	ok(t, i.Blob(t.Context(), "top", top))
	ok(t, i.Blob(t.Context(), "config", config))
	reasons, err := i.Images(t.Context(), []intake.Image{image})
	ok(t, err)
	if want := "layer " + layer.String() + " is missing"; reasons[0] != want {
		t.Errorf("an image that is not whole is refused with %q, not %q", reasons[0], want)
	}
	wantError(t, i.Blob(t.Context(), "layer", digest.FromString("other")), ErrCorrupt, layer.String())
	lay(t, dir, i, "layer", "layer") // the wrong one is gone
	ok(t, i.Blob(t.Context(), "layer", layer))
	for name, bad := range map[string]intake.Image{
		"repository": {Repository: "../x", Manifests: image.Manifests, Tags: image.Tags},
		"tag":        {Repository: "team/bad", Manifests: image.Manifests, Tags: []index.TagLink{{Tag: "-", Digest: top}}},
		"digest":     {Repository: "team/bad", Manifests: []digest.Digest{"sha256:x"}},
		"nowhere":    {Repository: "team/bad", Manifests: image.Manifests, Tags: []index.TagLink{{Tag: "1", Digest: layer}}},
		"layer":      {Repository: "team/bad", Manifests: []digest.Digest{layer}},
	} {
		reasons, err := i.Images(t.Context(), []intake.Image{bad, image})
		ok(t, err)
		if reasons[0] == "" || reasons[1] != "" {
			t.Errorf("%s: refused with %q", name, reasons)
		}
	}
	have, err := i.Have(t.Context(), []digest.Digest{layer, digest.FromString("none")})
	ok(t, err)
	if len(have) != 1 || have[layer] != 5 {
		t.Errorf("have: %v", have)
	}
	wantError(t, i.Blob(t.Context(), "../../regfs.json", layer), ErrUsage)
	wantError(t, i.Blob(t.Context(), "none", layer), os.ErrNotExist)
	ok(t, i.Close())
	wantError(t, i.Blob(t.Context(), "layer", layer), ErrLeaving)
	images, err := c.Images(t.Context(), "v1")
	ok(t, err)
	if len(images) != 1 || images[0].Repository != "team/app" || images[0].Tag != "1" {
		t.Errorf("images: %+v", images)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "incoming")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	noted, err := snapshot.Read(dir, "v1")
	ok(t, err)
	if len(noted.Names) != 1 || noted.Names[0].String() != "team/app:1" {
		t.Errorf("written down are %v", noted.Names)
	}
}

// What an import has asked for or brought stays until its end, whatever is
// collected meanwhile; and a release is not removed under it.
func TestImportKeepsItsBlobs(t *testing.T) {
	dir := newStore(t)
	litter(t, dir, 2)
	c, i := importInto(t, dir)
	found := digest.FromBytes([]byte{1, 0})
	have, err := i.Have(t.Context(), []digest.Digest{found})
	ok(t, err)
	if len(have) != 1 {
		t.Fatalf("have: %v", have)
	}
	ok(t, i.Blob(t.Context(), "brought", lay(t, dir, i, "brought", "brought")))
	if _, gone := collect(t, c, GCRequest{}); gone.Blobs != 1 {
		t.Errorf("%d blobs have gone, want 1", gone.Blobs)
	}
	wantError(t, c.RemoveRelease(t.Context(), "v1", false), syscall.EBUSY, "import")
	ok(t, i.Close())
	if _, gone := collect(t, c, GCRequest{}); gone.Blobs != 2 {
		t.Errorf("%d blobs have gone after the end, want 2", gone.Blobs)
	}
}

// One import goes into a release at a time, and nobody mounts it meanwhile; one
// whose command is gone holds up nobody.
func TestImportIsAlone(t *testing.T) {
	dir := newStore(t)
	defer startServer(t, dir, quiet)()
	_, first := importInto(t, dir)
	c, err := Dial(dir, quiet)
	ok(t, err)
	defer c.Close()
	_, _, err = c.Mount(t.Context(), MountRequest{Release: "v1", Mountpoint: t.TempDir(), Backend: BackendFuse, Reuse: tree.ReuseStore, Detach: true})
	wantError(t, err, syscall.EBUSY, "import", "v1")
	begun := time.Now()
	_, err = c.Import(t.Context(), "v1")
	wantError(t, err, syscall.EBUSY, "another import")
	if took := time.Since(begun); took < patience {
		t.Errorf("given up after %v", took)
	}
	ok(t, first.Close())
	ctx, kill := context.WithCancel(t.Context())
	second, err := c.Import(ctx, "v1")
	ok(t, err)
	lay(t, dir, second, "file", "half")
	kill()
	third, err := c.Import(t.Context(), "v1")
	ok(t, err)
	if _, err := os.Stat(filepath.Join(dir, second.Dir)); !os.IsNotExist(err) {
		t.Errorf("the killed import has left its files: %v", err)
	}
	ok(t, third.Close())
}
