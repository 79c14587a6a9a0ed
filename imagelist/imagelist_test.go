package imagelist

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

var d = digest.FromString("x")

func TestParse(t *testing.T) {
	for text, want := range map[string]Reference{
		"nginx":                              {"", "nginx", "latest", ""},
		"nginx:1.24":                         {"", "nginx", "1.24", ""},
		"docker://docker.io/library/nginx":   {"docker.io", "library/nginx", "latest", ""},
		"quay.io/a/b:1@" + d.String():        {"quay.io", "a/b", "1", d},
		"localhost/a:1":                      {"localhost", "a", "1", ""},
		"localhost:5000/a":                   {"localhost:5000", "a", "latest", ""},
		"a/b/c@" + d.String():                {"", "a/b/c", "", d},
		"Registry/a:1":                       {"Registry", "a", "1", ""},
		"registry.example.com:5000/team/a:x": {"registry.example.com:5000", "team/a", "x", ""},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%s comes back as %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"a:", "a@", "a@sha256:12", "../a", "a b", "/a", "a//b", "a:b c", "a:" + strings.Repeat("x", 129), "a/NGINX", "\x00"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestRepositories(t *testing.T) {
	for text, want := range map[string][]string{
		"nginx":                   {"nginx", "library/nginx"},
		"docker.io/nginx":         {"docker.io/nginx", "nginx", "library/nginx"},
		"docker.io/library/nginx": {"docker.io/library/nginx", "library/nginx", "nginx"},
		"quay.io/nginx":           {"quay.io/nginx", "nginx"},
		"team/app":                {"team/app"},
	} {
		ref, err := Parse(text)
		if got := ref.Repositories(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q, %v", text, got, want, err)
		}
	}
}

func TestRead(t *testing.T) {
	refs, err := Read("list", strings.NewReader("# images\r\n\n  nginx:1.24  # the proxy\r\nnginx:1.24\n\tquay.io/a/b\n"))
	if err != nil || len(refs) != 2 || refs[0].Name != "nginx" || refs[1].Name != "a/b" {
		t.Errorf("%v, %v", refs, err)
	}
	for text, says := range map[string]string{"nginx\nno image\n": "list: line 2: \"no image\" is no image", strings.Repeat("a", maxLine+1): "list: line 1"} {
		if _, err := Read("list", strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), says) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"nginx:1", "docker.io/a/b@" + d.String(), "::", "a/@", "A/b:c", "0:0:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := Parse(text)
		if err != nil {
			return
		}
		for _, name := range ref.Repositories() {
			if !layout.ValidRepository(name) {
				t.Errorf("%q gives the repository %q", text, name)
			}
		}
		if again, err := Parse(ref.String()); err != nil || again != ref {
			t.Errorf("%q: %+v comes back as %+v, %v", text, ref, again, err)
		}
	})
}
