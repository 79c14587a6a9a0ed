package layout

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	hex256 = "96443a84ce518ac22acb2e985eda402b58ac19ce6f91980bde63726a79d80b36"
	sha256 = digest.Digest("sha256:" + hex256)
)

var (
	hex384 = strings.Repeat("0f", 48)
	hex512 = strings.Repeat("a1", 64)
	sha512 = digest.Digest("sha512:" + hex512)
)

// One path or more of every kind that has one.
var meanings = []struct {
	path string
	want Path
}{
	{"", Path{Kind: Top}},
	{"docker", Path{Kind: Skeleton, Prefix: "docker"}},
	{"docker/registry", Path{Kind: Skeleton, Prefix: "docker/registry"}},
	{Root, Path{Kind: Skeleton, Prefix: Root}},

	{Root + "/blobs", Path{Kind: Blobs}},
	{Root + "/blobs/sha256", Path{Kind: BlobAlgorithm, Algorithm: "sha256"}},
	{Root + "/blobs/sha384", Path{Kind: BlobAlgorithm, Algorithm: "sha384"}},
	{Root + "/blobs/sha256/96", Path{Kind: BlobPrefix, Algorithm: "sha256", Prefix: "96"}},
	{Root + "/blobs/sha256/96/" + hex256, Path{Kind: BlobDir, Digest: sha256}},
	{Root + "/blobs/sha256/96/" + hex256 + "/data", Path{Kind: BlobData, Digest: sha256}},
	{Root + "/blobs/sha384/0f/" + hex384 + "/data", Path{Kind: BlobData, Digest: digest.Digest("sha384:" + hex384)}},
	{Root + "/blobs/sha512/a1/" + hex512 + "/data", Path{Kind: BlobData, Digest: sha512}},

	{Root + "/repositories", Path{Kind: Repositories}},
	{Root + "/repositories/a", Path{Kind: Repository, Repository: "a"}},
	{Root + "/repositories/a/b-c/d__e", Path{Kind: Repository, Repository: "a/b-c/d__e"}},
	{Root + "/repositories/data/link", Path{Kind: Repository, Repository: "data/link"}},
	{Root + "/repositories/docker.io/library/nginx", Path{Kind: Repository, Repository: "docker.io/library/nginx"}},

	{Root + "/repositories/a/b/_layers", Path{Kind: Layers, Repository: "a/b"}},
	{Root + "/repositories/a/b/_layers/sha256", Path{Kind: LayerAlgorithm, Repository: "a/b", Algorithm: "sha256"}},
	{Root + "/repositories/a/b/_layers/sha256/" + hex256, Path{Kind: LayerDir, Repository: "a/b", Digest: sha256}},
	{Root + "/repositories/a/b/_layers/sha256/" + hex256 + "/link", Path{Kind: LayerLink, Repository: "a/b", Digest: sha256}},

	{Root + "/repositories/a/_manifests", Path{Kind: Manifests, Repository: "a"}},
	{Root + "/repositories/a/_manifests/revisions", Path{Kind: Revisions, Repository: "a"}},
	{Root + "/repositories/a/_manifests/revisions/sha512", Path{Kind: RevisionAlgorithm, Repository: "a", Algorithm: "sha512"}},
	{Root + "/repositories/a/_manifests/revisions/sha512/" + hex512, Path{Kind: RevisionDir, Repository: "a", Digest: sha512}},
	{Root + "/repositories/a/_manifests/revisions/sha512/" + hex512 + "/link", Path{Kind: RevisionLink, Repository: "a", Digest: sha512}},

	{Root + "/repositories/a/_manifests/tags", Path{Kind: Tags, Repository: "a"}},
	{Root + "/repositories/a/_manifests/tags/v1.0", Path{Kind: TagDir, Repository: "a", Tag: "v1.0"}},
	{Root + "/repositories/a/_manifests/tags/sha256-" + hex256 + ".sig", Path{Kind: TagDir, Repository: "a", Tag: "sha256-" + hex256 + ".sig"}},
	{Root + "/repositories/a/_manifests/tags/v1.0/current", Path{Kind: TagCurrent, Repository: "a", Tag: "v1.0"}},
	{Root + "/repositories/a/_manifests/tags/current/current/link", Path{Kind: TagCurrentLink, Repository: "a", Tag: "current"}},
	{Root + "/repositories/a/_manifests/tags/v1.0/index", Path{Kind: TagIndex, Repository: "a", Tag: "v1.0"}},
	{Root + "/repositories/a/_manifests/tags/v1.0/index/sha256", Path{Kind: TagIndexAlgorithm, Repository: "a", Tag: "v1.0", Algorithm: "sha256"}},
	{Root + "/repositories/a/_manifests/tags/v1.0/index/sha256/" + hex256, Path{Kind: TagIndexDir, Repository: "a", Tag: "v1.0", Digest: sha256}},
	{Root + "/repositories/a/_manifests/tags/v1.0/index/sha256/" + hex256 + "/link", Path{Kind: TagIndexLink, Repository: "a", Tag: "v1.0", Digest: sha256}},
}

func TestMeaningAndBack(t *testing.T) {
	seen := map[Kind]bool{Other: true, Temp: true}
	for _, m := range meanings {
		seen[m.want.Kind] = true
		if got := Parse(m.path); got != m.want {
			t.Errorf("Parse(%q)\n got %+v\nwant %+v", m.path, got, m.want)
		}
		if got := m.want.String(); got != m.path {
			t.Errorf("%+v.String()\n got %q\nwant %q", m.want, got, m.path)
		}
	}
	for k := range Temp + 1 {
		if !seen[k] {
			t.Errorf("no example of %v", k)
		}
	}
}

const id = "0dfd6ba4-3a5e-4f0c-8b8d-8c3f0c9b8e11"

func TestTemp(t *testing.T) {
	const tag = Root + "/repositories/a/_manifests/tags/v1"
	for path, want := range map[string]Path{
		Root + "/blobs/sha256/96/" + hex256 + "/data":                            {Digest: sha256},
		Root + "/repositories/a/_layers/sha256/" + hex256 + "/link":              {Repository: "a", Digest: sha256},
		Root + "/repositories/a/_manifests/revisions/sha256/" + hex256 + "/link": {Repository: "a", Digest: sha256},
		tag + "/current/link":                     {Repository: "a", Tag: "v1"},
		tag + "/index/sha256/" + hex256 + "/link": {Repository: "a", Tag: "v1", Digest: sha256},
	} {
		want.Kind = Temp
		got := Parse(path + "." + id + ".tmp")
		if got != want {
			t.Errorf("Parse(%q)\n got %+v\nwant %+v", path, got, want)
		}
		if s := got.String(); s != "" {
			t.Errorf("a Temp has the path %q", s)
		}
	}
}

// What a stock registry or another tool leaves around, and what a hostile
// client may try.
var others = []string{
	"/", ".", "..", "/docker", "docker/", "docker//registry", "Docker", "docker/registry/v1", "docker/registry/v22",
	"scheduler-state.json", "docker/scheduler-state.json", Root + "/", Root + "/blobs/", Root + "//blobs", Root + "/Blobs",
	Root + "/../v2/blobs", Root + "/.", "docker/registry/../registry/v2",

	Root + "/blobs/md5", Root + "/blobs/SHA256", Root + "/blobs/sha256+b64", Root + "/blobs/..",
	Root + "/blobs/sha256/9", Root + "/blobs/sha256/964", Root + "/blobs/sha256/9G", Root + "/blobs/sha256/9A", Root + "/blobs/sha256/..",
	Root + "/blobs/sha256/97/" + hex256, Root + "/blobs/sha256/" + hex256,
	Root + "/blobs/sha512/96/" + hex256, Root + "/blobs/sha256/a1/" + hex512,
	Root + "/blobs/sha256/96/" + strings.ToUpper(hex256), Root + "/blobs/sha256/96/" + hex256[:63], Root + "/blobs/sha256/96/" + hex256[:62] + "..",
	Root + "/blobs/sha256/96/" + hex256 + "/", Root + "/blobs/sha256/96/" + hex256 + "/link", Root + "/blobs/sha256/96/" + hex256 + "/data/x",
	Root + "/blobs/sha256/96/" + hex256 + "/startedat", Root + "/blobs/sha256/96/" + hex256 + "/data.tmp",
	Root + "/blobs/sha256/96/" + hex256 + "/data..tmp", Root + "/blobs/sha256/96/" + hex256 + "/data." + id,
	Root + "/blobs/sha256/96/" + hex256 + "/data.a\x00b.tmp", Root + "/blobs/sha256/96/" + hex256 + "/data.\xff.tmp",
	Root + "/blobs/sha256/96/" + hex256 + "/data." + strings.Repeat("x", 247) + ".tmp",
	Root + "/blobs/sha256/96/" + hex256 + "/data." + id + ".tmp/x", Root + "/blobs/sha256/96/" + hex256 + "/link." + id + ".tmp",

	Root + "/repositories/", Root + "/repositories/..", Root + "/repositories/a/..", Root + "/repositories/a//b", Root + "/repositories/a/",
	Root + "/repositories/a/A", Root + "/repositories/a\x00", Root + "/repositories/\xff", Root + "/repositories/é", Root + "/repositories/a\n",
	Root + "/repositories/a/host:5000/a", Root + "/repositories/host:/a", Root + "/repositories/-Host/a", Root + "/repositories/" + strings.Repeat("a", 256), Root + "/repositories/_catalog",
	Root + "/repositories/_layers", Root + "/repositories/<repository>", Root + "/repositories/a/_layer", Root + "/repositories/a/_layers/",
	Root + "/repositories/a/_layers/<algorithm>", Root + "/repositories/a/_layers/sha256/96", Root + "/repositories/a/_layers/sha256/96/" + hex256,
	Root + "/repositories/a/_layers/sha256/" + hex256 + "/data", Root + "/repositories/a/_layers/sha256/" + hex256 + "/Link",
	Root + "/repositories/a/_layers/b", Root + "/repositories/a/_layers/_layers", Root + "/repositories/a/_layers.x.tmp",
	Root + "/repositories/a/_uploads", Root + "/repositories/a/_uploads/" + id + "/data", Root + "/repositories/a/_uploads/" + id + "/hashstates/sha256/0",

	Root + "/repositories/a/_manifests/link", Root + "/repositories/a/_manifests/revisions/link", Root + "/repositories/a/_manifests/signatures",
	Root + "/repositories/a/_manifests/tags/.x", Root + "/repositories/a/_manifests/tags/..", Root + "/repositories/a/_manifests/tags/-x",
	Root + "/repositories/a/_manifests/tags/a:b", Root + "/repositories/a/_manifests/tags/" + strings.Repeat("x", 129),
	Root + "/repositories/a/_manifests/tags/v1/link", Root + "/repositories/a/_manifests/tags/v1/current/" + hex256,
	Root + "/repositories/a/_manifests/tags/v1/index/link", Root + "/repositories/a/_manifests/tags/v1/index.x.tmp",
}

func TestOther(t *testing.T) {
	for _, path := range others {
		if got := Parse(path); got != (Path{}) {
			t.Errorf("Parse(%q) = %+v, want an Other with nothing in it", path, got)
		}
	}
}

func TestKinds(t *testing.T) {
	files := map[Kind]bool{BlobData: true, LayerLink: true, RevisionLink: true, TagCurrentLink: true, TagIndexLink: true}
	names := map[string]bool{}
	for k := range Temp + 1 {
		if want := !files[k] && k != Other && k != Temp; k.IsDir() != want {
			t.Errorf("%v.IsDir() = %v", k, !want)
		}
		if want := files[k] && k != BlobData; k.IsLink() != want {
			t.Errorf("%v.IsLink() = %v", k, !want)
		}
		if name := k.String(); name == "" || names[name] {
			t.Errorf("kind %d has the name %q", int(k), name)
		} else {
			names[name] = true
		}
	}
}

func TestConstructors(t *testing.T) {
	for path, want := range map[string]Path{
		BlobDataPath(sha512):                        {Kind: BlobData, Digest: sha512},
		LayerLinkPath("a/b", sha256):                {Kind: LayerLink, Repository: "a/b", Digest: sha256},
		RevisionLinkPath("a/b", sha256):             {Kind: RevisionLink, Repository: "a/b", Digest: sha256},
		TagCurrentLinkPath("a/b", "v1"):             {Kind: TagCurrentLink, Repository: "a/b", Tag: "v1"},
		TagIndexLinkPath("a/b", "v1", sha256):       {Kind: TagIndexLink, Repository: "a/b", Tag: "v1", Digest: sha256},
		(Path{Kind: BlobDir, Digest: "x"}).String(): {}, // nonsense in, no panic
	} {
		if got := Parse(path); got != want {
			t.Errorf("Parse(%q)\n got %+v\nwant %+v", path, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range meanings {
		f.Add(m.path)
		f.Add(m.path + ".x.tmp")
	}
	for _, path := range others {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p := Parse(path)
		switch p.Kind {
		case Other:
			if p != (Path{}) {
				t.Fatalf("an Other with fields: %+v", p)
			}
			return
		case Temp:
			checkTemp(t, path)
			return
		}
		if got := p.String(); got != path {
			t.Fatalf("Parse(%q).String() = %q", path, got)
		}
		if p.Digest != "" && p.Digest.Validate() != nil {
			t.Fatalf("Parse(%q) has the digest %q", path, p.Digest)
		}
		checkTame(t, path)
		checkParents(t, path)
	})
}

// checkParents holds the way to a path against the grammar: whatever has a
// meaning stands in directories that have one.
func checkParents(t *testing.T, path string) {
	for dir := path; dir != ""; {
		dir = dir[:max(0, strings.LastIndex(dir, "/"))]
		if k := Parse(dir).Kind; !k.IsDir() {
			t.Fatalf("%q stands in %q, a %v", path, dir, k)
		}
	}
}

// checkTemp holds a Temp against the file that it is to become.
func checkTemp(t *testing.T, path string) {
	checkTame(t, path)
	dir, name := path[:strings.LastIndex(path, "/")+1], path[strings.LastIndex(path, "/")+1:]
	if k := Parse(dir + name[:len("data")]).Kind; k != BlobData && !k.IsLink() {
		t.Fatalf("%q is a Temp beside a %v", path, k)
	}
}

// checkTame fails on what must not reach a system call.
func checkTame(t *testing.T, path string) {
	for component := range strings.SplitSeq(path, "/") {
		if path != "" && (component == "" || component == "." || component == ".." || len(component) > 255 || strings.Contains(component, "\x00")) {
			t.Fatalf("%q is a %v", path, Parse(path).Kind)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, path := range []string{
		"docker/registry",
		BlobDataPath(sha256),
		"docker/registry/v2/repositories/registry.example.com/platform/frontend/nginx",
		LayerLinkPath("registry.example.com/platform/frontend/nginx", sha256),
		TagCurrentLinkPath("registry.example.com/platform/frontend/nginx", "v1.2.3"),
		TagIndexLinkPath("registry.example.com/platform/frontend/nginx", "v1.2.3", sha256),
		"docker/registry/v2/repositories/registry.example.com/platform/frontend/nginx/_uploads/" + id + "/data",
	} {
		b.Run(Parse(path).Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(path)
			}
		})
	}
}

func BenchmarkString(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		TagIndexLinkPath("registry.example.com/platform/frontend/nginx", "v1.2.3", sha256)
	}
}
