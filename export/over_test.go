package export

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/layout"
)

// history makes three releases: an image that changes, one that comes, one
// that goes, and a tag that moves.
func (f *fixture) history() (v0, v1, v2 *Inventory) {
	f.Helper()
	base := f.put("base")
	first := image(f.put("config 1"), base, f.put("app 1"))
	second := image(f.put("config 2"), base, f.put("app 2"))
	third := image(f.put("config 3"), base, f.put("app 3"))
	old := image(f.put("old config"), base, f.put("old"))
	for i, contents := range []map[string]string{
		{"library/app:1": first, "library/app:latest": first, "old:1": old},
		{"library/app:1": first, "library/app:2": second, "library/app:latest": second, "old:1": old},
		{"library/app:2": second, "library/app:3": third, "library/app:latest": third, "new:1": image(f.put("new config"), base)},
	} {
		r := f.newRelease(fmt.Sprintf("v0.%d", i))
		for name, content := range contents {
			repo, tag, _ := strings.Cut(name, ":")
			f.pushTo(r, repo, tag, content)
		}
		v0, v1, v2 = v1, v2, Take(r, f.blobs)
	}
	return v0, v1, v2
}

// untar unpacks an archive over a directory.
func (f *fixture) untar(dir string, files archive.Archive) {
	f.Helper()
	cmd := exec.Command("tar", "-xf", "-", "-C", dir)
	w, err := cmd.StdinPipe()
	f.must(err)
	f.must(cmd.Start())
	f.must(files.WriteTar(f.Context(), w, f.blobs, archive.Options{Verify: true}))
	f.must(w.Close())
	f.must(cmd.Wait())
}

// filesIn reads the registry's tree in a directory: path → content.
func (f *fixture) filesIn(dir string) map[string]string {
	f.Helper()
	files := make(map[string]string)
	root := filepath.Join(dir, "docker")
	f.must(filepath.Walk(root, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		files[strings.TrimPrefix(name, dir+"/")] = string(data)
		return err
	}))
	return files
}

func (f *fixture) over(inv *Inventory, base *Base) (*Patch, archive.Archive) {
	f.Helper()
	p := inv.Over(base)
	files, err := p.Archive()
	f.must(err)
	return p, files
}

// A customer with a base, who gets the patch, has every file of the release,
// and of his own only what the release has dropped.
func TestBaseAndPatchAreTheRelease(t *testing.T) {
	f := setup(t)
	v0, v1, v2 := f.history()
	full := t.TempDir()
	f.untar(full, v2.Archive())
	want := f.filesIn(full)
	for name, c := range map[string]struct {
		has  []*Inventory
		base *Base
	}{
		"previous":              {[]*Inventory{v1}, BaseOfAll(v1)},
		"skipped one":           {[]*Inventory{v0}, BaseOfAll(v0)},
		"union":                 {[]*Inventory{v0, v1}, BaseOfAll(v0, v1)},
		"union, the other way":  {[]*Inventory{v1, v0}, BaseOfAll(v0, v1)},
		"any, has the first":    {[]*Inventory{v0}, BaseOfAny(v0, v1)},
		"any, has the second":   {[]*Inventory{v1}, BaseOfAny(v0, v1)},
		"has nothing, of union": {nil, BaseOfAll()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, inv := range c.has {
				f.untar(dir, inv.Archive())
			}
			p, files := f.over(v2, c.base)
			f.untar(dir, files)
			got := f.filesIn(dir)
			for path, content := range want {
				if got[path] != content {
					t.Errorf("%s is %q, want %q", path, got[path], content)
				}
			}
			if len(p.Files)+len(p.required) != len(v2.Files) {
				t.Errorf("%d added and %d required of %d", len(p.Files), len(p.required), len(v2.Files))
			}
		})
	}
}

func TestPatchHasNothingThatTheBaseHas(t *testing.T) {
	f := setup(t)
	v0, v1, v2 := f.history()
	p, _ := f.over(v2, BaseOfAll(v1))
	has := func(p *Patch, d digest.Digest) bool {
		return slices.ContainsFunc(p.Files, func(f File) bool { return f.Blob == d })
	}
	for content, want := range map[string]bool{"base": false, "app 2": false, "app 3": true, "config 3": true, "new config": true} {
		if has(p, digest.FromString(content)) != want {
			t.Errorf("blob %q is in the patch: %v", content, !want)
		}
	}
	// What only one of them has, cannot be relied on.
	if any, _ := f.over(v2, BaseOfAny(v0, v1)); !has(any, digest.FromString("app 2")) || has(any, digest.FromString("base")) {
		t.Error("a patch over any of two is not over what both have")
	}
	if got := p.Removed(); !slices.Equal(got, []string{"library/app:1", "old:1"}) {
		t.Errorf("removed tags %q", got)
	}
	if p, _ := f.over(v2, BaseOfAll(v2)); len(p.Files) != 0 {
		t.Errorf("over itself the release has %v", p.Files)
	}
}

// A tar that breaks off anywhere leaves no link to what is not there: links
// after blobs, tags after all other links, each tag's current link after its
// history.
func TestOrder(t *testing.T) {
	f := setup(t)
	_, v1, v2 := f.history()
	p, files := f.over(v2, BaseOfAll(v1))
	for _, all := range []archive.Archive{v2.Archive(), files} {
		there, lastStage := make(map[string]bool), blobs
		for _, r := range p.required {
			there[r.Path] = true
		}
		for _, m := range all {
			at := layout.Parse(m.Path)
			if strings.HasPrefix(m.Path, "regfs/") {
				if len(there) > len(p.required) {
					t.Errorf("%s does not come first", m.Path)
				}
				continue
			}
			there[m.Path] = true
			if s := placeOf(m.Path).stage; s < lastStage {
				t.Errorf("%s comes too late", m.Path)
			} else {
				lastStage = s
			}
			d, _ := layout.ParseLink([]byte(m.Text))
			if at.Kind.IsLink() && !there[layout.BlobDataPath(d)] {
				t.Errorf("%s comes before its blob", m.Path)
			}
			if at.Kind == layout.TagCurrentLink && (!there[layout.RevisionLinkPath(at.Repository, d)] || !there[layout.TagIndexLinkPath(at.Repository, at.Tag, d)]) {
				t.Errorf("%s comes before its manifest's link or its history", m.Path)
			}
		}
	}
}

func TestPatchIsTheSameEachTime(t *testing.T) {
	f := setup(t)
	v0, v1, v2 := f.history()
	_, a := f.over(v2, BaseOfAll(v0, v1))
	_, b := f.over(v2, BaseOfAll(v0, v1))
	if !slices.Equal(a, b) {
		t.Error("two patches of a release over one base differ")
	}
}

func TestDigestsOfACustomer(t *testing.T) {
	f := setup(t)
	_, _, v2 := f.history()
	blob := func(content string) (d digest.Digest, path string) {
		d = digest.FromString(content)
		return d, layout.BlobDataPath(d)
	}
	base, basePath := blob("base")
	app, appPath := blob("app 3")
	for name, c := range map[string]struct {
		list    string
		want    []digest.Digest
		damaged int
		err     string
	}{
		"find, absolute":     {list: "/var/lib/registry/" + basePath + "\n", want: []digest.Digest{base}},
		"find, from blobs":   {list: strings.TrimPrefix(basePath, layout.Root+"/") + "\n./" + appPath, want: []digest.Digest{base, app}},
		"digests":            {list: "# the customer's\r\n\r\n" + base.String() + "\r\n", want: []digest.Digest{base}},
		"sha256sum":          {list: base.Encoded() + "  " + basePath + "\n" + app.Encoded() + " *" + appPath, want: []digest.Digest{base, app}},
		"sha256sum, damaged": {list: base.Encoded() + "  " + appPath + "\n" + app.String(), damaged: 1},
		"not of the release": {list: digest.FromString("other").String()},
		"empty":              {},
		"cut":                {list: basePath + "\n" + appPath[:len(appPath)-9], err: "line 2 is neither"},
		"another fan-out":    {list: strings.Replace(basePath, "/"+base.Encoded()[:2]+"/", "/zz/", 1), err: "line 1"},
		"words":              {list: "no such file or directory", err: "line 1"},
		"endless line":       {list: strings.Repeat("a", maxInventoryLine+1), err: "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := BaseOfAll()
			damaged, err := b.AddDigests(v2, "list", strings.NewReader(c.list))
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("AddDigests: %v, want %q", err, c.err)
			}
			if got := slices.Sorted(maps.Keys(b.blobs)); err == nil && !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
				t.Errorf("blobs %v, want %v", got, c.want)
			}
			if len(damaged) != c.damaged {
				t.Errorf("damaged %v, want %d", damaged, c.damaged)
			}
		})
	}
}

func FuzzParseHave(f *testing.F) {
	d := digest.FromString("x")
	for _, seed := range []string{d.String(), layout.BlobDataPath(d), d.Encoded() + "  " + layout.BlobDataPath(d), "", "a b c", "//data"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if d, _, ok := parseHave(line); ok && d.Validate() != nil {
			t.Errorf("%q gives %q", line, d)
		}
	})
}
