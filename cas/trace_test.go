package cas

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// tracedDir names the store's directory to the process that is traced.
const tracedDir = "REGFS_CAS_TRACED_DIR"

// TestCommitTrace compares what one commit asks of the kernel, in which order,
// with testdata/commit.golden. Durability is nothing but this order.
func TestCommitTrace(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		skipLoudly(t, err)
	}
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "trace")
	command := exec.Command(strace, "-f", "-y", "-o", log, "-e", "signal=none", "-e", "trace="+
		"fsync,fdatasync,syncfs,?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat,?mkdir,mkdirat,"+
		"?chmod,fchmod,fchmodat,fchown,fchownat,ftruncate", os.Args[0], "-test.run=^TestTraced$")
	command.Env = append(os.Environ(), tracedDir+"="+dir)
	if out, err := command.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			skipLoudly(t, fmt.Errorf("%v: %s", err, out))
		}
		t.Fatalf("traced process: %v\n%s", err, out)
	}
	trace, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("testdata", "commit.golden"), normalise(string(trace), dir))
}

func skipLoudly(t *testing.T, err error) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "\n*** %s NOT RUN: %v\n*** the order of system calls is UNTESTED here\n\n", t.Name(), err)
	t.Skip(err)
}

// TestTraced is the traced process, in which directories stand for headings.
func TestTraced(t *testing.T) {
	dir := os.Getenv(tracedDir)
	if dir == "" {
		t.Skip("runs only in the process that TestCommitTrace starts")
	}
	f := &fixture{T: t, dir: dir}
	reopen := func() {
		f.reopen()
		f.pending.lazy = true // as if a timer ran: nothing is flushed unasked
	}
	reopen()
	heading := func(text string) { f.must(os.Mkdir(filepath.Join(dir, "# "+text), 0o700)) }
	heading("a new store's first commit")
	f.put("first")
	heading("settle")
	f.must(f.Settle())
	heading("settle nothing")
	f.must(f.Settle())
	heading("adopt and commit")
	f.must(os.WriteFile(f.path("upload"), []byte("second"), 0o644))
	w, err := f.Adopt("upload")
	f.must(err)
	_, err = w.Commit(digest.FromString("second"))
	f.must(err)
	heading("flush and settle the second blob")
	f.must(f.Flush())
	f.must(f.Settle())
	heading("commit of a blob that is there")
	f.put("first")
	heading("settle again")
	f.must(f.Settle())
	heading("killed with a blob pending")
	f.put("third")
	reopen()
	heading("the next process")
	f.must(f.DiscardTemp())
	heading("close")
	f.must(f.Close())
}

var (
	tracePID    = regexp.MustCompile(`(?m)^\d+ +`)
	traceParts  = regexp.MustCompile(`^(\d+) +(.*?)( <unfinished \.\.\.>)?$`)
	traceEnd    = regexp.MustCompile(`^<\.\.\. \w+ resumed>(.*)$`)
	traceFD     = regexp.MustCompile(`\b\d+<([^>]*)>`)
	traceTemp   = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)
	traceLine   = regexp.MustCompile(`(?m)^[^\n]*\n`)
	traceResult = regexp.MustCompile(`(?m) += 0$`)
	traceTitle  = regexp.MustCompile(`(?m)^mkdir.*"STORE/(# .*)", 0700\)$`)
)

// whole puts each call where it has returned. Those that do not wait for each
// other, syncs, are sorted.
func whole(trace string) string {
	begun := map[string]string{} // by process
	var lines, syncs []string
	for line := range strings.Lines(trace) {
		part := traceParts.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if part == nil {
			continue
		}
		pid, call := part[1], part[2]
		if end := traceEnd.FindStringSubmatch(call); end != nil {
			call = begun[pid] + end[1]
		}
		if part[3] != "" {
			begun[pid] = call
			continue
		}
		if strings.HasPrefix(call, "fsync(") {
			syncs = append(syncs, pid+" "+call)
			continue
		}
		lines, syncs = append(append(lines, sorted(syncs)...), pid+" "+call), nil
	}
	return strings.Join(append(lines, sorted(syncs)...), "\n") + "\n"
}

// sorted sorts by what is synced, not by who does it, by which descriptor.
func sorted(lines []string) []string {
	slices.SortFunc(lines, func(a, b string) int {
		return strings.Compare(a[strings.Index(a, "<"):], b[strings.Index(b, "<"):])
	})
	return lines
}

func normalise(trace, dir string) string {
	trace = whole(trace)
	trace = tracePID.ReplaceAllString(trace, "")
	trace = strings.ReplaceAll(trace, dir, "STORE")
	trace = traceLine.ReplaceAllStringFunc(trace, onlyOfStore)
	trace = traceFD.ReplaceAllString(trace, "<$1>")
	trace = traceTemp.ReplaceAllString(trace, "TEMP")
	trace = traceResult.ReplaceAllString(trace, "")
	return traceTitle.ReplaceAllString(trace, "\n$1")
}

// onlyOfStore drops what the testing package does for itself, under -cover.
func onlyOfStore(line string) string {
	if strings.Contains(line, "STORE") {
		return line
	}
	return ""
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs. got:\n%s\nwant:\n%s", golden, got, want)
	}
}
