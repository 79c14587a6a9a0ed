package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	commandTime = 2 * time.Minute  // what any command of regfs has
	mountTime   = 20 * time.Second // what a mount has to appear, and to go
)

// A result is how a program ended and what it said.
type result struct {
	code           int
	stdout, stderr string
}

// runProgram runs a program to its end, whatever that is.
func runProgram(t *testing.T, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	stdout, stderr := openOutput(t), openOutput(t)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		t.Errorf("%s %s: not done after %v", name, strings.Join(args, " "), commandTime)
	}
	return result{cmd.ProcessState.ExitCode(), readOutput(t, stdout), readOutput(t, stderr)}
}

// openOutput returns a file without a name. It is no pipe, since a server that
// a command has started would hold its end open.
func openOutput(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(shared, "output-")
	ok(t, err)
	ok(t, os.Remove(f.Name()))
	return f
}

func readOutput(t *testing.T, f *os.File) string {
	t.Helper()
	defer f.Close()
	_, err := f.Seek(0, io.SeekStart)
	ok(t, err)
	text, err := io.ReadAll(f)
	ok(t, err)
	return string(text)
}

// command runs a program that must succeed and returns its standard output.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := runProgram(t, nil, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", name, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// A store is the directory of one. Its methods run the program on it.
type store string

// newStore makes a store, with releases. The test fails if a server of the
// store is left in the end.
func newStore(t *testing.T, releases ...string) store {
	t.Helper()
	return newStoreAt(t, filepath.Join(t.TempDir(), "store"), releases...)
}

func newStoreAt(t *testing.T, dir string, releases ...string) store {
	t.Helper()
	s := store(dir)
	t.Cleanup(func() { s.noServer(t) })
	s.must(t, "init")
	for _, name := range releases {
		s.must(t, "release", "create", name)
	}
	return s
}

// regfs runs a command on the store, whatever comes of it.
func (s store) regfs(t *testing.T, args ...string) result {
	t.Helper()
	return runProgram(t, []string{"REGFS_STORE=" + string(s)}, program, args...)
}

// must runs a command that must succeed and returns its standard output.
func (s store) must(t *testing.T, args ...string) string {
	t.Helper()
	r := s.regfs(t, args...)
	if r.code != 0 {
		t.Fatalf("regfs %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// mustJSON runs a command with --json and decodes what it prints.
func (s store) mustJSON(t *testing.T, into any, args ...string) {
	t.Helper()
	out := s.must(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("regfs %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// refuses runs a command that must fail with a code, and say all of some words
// in one line.
func (s store) refuses(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	refused(t, s.regfs(t, args...), code, words...)
}

// refused checks how a command has failed.
func refused(t *testing.T, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s", r.code, code, r.stderr)
	}
	last := r.stderr[strings.LastIndex(strings.TrimRight(r.stderr, "\n"), "\n")+1:]
	for _, word := range words {
		if !strings.Contains(last, word) {
			t.Errorf("the error does not say %q: %s", word, r.stderr)
		}
	}
	if start, rest, ok := strings.Cut(strings.TrimPrefix(last, "regfs: "), ": "); ok && strings.HasPrefix(rest, start+": ") {
		t.Errorf("the error says a thing twice: %s", last)
	}
	if !strings.HasPrefix(last, "regfs: ") || strings.Contains(r.stderr, "goroutine ") {
		t.Errorf("not an error for users: %s", r.stderr)
	}
}

// blob returns where the store keeps a blob.
func (s store) blob(d digest.Digest) string {
	return filepath.Join(string(s), blobPath(d))
}

// server returns the process that serves the store, 0 if there is none.
func (s store) server() int {
	for _, pid := range s.servers() {
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(args), "--supervised=") {
			return pid
		}
	}
	return 0
}

// servers returns the processes that serve the store: the supervisor, which
// starts the server again if it is killed, and then the server.
func (s store) servers() []int { return s.processes("serve") }

// processes returns the store's processes that run a command, or any for "".
func (s store) processes(name string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		text, err := os.ReadFile(path)
		args := strings.Split(string(text), "\x00")
		if err != nil || len(args) < 4 || args[1] != "--store" || args[2] != string(s) || name != "" && args[3] != name {
			continue
		}
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		if strings.Contains(string(text), "--supervised=") {
			pids = append(pids, pid)
		} else {
			pids = append([]int{pid}, pids...)
		}
	}
	return pids
}

// noServer fails the test if a server is there and does not leave.
func (s store) noServer(t *testing.T) {
	t.Helper()
	if within(5*time.Second, func() bool { return len(s.servers()) == 0 }) {
		return
	}
	t.Errorf("left behind: a server of %s, process %v", s, s.servers())
	for _, pid := range s.servers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// A mounted is a release that is mounted by a process of its own.
type mounted struct {
	t       *testing.T
	store   store
	release string
	dir     string
	cmd     *exec.Cmd
	log     string
	before  int // how long the log was when the command was started
	ended   chan error
	stopped bool
}

// mount runs "regfs mount" until the test ends.
func (s store) mount(t *testing.T, release string, flags ...string) *mounted {
	t.Helper()
	return s.mountAt(t, filepath.Join(t.TempDir(), "mnt"), release, flags...)
}

// mountAt is mount on a directory of the caller's, which is made if it is
// missing.
func (s store) mountAt(t *testing.T, dir, release string, flags ...string) *mounted {
	t.Helper()
	m := s.startMount(t, dir, release, flags...)
	if !m.up() {
		t.Fatalf("%s: not mounted after %v\n%s", release, mountTime, m.Log())
	}
	return m
}

// startMount starts the command, which is ended with the test.
func (s store) startMount(t *testing.T, dir, release string, flags ...string) *mounted {
	t.Helper()
	if !isMounted(dir) { // a dead server's mount, which no system call gets past
		ok(t, os.MkdirAll(dir, 0o755))
	}
	m := &mounted{t: t, store: s, release: release, dir: dir, log: dir + ".log", ended: make(chan error, 1)}
	m.before = len(m.Log())
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ok(t, err)
	defer log.Close()
	if strings.Contains(t.Name(), "/"+overlayTest) {
		flags = append(flags, "--backend", "overlay")
	}
	m.cmd = exec.Command(program, append([]string{"--store", string(s), "mount", release, dir}, flags...)...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	ok(t, m.cmd.Start())
	go func() { m.ended <- m.cmd.Wait() }()
	t.Cleanup(m.finish)
	return m
}

// up waits for the mount, and says whether it has come.
func (m *mounted) up() bool {
	return within(mountTime, func() bool { return m.says("is mounted at") || m.hasEnded() }) && m.says("is mounted at") && isMounted(m.dir)
}

// says reports whether the command has printed something.
func (m *mounted) says(text string) bool {
	log := m.Log()
	return strings.Contains(log[min(m.before, len(log)):], text)
}

// again mounts the release once more at the same place.
func (m *mounted) again(flags ...string) *mounted {
	m.t.Helper()
	return m.store.mountAt(m.t, m.dir, m.release, flags...)
}

func (m *mounted) hasEnded() bool {
	select {
	case err := <-m.ended:
		m.ended <- err
		return true
	default:
		return false
	}
}

// Log returns what the mount has logged; the log of a server is with the
// mount that started it.
func (m *mounted) Log() string {
	text, _ := os.ReadFile(m.log)
	return string(text)
}

func (m *mounted) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// stop ends the mount by a signal to its process; M13: neither the mount nor
// the process is left.
func (m *mounted) stop(signal syscall.Signal) {
	m.t.Helper()
	if !m.stopped {
		_ = m.cmd.Process.Signal(signal)
		m.gone()
	}
}

// gone waits for the end of the mount, whoever has asked for it.
func (m *mounted) gone() {
	m.t.Helper()
	m.stopped = true
	select {
	case err := <-m.ended:
		m.ended <- err
		if err != nil {
			m.t.Errorf("regfs mount %s: %v\n%s", m.release, err, m.Log())
		}
	case <-time.After(mountTime):
		m.t.Errorf("left behind: regfs mount %s, process %d\n%s", m.release, m.cmd.Process.Pid, m.Log())
		_ = m.cmd.Process.Kill()
	}
	if isMounted(m.dir) {
		m.t.Errorf("left behind: the mount %s\n%s", m.dir, m.Log())
		tearDown(m.dir)
	}
}

func (m *mounted) finish() {
	m.stop(syscall.SIGTERM)
	if strings.Contains(m.Log(), "DATA RACE") || strings.Contains(m.Log(), "panic:") {
		m.t.Errorf("the server's log:\n%s", m.Log())
	} else if m.t.Failed() {
		m.t.Logf("log of %s:\n%s", m.release, m.Log())
	}
}

// isMounted says whether something is mounted at a place.
func isMounted(dir string) bool { return len(minorsAt(dir)) > 0 }

// minorsAt returns the device numbers of what is mounted at a place, by which
// sysfs names the connections of FUSE.
func minorsAt(dir string) (minors []string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[4] == dir {
			_, minor, _ := strings.Cut(f[2], ":")
			minors = append(minors, minor)
		}
	}
	return minors
}

// tearDown is the last resort for a mount that does not go.
func tearDown(dir string) {
	for _, minor := range minorsAt(dir) {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.WriteFile(filepath.Join("/sys/fs/fuse/connections", minor, "abort"), []byte("1"), 0)
	}
}

// within says whether something comes true in the time given.
func within(limit time.Duration, f func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if f() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
