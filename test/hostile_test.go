package test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/registrytest"
)

// TestHostileClient has a client with a password send garbage of each kind
// through a stock registry: it is told of an error, nothing of it can be pulled
// or listed or is in an export, nothing is outside of the store, and the server's
// log has no secret in it.
func TestHostileClient(t *testing.T) {
	withRaceDetector(t)
	for _, v := range registrytest.Versions {
		t.Run(string(v), func(t *testing.T) {
			s := newStore(t, "v1.0")
			m := s.mount(t, "v1.0", "--verbose")
			r := registrytest.Start(t, registrytest.Options{Version: v, Root: m.dir, Htpasswd: true})
			h := &hostile{t: t, API: r.API(t), mount: m}
			h.good = putImage(t, h.API, "library/good", "1.0", noise(1, 5_000))
			before := h.pulled()
			h.manifests()
			h.names()
			h.uploads()
			h.changesNothing(before)
			h.secrets()
		})
	}
}

type hostile struct {
	t *testing.T
	*registrytest.API
	mount *mounted
	good  image
	sent  []string // what must not be in a log
}

const secret = "sesame-secret"

// refused is any answer that is no success.
func (h *hostile) refused(what string, status int) {
	h.t.Helper()
	if status < 400 {
		h.t.Errorf("%s: status %d", what, status)
	}
}

func (h *hostile) manifests() {
	repo := "library/good"
	layer := func(more string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":5000%s}`, ocispec.MediaTypeImageLayer, h.good.layers[0], more)
	}
	of := func(layers, more string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[%s]%s}`,
			ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, h.good.config, layers, more)
	}
	absent := digest.FromString("absent").String()
	for name, body := range map[string]string{
		"empty":             "",
		"no JSON":           "\x1b[2J\x00\xff",
		"null":              "null",
		"array":             "[]",
		"deep":              `{"layers":` + strings.Repeat("[", 100_000),
		"over 4 MiB":        of(layer(""), `,"annotations":{"x":"`+strings.Repeat("x", 4<<20)+`"}`),
		"huge number":       strings.Replace(of(layer(""), ""), `"size":5000`, `"size":1e999`, 1),
		"number over int64": strings.Replace(of(layer(""), ""), `"size":5000`, `"size":9223372036854775808`, 1),
		"digest is a path":  strings.Replace(of(layer(""), ""), h.good.layers[0].String(), "sha256:../../../../etc/passwd", 1),
		"digest of nothing": strings.Replace(of(layer(""), ""), h.good.layers[0].String(), "", 1),
		"absent layer":      strings.Replace(of(layer(""), ""), h.good.layers[0].String(), absent, 1),
		"urls with a secret": of(strings.Replace(layer(`,"urls":["https://user:`+secret+`@127.0.0.1/x?X-Signature=`+secret+`"]`),
			h.good.layers[0].String(), absent, 1), ""),
		"10,001 layers":   of(strings.Repeat(layer("")+",", 10_000)+layer(""), ""),
		"an index also":   of(layer(""), `,"manifests":[]`),
		"data, no base64": of(layer(`,"data":"*"`), ""),
	} {
		_, status := h.PutManifest(repo, "garbage", ocispec.MediaTypeImageManifest, []byte(body))
		h.refused("manifest: "+name, status)
	}
	_, status := h.PutManifest(repo, digest.FromString("another").String(), ocispec.MediaTypeImageManifest, h.good.body)
	h.refused("manifest under another's digest", status)
	_, status = h.PutManifest(repo, "garbage", "application/x-unknown", h.good.body)
	h.refused("manifest of an unknown type", status)
	h.nested(repo)
}

// nested pushes indexes in indexes, until one is refused.
func (h *hostile) nested(repo string) {
	child := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: h.good.digest, Size: int64(len(h.good.body))}
	for depth := 2; ; depth++ {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}}
		index.SchemaVersion = 2
		body, err := json.Marshal(index)
		ok(h.t, err)
		d, status := h.PutManifest(repo, digest.FromBytes(body).String(), index.MediaType, body)
		if status != http.StatusCreated {
			want(h.t, "depth of the first that is refused", depth, 9)
			if !within(mountTime, func() bool { return strings.Contains(h.mount.Log(), "nested deeper than 8") }) {
				h.t.Errorf("the log does not say so:\n%s", h.mount.Log())
			}
			break
		}
		if depth > 12 {
			h.t.Errorf("nested %d deep", depth)
			break
		}
		child = ocispec.Descriptor{MediaType: index.MediaType, Digest: d, Size: int64(len(body))}
		defer h.DeleteManifest(repo, d.String())
	}
}

// names asks for and sends what no name can be.
func (h *hostile) names() {
	for _, repo := range []string{
		"..", "../..", "a/../../b", "%2e%2e/%2e%2e", "a%2f..%2f..%2fb", "a%00b", "a%0ab", "%1b%5b2J", "%ff%fe", "A/B", "a//b", "a/_layers", ".a", "a.",
		"a%5c..%5cb", strings.Repeat("a", 256), strings.Repeat("a/", 2048) + "a",
	} {
		_, status := h.PutManifest(repo, "1.0", ocispec.MediaTypeImageManifest, h.good.body)
		h.refused(fmt.Sprintf("manifest in %.40q", repo), status)
		if _, status := h.StartUpload(repo); status == http.StatusAccepted {
			h.t.Errorf("an upload to %.40q was begun", repo)
		}
	}
	for _, tag := range []string{
		"..", "%2e%2e", "a%2fb", "..%2f..%2f..%2fetc", "a%00", "a%0a", "%1b%5b31m", "%ff", ".a", "-a", "a:b", strings.Repeat("t", 129), strings.Repeat("t", 4096),
	} {
		_, status := h.PutManifest("library/good", tag, ocispec.MediaTypeImageManifest, h.good.body)
		h.refused(fmt.Sprintf("tag %.40q", tag), status)
	}
}

// uploads sends content that is another than it says, and states that were
// tampered with.
func (h *hostile) uploads() {
	const repo = "library/other"
	for what, d := range map[string]digest.Digest{
		"another digest": digest.FromString("another"), "no digest": "x", "a path": "sha256:../../x", "an unknown algorithm": "md5:d41d8cd98f00b204e9800998ecf8427e",
	} {
		u := h.begin(repo)
		h.refused(what, h.FinishUpload(u, d, []byte("content")))
		h.CancelUpload(u)
	}
	u := h.begin(repo)
	tampered := u
	tampered.URL = strings.Replace(u.URL, "_state=", "_state=AAAA"+secret, 1)
	_, status := h.PatchUpload(tampered, []byte("x"))
	h.refused("a state that was tampered with", status)
	for _, uuid := range []string{"..", "%2e%2e", "..%2f..%2f..%2fblobs", "a%00", strings.Repeat("a", 300)} {
		elsewhere := u
		elsewhere.URL = strings.Replace(u.URL, u.UUID, uuid, 1)
		_, status := h.PatchUpload(elsewhere, []byte("x"))
		h.refused("an upload "+uuid, status)
	}
	want(h.t, "cancel", h.CancelUpload(u), http.StatusNoContent)
	_, status = h.MountBlob(repo, digest.FromString("absent"), "library/good")
	want(h.t, "mount of an absent blob begins an upload", status, http.StatusAccepted)
}

// begin begins an upload, and keeps its state for the end.
func (h *hostile) begin(repo string) registrytest.Upload {
	h.t.Helper()
	u, status := h.StartUpload(repo)
	want(h.t, "upload", status, http.StatusAccepted)
	at, err := url.Parse(u.URL)
	ok(h.t, err)
	h.sent = append(h.sent, at.Query().Get("_state"))
	return u
}

// pulled is what can be seen of the release, in every way.
func (h *hostile) pulled() map[string]string {
	h.t.Helper()
	export := filepath.Join(h.t.TempDir(), "export.tar")
	h.mount.store.must(h.t, "export", "v1.0", "-o", export, "--verify")
	text, err := os.ReadFile(export)
	ok(h.t, err)
	return map[string]string{
		"catalog": fmt.Sprint(h.AllRepositories(100)),
		"tags":    fmt.Sprint(h.AllTags("library/good", 100)),
		"ls":      h.mount.store.must(h.t, "ls", "v1.0"),
		"export":  digest.FromBytes(text).String(),
		"beside":  strings.Join(namesIn(h.t, filepath.Dir(string(h.mount.store))), " "),
	}
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (h *hostile) changesNothing(before map[string]string) {
	h.t.Helper()
	after := h.pulled()
	after["catalog"] = strings.Replace(after["catalog"], " library/other", "", 1) // 2.8 lists where uploads are
	for what := range before {
		want(h.t, what, after[what], before[what])
	}
	// What was begun and not cancelled is all that there is, and in its place.
	area := filepath.Join(string(h.mount.store), "releases/v1.0/files")
	ok(h.t, filepath.WalkDir(area, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.Contains(path, "/library/other/_uploads/") {
			h.t.Errorf("left behind: %s", path)
		}
		return err
	}))
}

// secrets looks for what only the registry and its client are to know.
func (h *hostile) secrets() {
	h.t.Helper()
	log := h.mount.Log()
	basic := base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + registrytest.Password))
	for _, text := range slices.Concat(h.sent, []string{secret, basic, registrytest.Password, "Authorization", "_state="}) {
		if text != "" && strings.Contains(log, text) {
			h.t.Errorf("the server's log has the secret %q:\n%s", text, log)
		}
	}
	if strings.ContainsAny(log, "\x1b\x00") {
		h.t.Errorf("the server's log has control characters: %q", log)
	}
}

// TestHostileNames plants, through the mount and past the registry, names with
// control characters where they come to be logged and listed.
func TestHostileNames(t *testing.T) {
	s := newStore(t, "v1.0")
	m := s.mount(t, "v1.0", "--verbose")
	const name = "\x1b[2J\x1b]0;owned\x07\r\n\u009b\u202e"
	d := digest.FromString("another")
	ok(t, os.MkdirAll(filepath.Dir(m.path(blobPath(d))), 0o755))
	for _, from := range []string{name, name + "\xff", filepath.Join(filepath.Dir(blobPath(d)), "data."+name+".tmp")} {
		ok(t, os.WriteFile(m.path(from), []byte("content"), 0o644))
		if err := os.Rename(m.path(from), m.path(blobPath(d))); err == nil {
			t.Error("content was taken under another digest")
		}
		ok(t, os.Remove(m.path(from)))
	}
	hard := m.path(name)
	ok(t, os.WriteFile(hard, []byte("another"), 0o644))
	ok(t, os.Link(hard, hard+"2"))
	if err := os.Rename(hard, m.path(blobPath(d))); err == nil {
		t.Error("a file with two names was taken")
	}
	if !within(mountTime, func() bool { return strings.Count(m.Log(), "msg=refused") == 4 }) {
		t.Errorf("not all is logged:\n%q", m.Log())
	}
	for what, text := range map[string]string{
		"log": m.Log(), "ls": s.must(t, "ls", "v1.0"), "status": s.must(t, "status"), "status --json": s.must(t, "status", "--json"),
	} {
		if strings.ContainsAny(text, "\x1b\r\x07\x7f\u009b") {
			t.Errorf("%s has control characters: %q", what, text)
		}
	}
	// A mount point is a name of the owner's, and shown as one.
	at := filepath.Join(t.TempDir(), "mnt\x1b[31m")
	r := s.regfs(t, "umount", at)
	want(t, "exit code", r.code, failed)
	if strings.Contains(r.stderr, "\x1b") || !strings.Contains(r.stderr, `\u001b[31m`) {
		t.Errorf("umount says %q", r.stderr)
	}
}

// TestUmask makes a store and a mount with the oddest umasks: nobody but the
// owner can write to what is made, and the owner can read it again.
func TestUmask(t *testing.T) {
	for _, mask := range []string{"0", "0777", "0277"} {
		t.Run(mask, func(t *testing.T) {
			s := store(filepath.Join(t.TempDir(), "store"))
			mnt := t.TempDir()
			t.Cleanup(func() { tearDown(mnt) })
			for _, args := range [][]string{{"init"}, {"release", "create", "v1.0"}, {"mount", "v1.0", mnt, "--detach"}} {
				full := append([]string{"-c", "umask " + mask + `; exec "$@"`, "sh", program, "--store", string(s)}, args...)
				r := runProgram(t, nil, "sh", full...)
				want(t, strings.Join(args, " "), r.code, 0)
			}
			content := []byte("content")
			writeFile(t, filepath.Join(mnt, blobPath(digest.FromBytes(content))), content)
			writeFile(t, filepath.Join(mnt, "plain"), content)
			s.must(t, "umount", mnt)
			s.must(t, "ls", "v1.0")
			ok(t, filepath.WalkDir(string(s), func(path string, e fs.DirEntry, err error) error {
				ok(t, err)
				info, err := e.Info()
				ok(t, err)
				if mode := info.Mode(); mode&0o022 != 0 || mode&0o400 == 0 || e.IsDir() && mode&0o700 != 0o700 {
					t.Errorf("%s has the mode %v", path, mode)
				}
				return nil
			}))
			info, err := os.Stat(s.blob(digest.FromBytes(content)))
			ok(t, err)
			want(t, "mode of a blob", info.Mode().Perm(), 0o444)
		})
	}
}

// TestStoreIsASymlink uses a store by a symlink, and one that leads nowhere but
// to itself.
func TestStoreIsASymlink(t *testing.T) {
	s := newStore(t, "v1.0")
	link := filepath.Join(t.TempDir(), "link")
	ok(t, os.Symlink(string(s), link))
	m := store(link).mount(t, "v1.0")
	if status := s.must(t, "status"); !strings.Contains(status, m.dir) {
		t.Errorf("by its own name it is another store:\n%s", status)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	ok(t, os.Symlink(loop, loop))
	store(loop).refuses(t, failed, []string{"too many levels of symbolic links"}, "status")
}
