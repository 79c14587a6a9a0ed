package test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestPushTrace compares what the server asks of the disk for one push, step by
// step as a registry makes them, with testdata/push.golden: which sync comes
// before which rename, and before which answer. Between two steps the server has
// time to do what it does later.
func TestPushTrace(t *testing.T) {
	needed(t, "strace")
	s := newStore(t, "v1")
	trace := startTraced(t, s)
	dir := filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	s.must(t, "mount", "v1", dir, "--detach")
	p := pushedByHand{t, dir}
	config, layer := []byte("{}"), []byte("layer")
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":5}]}`,
		digest.FromBytes(config), digest.FromBytes(layer))
	d := digest.FromBytes(manifest)

	layerLink, configLink := layout.LayerLinkPath("app", digest.FromBytes(layer)), layout.LayerLinkPath("app", digest.FromBytes(config))
	trace.step("directories")
	for _, path := range []string{p.upload(), layerLink, configLink, layout.BlobDataPath(d),
		layout.BlobDataPath(digest.FromBytes(layer)), layout.BlobDataPath(digest.FromBytes(config)),
		layout.RevisionLinkPath("app", d), layout.TagIndexLinkPath("app", "1.0", d), layout.TagCurrentLinkPath("app", "1.0")} {
		ok(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o777))
	}
	trace.step("the first blob: an upload is renamed to its place")
	p.blob(layer)
	trace.step("its layer link")
	p.link(layerLink, digest.FromBytes(layer))
	trace.step("the second blob")
	p.blob(config)
	trace.step("its layer link, too")
	p.link(configLink, digest.FromBytes(config))
	trace.step("the manifest's blob, and the revision link: the image is acknowledged soon")
	p.write(layout.BlobDataPath(d), manifest)
	p.link(layout.RevisionLinkPath("app", d), d)
	trace.step("the tag's history")
	p.link(layout.TagIndexLinkPath("app", "1.0", d), d)
	trace.step("the tag: now it is acknowledged")
	p.link(layout.TagCurrentLinkPath("app", "1.0"), d)
	trace.step("the same tag again")
	p.link(layout.TagCurrentLinkPath("app", "1.0"), d)
	trace.step("the manifest is removed")
	ok(t, os.Remove(filepath.Join(dir, layout.RevisionLinkPath("app", d))))
	trace.step("")
	s.must(t, "umount", dir)
	compareGolden(t, "testdata/push.golden", trace.stop())
}

// pushedByHand is what registry 3.x does to a mount.
type pushedByHand struct {
	t   *testing.T
	dir string
}

func (p pushedByHand) upload() string { return layout.Root + "/repositories/app/_uploads/1/data" }

func (p pushedByHand) blob(content []byte) {
	upload := filepath.Join(p.dir, p.upload())
	p.synced(upload, content)
	ok(p.t, os.Rename(upload, filepath.Join(p.dir, layout.BlobDataPath(digest.FromBytes(content)))))
}

func (p pushedByHand) link(path string, d digest.Digest) { p.write(path, []byte(d)) }

// write writes a file beside its place, renames it, and syncs the directory.
func (p pushedByHand) write(path string, content []byte) {
	to := filepath.Join(p.dir, path)
	p.synced(to+".1.tmp", content)
	ok(p.t, os.Rename(to+".1.tmp", to))
	d, err := os.Open(filepath.Dir(to))
	ok(p.t, err)
	defer d.Close()
	ok(p.t, d.Sync())
}

func (p pushedByHand) synced(path string, content []byte) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	ok(p.t, err)
	defer f.Close()
	_, err = f.Write(content)
	ok(p.t, err)
	ok(p.t, f.Sync())
}

// A traced is a server whose system calls are written down.
type traced struct {
	t     *testing.T
	store store
	cmd   *exec.Cmd
	log   string
	steps []traceStep
}

// lazyIndex is how long the index keeps what nobody waits for.
const lazyIndex = 200 * time.Millisecond

type traceStep struct {
	name  string
	begun time.Time
}

func startTraced(t *testing.T, s store) *traced {
	t.Helper()
	tr := &traced{t: t, store: s, log: filepath.Join(t.TempDir(), "trace")}
	tr.cmd = exec.Command("strace", "-f", "-y", "-ttt", "-o", tr.log, "-e", "signal=none", "-e", "trace="+
		"fsync,fdatasync,syncfs,msync,sync_file_range,?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat,?mkdir,mkdirat,mmap",
		program, "--store", string(s), "serve")
	tr.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	ok(t, tr.cmd.Start())
	t.Cleanup(func() { _ = tr.cmd.Process.Signal(syscall.SIGTERM) })
	socket := filepath.Join(string(s), "control.sock")
	if !within(mountTime, func() bool { _, err := os.Stat(socket); return err == nil }) {
		t.Fatal("the server does not start under strace")
	}
	return tr
}

// step begins a step, when the one before has nothing left to do.
func (tr *traced) step(name string) {
	tr.t.Helper()
	quiet := func() bool {
		before := tr.size()
		time.Sleep(3 * lazyIndex)
		pending, err := os.ReadDir(filepath.Join(string(tr.store), "tmp/pending"))
		return (err == nil || errors.Is(err, fs.ErrNotExist)) && len(pending) == 0 && tr.size() == before
	}
	if !within(mountTime, quiet) {
		tr.t.Fatalf("the server does not come to rest before %q", name)
	}
	tr.steps = append(tr.steps, traceStep{name, time.Now()})
}

func (tr *traced) size() int64 {
	info, err := os.Stat(tr.log)
	ok(tr.t, err)
	return info.Size()
}

// stop ends the server and returns what it did, step by step.
func (tr *traced) stop() string {
	tr.t.Helper()
	for _, pid := range tr.store.servers() {
		ok(tr.t, syscall.Kill(pid, syscall.SIGTERM))
	}
	if err := tr.cmd.Wait(); err != nil {
		tr.t.Errorf("server under strace: %v", err)
	}
	f, err := os.Open(tr.log)
	ok(tr.t, err)
	defer f.Close()
	calls := map[string][]string{}
	maps := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		at, call := tr.parse(lines.Text(), maps)
		if step := tr.at(at); step != "" && call != "" {
			calls[step] = append(calls[step], call)
		}
	}
	var out strings.Builder
	for _, step := range tr.steps {
		if step.name != "" {
			fmt.Fprintf(&out, "\n# %s\n%s\n", step.name, tr.inOrder(calls[step.name]))
		}
	}
	return out.String()
}

var (
	traceLine  = regexp.MustCompile(`^\d+ +(\d+)\.(\d+) (.*)$`)
	traceMap   = regexp.MustCompile(`^mmap\(.*MAP_SHARED.*<(.*)>, .*\) += (0x[0-9a-f]+)`)
	traceSync  = regexp.MustCompile(`^msync\((0x[0-9a-f]+), `)
	traceFD    = regexp.MustCompile(`\b(?:\d+|AT_FDCWD)<([^>]*)>`)
	traceTemp  = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)
	tracePlace = regexp.MustCompile(`^renameat2\(<STORE/tmp/pending>, "([^"]+)".*RENAME_NOREPLACE`)
	traceEnd   = regexp.MustCompile(`( <unfinished \.\.\.>|\)? += 0)$`)
)

// parse returns a call of the store's that is about durability, with names in
// place of numbers, or nothing. maps are the files that are mapped into memory.
func (tr *traced) parse(line string, maps map[string]string) (time.Time, string) {
	m := traceLine.FindStringSubmatch(line)
	if m == nil {
		return time.Time{}, ""
	}
	sec, _ := strconv.ParseInt(m[1], 10, 64)
	usec, _ := strconv.ParseInt(m[2], 10, 64)
	at, call := time.Unix(sec, usec*1000), m[3]
	if m := traceMap.FindStringSubmatch(call); m != nil {
		maps[m[2]] = m[1]
	}
	if m := traceSync.FindStringSubmatch(call); m != nil {
		call = "msync(<" + maps[m[1]] + ">"
	}
	call = strings.ReplaceAll(call, string(tr.store), "STORE")
	if !strings.Contains(call, "STORE") || strings.HasPrefix(call, "mmap") || strings.HasPrefix(call, "<...") || isScaffold(call) {
		return at, ""
	}
	call = traceFD.ReplaceAllString(call, "<$1>")
	call = traceTemp.ReplaceAllString(call, "TEMP")
	return at, strings.TrimSuffix(traceEnd.ReplaceAllString(call, ""), ")") + ")"
}

// isScaffold says that a call is about plain files only, and makes nothing
// durable: the upload, and what a registry writes before it renames it.
func isScaffold(call string) bool {
	return strings.Contains(call, "STORE/releases") && !strings.Contains(call, "STORE/tmp") && !strings.Contains(call, "sync(")
}

func (tr *traced) at(when time.Time) (step string) {
	for _, s := range tr.steps {
		if !when.Before(s.begun) {
			step = s.name
		}
	}
	return step
}

// inOrder joins calls. Files' syncs that stand together may run at the same time,
// in any order. Of the index's syncs the last one counts: on a slow machine there
// may be one more before, of what does not wait for the disk. Blobs go to their places beside what
// follows, so that comes last here; but never before the sync of their content.
func (tr *traced) inOrder(calls []string) string {
	tr.t.Helper()
	var rest, places []string
	for i, call := range calls {
		if !strings.Contains(call, "<STORE/docker") && !strings.Contains(call, `"docker"`) {
			rest = append(rest, call)
			continue
		}
		places = append(places, call)
		if m := tracePlace.FindStringSubmatch(call); m != nil && !slices.Contains(calls[:i], "fsync(<STORE/tmp/pending/"+m[1]+">)") {
			tr.t.Errorf("a blob comes to its place before it is on the disk: %s", call)
		}
	}
	for i := 0; i < len(rest); i++ {
		n := i
		for n < len(rest) && strings.HasPrefix(rest[n], "fsync(") && !isIndex(rest[n]) {
			n++
		}
		slices.Sort(rest[i:n])
		if isIndex(rest[i]) && slices.ContainsFunc(rest[i+1:], isIndex) {
			rest = slices.Delete(rest, i, i+1)
			i--
		}
	}
	return strings.Join(append(rest, places...), "\n")
}

func isIndex(call string) bool { return strings.HasPrefix(call, "fsync(<STORE/index/") }

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		ok(t, os.MkdirAll(filepath.Dir(file), 0o755))
		ok(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	text, err := os.ReadFile(file)
	ok(t, err)
	if got != string(text) {
		t.Errorf("%s differs (-update rewrites it). got:\n%s\nwant:\n%s", file, got, text)
	}
}
