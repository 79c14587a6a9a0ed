package patch

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/layout"
)

func blob(content string) archive.Member {
	return archive.Member{Path: layout.BlobDataPath(digest.FromString(content)), Size: int64(len(content)), Blob: digest.FromString(content)}
}

func link(content string) archive.Member {
	d := digest.FromString(content)
	return archive.Member{Path: layout.LayerLinkPath("app", d), Size: int64(len(d)), Text: d.String()}
}

// A customer is a directory, and a patch file beside it.
type customer struct {
	*testing.T
	dir, patch string
}

// newCustomer writes a patch that requires a blob and its link, and a
// directory that has them.
func newCustomer(t *testing.T) *customer {
	t.Helper()
	c := &customer{t, filepath.Join(t.TempDir(), "registry"), filepath.Join(t.TempDir(), "v2.tar")}
	required, adds := archive.Archive{blob("had"), link("had")}, archive.Archive{link("had too")}
	docs, err := Documents(Document{Release: "v2", Over: []string{"v1"}, RemovedTags: []string{"a/b:1"}}, adds, required)
	c.must(err)
	var tar bytes.Buffer
	c.must(append(docs, adds...).WriteTar(t.Context(), &tar, nil, archive.Options{}))
	c.must(os.WriteFile(c.patch, tar.Bytes(), 0o600))
	c.write(required[0].Path, "had")
	c.write(required[1].Path, required[1].Text)
	return c
}

func (c *customer) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *customer) write(path, content string) {
	c.Helper()
	c.must(os.MkdirAll(filepath.Dir(filepath.Join(c.dir, path)), 0o755))
	c.must(os.WriteFile(filepath.Join(c.dir, path), []byte(content), 0o600))
}

// apply does what the documents tell users to do, in another shell each time.
func (c *customer) apply(shell string, more ...string) (code int, said string) {
	c.Helper()
	script, err := exec.Command("tar", "-xOf", c.patch, "regfs/v2/apply.sh").Output()
	c.must(err)
	args := append(append(strings.Fields(shell), "-s", c.patch, c.dir), more...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(script)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		c.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (c *customer) has(path string) bool {
	_, err := os.Stat(filepath.Join(c.dir, path))
	return err == nil
}

func TestScript(t *testing.T) {
	added := link("had too").Path
	for name, c := range map[string]struct {
		spoil func(*customer)
		more  []string
		code  int
		says  string
		added bool
	}{
		"right base":    {func(*customer) {}, nil, 0, "has v2 now", true},
		"only checked":  {func(*customer) {}, []string{"check"}, 0, "has what v2 requires", false},
		"blob missing":  {func(c *customer) { c.must(os.Remove(filepath.Join(c.dir, blob("had").Path))) }, nil, 3, blob("had").Path, false},
		"blob damaged":  {func(c *customer) { c.write(blob("had").Path, "bad") }, nil, 3, blob("had").Path, false},
		"link missing":  {func(c *customer) { c.must(os.Remove(filepath.Join(c.dir, link("had").Path))) }, nil, 3, "nothing was written", false},
		"another place": {func(c *customer) { c.dir = filepath.Dir(c.dir) }, nil, 3, "nothing was written", false},
		"patch is cut":  {func(c *customer) { c.must(os.Truncate(c.patch, 4*512+100)) }, nil, 2, "", false},
	} {
		for _, shell := range []string{"sh", "bash", "busybox sh"} {
			t.Run(name+" in "+shell, func(t *testing.T) {
				if _, err := exec.LookPath(strings.Fields(shell)[0]); err != nil {
					t.Skipf("NOT TESTED: %v", err)
				}
				customer := newCustomer(t)
				script := customer.patch
				c.spoil(customer)
				if name == "patch is cut" { // the script came by another way
					whole := newCustomer(t)
					customer.patch = whole.patch
					customer.must(os.Rename(script, whole.patch+".cut"))
					code, said := cutApply(whole, customer.dir, shell)
					if code == 0 || customer.has(added) {
						t.Errorf("exit code %d: %s", code, said)
					}
					return
				}
				code, said := customer.apply(shell, c.more...)
				if code != c.code || !strings.Contains(said, c.says) || customer.has(added) != c.added {
					t.Errorf("exit code %d, want %d; added %v; said: %s", code, c.code, customer.has(added), said)
				}
			})
		}
	}
}

// cutApply runs the whole patch's script on the one that is cut.
func cutApply(whole *customer, dir, shell string) (int, string) {
	script, _ := exec.Command("tar", "-xOf", whole.patch, "regfs/v2/apply.sh").Output()
	args := append(strings.Fields(shell), "-s", whole.patch+".cut", dir)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(script)
	out, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestScriptIsShort(t *testing.T) {
	if n := strings.Count(scriptText, "\n"); n > 20 {
		t.Errorf("%d lines", n)
	}
}

func TestRemovedTagsAreForXargs(t *testing.T) {
	if got, want := removed([]string{"a/b:1"}), "docker/registry/v2/repositories/a/b/_manifests/tags/1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSumsComeBack(t *testing.T) {
	files := archive.Archive{blob("b"), link("l"), {Path: layout.BlobDataPath(digest.SHA512.FromString("x")), Blob: digest.SHA512.FromString("x")}}
	docs, err := Documents(Document{Release: "v2"}, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]digest.Digest)
	for _, d := range docs {
		part, release := PartOf(d.Path)
		if part == NoPart || release != "v2" {
			t.Errorf("%s: part %v of %q", d.Path, part, release)
		}
		if part == Whole {
			if err := ParseSums(d.Path, strings.NewReader(d.Text), func(s Sum) { got[s.Path] = s.Digest }); err != nil {
				t.Error(err)
			}
		}
	}
	for _, f := range files {
		want := f.Blob
		if want == "" {
			want = digest.FromString(f.Text)
		}
		if got[f.Path] != want {
			t.Errorf("%s has %q, want %q", f.Path, got[f.Path], want)
		}
	}
}

func FuzzParseSums(f *testing.F) {
	f.Add(digest.FromString("x").Encoded() + "  " + layout.BlobDataPath(digest.FromString("x")) + "\n")
	f.Add("00  ../../etc/passwd\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = ParseSums("regfs/v1/requires.sha256", strings.NewReader(text), func(s Sum) {
			if s.Digest.Validate() != nil || layout.Parse(s.Path).Kind == layout.Other {
				t.Errorf("%q gives %v", text, s)
			}
		})
	})
}
