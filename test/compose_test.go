package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// listOf writes a list of images as people write them: with the host of
// another registry.
func listOf(t *testing.T, images []imagetest.Image, more ...string) string {
	t.Helper()
	text := "# what the product needs\n\n"
	for _, i := range images {
		text += "registry.example.com/" + i.Ref() + "  # " + i.Repository + "\r\n"
	}
	name := filepath.Join(t.TempDir(), "images.list")
	writeFile(t, name, []byte(text+strings.Join(more, "\n")))
	return name
}

// TestComposedReleaseIsPulled makes a release of a list while the one that it
// comes from is mounted, pushes what is missing, and pulls all of it.
func TestComposedReleaseIsPulled(t *testing.T) {
	releases, err := threeReleases()
	ok(t, err)
	next := releases[1]
	s := newStore(t, "v1.0")
	old := s.mount(t, "v1.0")
	before := serve(t, registrytest.V31, old.dir, nil)
	ok(t, imagetest.PushRelease(t.Context(), before.Client(), before.URL(), releases[0]))
	todo := filepath.Join(t.TempDir(), "todo.list")
	list := listOf(t, next.Images)

	r := s.regfs(t, "release", "create", "v1.1", "--images", list, "--require-complete")
	refused(t, r, damage, "images are missing")
	s.refuses(t, 1, []string{"no release v1.1"}, "ls", "v1.1")
	want(t, "missing on standard output", len(strings.Fields(r.stdout)) > 0, true)
	r = s.regfs(t, "release", "create", "v1.1", "--from", "v1.0", "--images", list, "--missing", todo)
	want(t, "exit code", r.code, 0)
	want(t, "standard output", r.stdout, "")
	if !strings.Contains(r.stderr, "from v1.0") {
		t.Errorf("the summary is %q", r.stderr)
	}
	missing := strings.Fields(string(readFile(t, todo)))
	if len(missing) == 0 || len(missing) >= len(next.Images) {
		t.Fatalf("%d of %d images are missing", len(missing), len(next.Images))
	}
	s.refuses(t, 1, []string{"v1.1 exists already"}, "release", "create", "v1.1", "--images", list)
	s.refuses(t, 1, []string{"v1.0 exists already"}, "release", "create", "v1.0", "--from", "v1.0") // it is mounted

	m := s.mount(t, "v1.1")
	reg := serve(t, registrytest.V31, m.dir, nil)
	for _, ref := range missing {
		name := strings.TrimPrefix(ref, "registry.example.com/")
		registrytest.Skopeo(t, append(append([]string{"copy", "--all", "--preserve-digests"}, reg.SkopeoFlags("dest")...),
			"oci:"+next.Dir+":"+name, "docker://"+reg.Addr()+"/"+name)...)
	}
	verify(t, reg, next)
	for _, i := range next.Images {
		want(t, "digest of "+i.Ref(), strings.TrimSpace(registrytest.Crane(t, "digest", reg.Addr()+"/"+i.Ref())), i.Digest.String())
	}
	registrytest.Crane(t, "validate", "--remote", reg.Addr()+"/"+next.Images[0].Ref())
	want(t, "catalog", len(reg.API(t).AllRepositories(100)), len(repositoriesOf(next)))
	verify(t, before, releases[0])

	full := filepath.Join(t.TempDir(), "v1.1.tar")
	s.must(t, "export", "v1.1", "-o", full)
	sameSet(t, "the export", dumpTar(t, full).files(), closureOf(t, next).dump())
	s.must(t, "release", "create", "copy", "--from", "v1.1", "--require-complete")
	same := filepath.Join(t.TempDir(), "copy.tar")
	s.must(t, "export", "copy", "-o", same)
	want(t, "the export of the copy", string(readFile(t, same)) == string(readFile(t, full)), true)
	diffs(t, s, missing)
	s.must(t, "fsck")
}

func repositoriesOf(r imagetest.Release) map[string]bool {
	all := make(map[string]bool)
	for _, i := range r.Images {
		all[i.Repository] = true
	}
	return all
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	ok(t, err)
	return text
}

// diffs compares the releases of TestComposedReleaseIsPulled.
func diffs(t *testing.T, s store, pushed []string) {
	var d struct {
		Added, Changed, Removed []struct{ Repository, Tag string }
		Same                    int
		New, Shared             struct{ Count int }
	}
	s.mustJSON(t, &d, "diff", "v1.0", "v1.1")
	want(t, "images that were pushed", len(d.Added)+len(d.Changed), len(pushed))
	if d.Same == 0 || d.New.Count == 0 || d.Shared.Count == 0 {
		t.Errorf("the diff is %+v", d)
	}
	for _, text := range []string{s.must(t, "diff", "v1.0", "v1.1"), s.must(t, "diff", "v1.0", "v1.1", "--markdown")} {
		for _, ref := range pushed {
			if name := strings.TrimPrefix(ref, "registry.example.com/"); !strings.Contains(text, name) {
				t.Errorf("%s is not in\n%s", name, text)
			}
		}
	}
	want(t, "exit code, of different ones", s.regfs(t, "diff", "v1.0", "v1.1", "--exit-code").code, 1)
	r := s.regfs(t, "diff", "v1.1", "copy", "--exit-code")
	want(t, "exit code, of equal ones", r.code, 0)
	want(t, "said on standard error", r.stderr, "")
	s.refuses(t, 1, []string{"no release none"}, "diff", "v1.0", "none")
	s.refuses(t, 2, []string{"either --json or --markdown"}, "diff", "v1.0", "v1.1", "--json", "--markdown")

	var plan, dry map[string]any
	s.mustJSON(t, &plan, "plan", "v1.1", "--base", "v1.0")
	s.mustJSON(t, &dry, "export", "-n", "v1.1", "--base", "v1.0")
	a, _ := json.Marshal(plan)
	b, _ := json.Marshal(dry)
	want(t, "the plan", string(a), string(b))
}

// TestBadListsAreRefused: nothing is made of a list that is none.
func TestBadListsAreRefused(t *testing.T) {
	s := newStore(t, "v1.0")
	list := filepath.Join(t.TempDir(), "list")
	for text, says := range map[string]string{
		"":                                     "no image in it",
		"# nothing\n\n":                        "no image in it",
		"nginx:1\nno image\n":                  "line 2",
		"nginx\n" + strings.Repeat("a", 1<<20): "line 2",
		"../../etc/passwd\n":                   "line 1",
		"nginx:1\x00\n":                        "line 1",
	} {
		writeFile(t, list, []byte(text))
		s.refuses(t, 1, []string{"release create: images:", says}, "release", "create", "v1.1", "--images", list)
	}
	writeFile(t, list, []byte("nginx:1\nnginx:1\n"))
	s.refuses(t, 1, []string{"no release v0"}, "release", "create", "v1.1", "--images", list, "--from", "v0")
	s.refuses(t, 1, []string{"missing:"}, "release", "create", "v1.1", "--images", list, "--missing", "/none/todo")
	s.refuses(t, 2, []string{"are for --images or --from"}, "release", "create", "v1.1", "--require-complete")
	s.refuses(t, 2, []string{"bad release name"}, "release", "create", "../v1.1", "--images", list)
	s.refuses(t, 1, []string{"no release v1.1"}, "ls", "v1.1")
	want(t, "of an image that is nowhere, once", s.must(t, "release", "create", "v1.1", "--images", list), "nginx:1\n")
	s.must(t, "ls", "v1.1")
}

// TestManyMakeOneRelease: of several commands one makes the release, with and
// without a server; a command that is killed leaves none, or a whole one.
func TestManyMakeOneRelease(t *testing.T) {
	withRaceDetector(t)
	releases, err := threeReleases()
	ok(t, err)
	s := newStore(t, "v1.0")
	m := s.mount(t, "v1.0")
	r := serve(t, registrytest.V31, m.dir, nil)
	ok(t, imagetest.PushRelease(t.Context(), r.Client(), r.URL(), releases[0]))
	r.Stop()
	m.stop(syscall.SIGTERM)
	list := listOf(t, releases[0].Images)
	images := strings.Count(s.must(t, "ls", "v1.0"), "\n")
	whole := func(name string) bool {
		r := s.regfs(t, "ls", name)
		if r.code == 0 {
			want(t, "images of "+name, strings.Count(r.stdout, "\n"), images)
		}
		return r.code == 0
	}
	killed := 0
	for _, after := range []time.Duration{5, 10, 15, 20, 25, 30, 40, 60} {
		name := "killed" + after.String()
		cmd := exec.Command(program, "--store", string(s), "release", "create", name, "--images", list)
		ok(t, cmd.Start())
		time.Sleep(after * time.Millisecond)
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		if !whole(name) {
			s.must(t, "release", "create", name, "--images", list)
			want(t, name+" is there", whole(name), true)
		}
	}
	if killed < 2 {
		t.Errorf("%d commands were killed: the others were faster", killed)
	}
	for _, name := range []string{"one", "served"} {
		if name == "served" {
			s.mount(t, "v1.0")
		}
		made := make([]int, 4)
		var wg sync.WaitGroup
		for i := range made {
			wg.Go(func() { made[i] = s.regfs(t, "release", "create", name, "--images", list).code })
		}
		wg.Wait()
		zeros := 0
		for _, code := range made {
			if code == 0 {
				zeros++
			} else {
				want(t, "exit code of the others", code, 1)
			}
		}
		want(t, "commands that have made "+name, zeros, 1)
		want(t, name+" is there", whole(name), true)
	}
	s.must(t, "fsck")
}
