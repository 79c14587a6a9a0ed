package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/registrytest"
)

// The server comes back after a crash, and its mounts with it, under registries
// that run on.

// detach mounts a release that nobody stands for.
func (s store) detach(t *testing.T, release string, flags ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		if isMounted(dir) {
			s.regfs(t, "umount", "--force", dir)
		}
		tearDown(dir)
		if t.Failed() {
			t.Logf("server.log:\n%s", s.log())
		}
	})
	s.must(t, append([]string{"mount", release, dir, "--detach"}, flags...)...)
	return dir
}

func (s store) log() string {
	text, _ := os.ReadFile(filepath.Join(string(s), "server.log"))
	return string(text)
}

// crashServer kills the server, and keeps its supervisor from starting it again
// until resume is called.
func (s store) crashServer(t *testing.T) (resume func()) {
	t.Helper()
	supervisor, server := s.servers()[0], s.server()
	ok(t, syscall.Kill(supervisor, syscall.SIGSTOP))
	ok(t, syscall.Kill(server, syscall.SIGKILL))
	if !within(mountTime, func() bool { return isZombie(server) }) {
		t.Fatalf("process %d does not die", server)
	}
	return func() { ok(t, syscall.Kill(supervisor, syscall.SIGCONT)) }
}

func isZombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(text), ") ")
	return err != nil || strings.HasPrefix(state, "Z")
}

// answers says whether a mount answers, and is not dead. It never hangs.
func answers(dir string) bool { return errnoOf(dir) == nil }

func errnoOf(path string) error {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t // and not a Stat_t: the kernel keeps attributes, a dead server's too
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(mountTime):
		return unix.ETIMEDOUT
	}
}

// comeBack waits until another server than the one given has restored a mount.
func (s store) comeBack(t *testing.T, dir string, old int) {
	t.Helper()
	back := func() bool { pid := s.server(); return pid != 0 && pid != old && answers(dir) }
	if !within(mountTime, back) {
		t.Fatalf("server %d has not come back with %s (%v)\n%s", old, dir, errnoOf(dir), s.log())
	}
	want(t, "mounts at "+dir, len(minorsAt(dir)), 1)
}

func TestServerComesBack(t *testing.T) {
	onBoth(t, func(t *testing.T, v registrytest.Version) {
		releases := debian(t)
		s := newStore(t, "v1.0", "v1.1")
		one, two := s.detach(t, "v1.0", "--uid", "1000", "--file-mode", "0640"), s.detach(t, "v1.1", "--reuse", "repository")
		r, other := serve(t, v, one, nil), serve(t, v, two, nil)
		push(t, r, releases[0])
		push(t, other, releases[0])
		// What is on the mount and not below it.
		writeFile(t, filepath.Join(one, "mark"), []byte("text"))
		bare := watchBare(filepath.Join(one, "mark"))
		old := s.server()

		resume := s.crashServer(t)
		t.Run("a dead mount is an error at once", func(t *testing.T) { failsAtOnce(t, r.API(t)) })
		resume()
		s.comeBack(t, one, old)
		s.comeBack(t, two, old)
		want(t, "looks at the directory below", bare(), 0)

		verify(t, r, releases[0])
		verify(t, other, releases[0])
		push(t, r, releases[1])
		verify(t, r, releases[1])
		info, err := os.Stat(filepath.Join(one, firstLink(t, one)))
		ok(t, err)
		want(t, "owner", info.Sys().(*syscall.Stat_t).Uid, 1000)
		want(t, "mode", info.Mode().Perm(), 0o640)
		want(t, "reuse in status", strings.Contains(s.must(t, "status"), "repository"), true)
		for _, word := range []string{"signal: killed", "mount restored"} {
			want(t, "the log says "+word, strings.Contains(s.log(), word), true)
		}
		r.Stop()
		other.Stop()
		for _, dir := range []string{one, two} {
			s.must(t, "umount", dir)
			want(t, "mounted", isMounted(dir), false)
		}
		s.noServer(t)
		_, err = os.Stat(filepath.Join(string(s), "mounts.json"))
		want(t, "a note of no mount", os.IsNotExist(err), true)
		r.Restart() // on the empty directory: what the test's end expects
		other.Restart()
	})
}

// firstLink returns a link of the registry's tree, relative to the mount.
func firstLink(t *testing.T, dir string) (link string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, v2, "repositories/*/*/_manifests/tags/*/current/link"))
	ok(t, err)
	if len(found) == 0 {
		t.Fatal("no tag")
	}
	link, err = filepath.Rel(dir, found[0])
	ok(t, err)
	return link
}

// failsAtOnce asks a registry for all kinds of things: it answers that it
// cannot, and does not keep its clients waiting.
func failsAtOnce(t *testing.T, a *registrytest.API) {
	for what, ask := range map[string]func() int{
		"HEAD of a blob":    func() int { _, status := a.HeadBlob("a", digest.FromString("blob")); return status },
		"PUT of a blob":     func() int { _, status := a.PushBlobMonolithic("a", []byte("blob")); return status },
		"GET of a manifest": func() int { _, status := a.GetManifest("a", "latest"); return status },
		"PUT of a manifest": func() int {
			_, status := a.PutManifest("a", "latest", ocispec.MediaTypeImageManifest, []byte(`{}`))
			return status
		},
		"a list of its tags": func() int { return a.Tags("a", 0, "").Status },
	} {
		began := time.Now()
		status := ask()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: %v", what, took)
		}
		if status < 400 {
			t.Errorf("%s: status %d", what, status)
		}
	}
	if _, status := a.PushBlobMonolithic("a", []byte("blob")); status < 500 {
		t.Errorf("PUT of a blob: status %d, want 5xx", status)
	}
}

// watchBare looks all the time for a file that is on a mount. What it returns
// ends that, and says how often the file was not there: then the directory
// below was to be seen.
func watchBare(path string) (end func() int) {
	var bare atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			var st unix.Stat_t
			if unix.Stat(path, &st) == unix.ENOENT {
				bare.Add(1)
			}
		}
	}()
	return func() int {
		close(stop)
		<-done
		return int(bare.Load())
	}
}

// The command that stands for a mount stands for it again.
func TestMountStandsAgain(t *testing.T) {
	for _, how := range []string{"SIGTERM", "killed", "umount"} {
		t.Run(how, func(t *testing.T) {
			s := newStore(t, "v1.0", "v1.1")
			m := s.mount(t, "v1.0")
			other := s.mount(t, "v1.1")
			old := s.server()
			resume := s.crashServer(t)
			want(t, "waits", within(mountTime, func() bool { return strings.Contains(m.Log(), "waiting for it to come back") }), true)
			resume()
			s.comeBack(t, m.dir, old)
			want(t, "stands again", within(mountTime, func() bool { return strings.Count(m.Log(), "is mounted at") == 2 }), true)
			want(t, "ended", m.hasEnded(), false)
			switch how {
			case "SIGTERM":
				m.stop(syscall.SIGTERM)
			case "killed":
				ok(t, m.cmd.Process.Kill())
				want(t, "unmounted", within(mountTime, func() bool { return !isMounted(m.dir) }), true)
				m.stopped = true
			case "umount":
				s.must(t, "umount", m.dir)
				m.gone()
			}
			want(t, "the other is mounted", answers(other.dir), true)
		})
	}
	t.Run("by overlayfs", func(t *testing.T) {
		s := newStore(t, "v1.0")
		m := s.mount(t, "v1.0", "--backend", "overlay")
		old := s.server()
		s.crashServer(t)()
		s.comeBack(t, m.dir, old)
		want(t, "stands again", within(mountTime, func() bool { return strings.Count(m.Log(), "is mounted at") == 2 }), true)
		m.stop(syscall.SIGTERM)
	})
	t.Run("unmounted while the server was away", func(t *testing.T) {
		s := newStore(t, "v1.0")
		m := s.mount(t, "v1.0")
		resume := s.crashServer(t)
		s.must(t, "umount", m.dir)
		resume()
		m.gone()
	})
	t.Run("signalled while the server was away", func(t *testing.T) {
		s := newStore(t, "v1.0")
		m := s.mount(t, "v1.0")
		resume := s.crashServer(t)
		ok(t, m.cmd.Process.Signal(syscall.SIGINT))
		time.Sleep(100 * time.Millisecond)
		resume()
		m.gone()
	})
}

func TestSupervisor(t *testing.T) {
	t.Run("M13 a signal to the server proper", func(t *testing.T) {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			s := newStore(t, "v1.0")
			dir := s.detach(t, "v1.0")
			ok(t, syscall.Kill(s.server(), signal))
			s.noServer(t)
			want(t, "mounted", isMounted(dir), false)
		}
	})
	t.Run("an end by Go's runtime is a crash", func(t *testing.T) {
		s := newStore(t, "v1.0")
		dir, old := s.detach(t, "v1.0"), s.server()
		ok(t, syscall.Kill(old, syscall.SIGQUIT)) // exit code 2, as of a panic
		s.comeBack(t, dir, old)
		want(t, "the log says how", strings.Contains(s.log(), "exit status 2"), true)
	})
	t.Run("killed itself", func(t *testing.T) {
		s := newStore(t, "v1.0")
		dir, old := s.detach(t, "v1.0"), s.server()
		ok(t, syscall.Kill(s.servers()[0], syscall.SIGKILL))
		alone := "nobody starts it again"
		want(t, "status", within(mountTime, func() bool { return strings.Contains(s.must(t, "status"), alone) }), true)
		writeFile(t, filepath.Join(dir, "file"), []byte("text"))
		want(t, "server", s.server(), old)
		s.must(t, "umount", dir)
		s.noServer(t)
	})
	t.Run("what it cannot begin it says", func(t *testing.T) {
		s := newStore(t, "v1.0")
		s.detach(t, "v1.0")
		s.refuses(t, locked, []string{"in use by another process"}, "serve")
		store(t.TempDir()).refuses(t, noStore, []string{"no regfs store"}, "serve")
		s.refuses(t, usage, []string{"unknown flag"}, "serve", "--none")
		s.refuses(t, failed, []string{"no supervisor"}, "serve", "--supervised=first")
	})
}

// What is not there any more is not mounted again; what cannot be mounted again
// is named.
func TestNotRestored(t *testing.T) {
	notes := func(s store) string { return filepath.Join(string(s), "mounts.json") }
	t.Run("unmounted by hand", func(t *testing.T) {
		s := newStore(t, "v1.0", "v1.1")
		dir, other, old := s.detach(t, "v1.0"), s.detach(t, "v1.1"), s.server()
		resume := s.crashServer(t)
		command(t, "umount", dir)
		resume()
		s.comeBack(t, other, old)
		want(t, "mounted", isMounted(dir), false)
	})
	t.Run("release is gone", func(t *testing.T) {
		s := newStore(t, "v1.0", "v1.1")
		dir, other, old := s.detach(t, "v1.0"), s.detach(t, "v1.1"), s.server()
		resume := s.crashServer(t)
		text, err := os.ReadFile(notes(s))
		ok(t, err)
		ok(t, os.WriteFile(notes(s), []byte(strings.Replace(string(text), "v1.0", "v9.9", 1)), 0o600))
		resume()
		s.comeBack(t, other, old)
		want(t, "dead", errnoOf(dir), error(unix.ENOTCONN))
		want(t, "status", strings.Contains(s.must(t, "status"), "v9.9 at "+dir+" (there is no release"), true)
		s.must(t, "mount", "v1.0", dir, "--detach")
		want(t, "alive", answers(dir), true)
		want(t, "status", strings.Contains(s.must(t, "status"), "dead"), false)
	})
	for what, text := range map[string]string{
		"no JSON":           "{",
		"not a mount point": `{"mounts":[{"release":"v1.0","mountpoint":"../x","reuse":"store"}]}`,
		"bad release":       `{"mounts":[{"release":"../v1.0","mountpoint":"/x","reuse":"store"}]}`,
		"bad modes":         `{"mounts":[{"release":"v1.0","mountpoint":"/x","reuse":"store","file_mode":4095}]}`,
	} {
		t.Run("damaged note: "+what, func(t *testing.T) {
			s := newStore(t, "v1.0")
			dir := s.detach(t, "v1.0")
			resume := s.crashServer(t)
			ok(t, os.WriteFile(notes(s), []byte(text), 0o600))
			resume()
			want(t, "the log says so", within(mountTime, func() bool { return strings.Contains(s.log(), "not restored") }), true)
			want(t, "dead", errnoOf(dir), error(unix.ENOTCONN))
			want(t, "status", strings.Contains(s.must(t, "status"), "at "+dir+"; mount or umount it"), true)
			s.must(t, "mount", "v1.0", dir, "--detach")
			want(t, "alive", answers(dir), true)
		})
	}
}

// A server that crashes while it restores mounts is no worse than one that
// crashes at another time.
func TestCrashesInARow(t *testing.T) {
	s := newStore(t, "v1.0", "v1.1")
	dirs := []string{s.detach(t, "v1.0"), s.detach(t, "v1.1")}
	writeFile(t, filepath.Join(dirs[0], "mark"), []byte("text"))
	bare := watchBare(filepath.Join(dirs[0], "mark"))
	var old int
	for range 4 { // the pauses double
		if !within(mountTime, func() bool { pid := s.server(); return pid != 0 && pid != old }) {
			t.Fatalf("no server after %d", old)
		}
		old = s.server()
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		_ = syscall.Kill(old, syscall.SIGKILL)
	}
	for _, dir := range dirs {
		s.comeBack(t, dir, old)
	}
	want(t, "looks at the directory below", bare(), 0)
}

// The tests above must catch a regfs that does not restore, or that lets the
// directory below be seen.
func TestComeBackControls(t *testing.T) {
	if !long() {
		t.Skip("REGFS_ROUNDS is not set: the controls of a server that comes back are not tried")
	}
	for _, c := range []struct {
		control
		caught func(t *testing.T) bool
	}{
		{control{
			name: "mounts-not-restored", file: "control/serve.go",
			old: "\ts.restore()\n", new: "",
		}, func(t *testing.T) bool {
			s := newStore(t, "v1.0")
			dir, old := s.detach(t, "v1.0"), s.server()
			ok(t, syscall.Kill(old, syscall.SIGKILL))
			if !within(mountTime, func() bool { pid := s.server(); return pid != 0 && pid != old }) {
				t.Fatalf("no server after %d", old)
			}
			defer s.regfs(t, "umount", dir)
			defer func() { _ = syscall.Kill(s.servers()[0], syscall.SIGTERM) }()
			return !within(2*time.Second, func() bool { return answers(dir) })
		}},
		{control{
			name: "dead-mount-cleared-first", file: "mountpoint/replace.go",
			old: "\terr = moveMount(fd, m.Mountpoint, moveBeneath)\n\tif err == nil {\n\t\treturn true, m.Clear()\n\t}",
			new: "\tif err = m.Clear(); err == nil {\n\t\t_ = unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil)\n\t\treturn true, moveMount(fd, m.Mountpoint, 0)\n\t}",
		}, func(t *testing.T) bool {
			s := newStore(t, "v1.0")
			dir, old := s.detach(t, "v1.0"), s.server()
			writeFile(t, filepath.Join(dir, "mark"), []byte("text"))
			bare := watchBare(filepath.Join(dir, "mark"))
			ok(t, syscall.Kill(old, syscall.SIGKILL))
			want(t, "restored", within(mountTime, func() bool { return strings.Contains(s.log(), "mount restored") }), true)
			return bare() > 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			right := program
			defer func() { program = right }()
			program = buildPatched(t, c.control)
			if !c.caught(t) {
				t.Error("not caught")
			}
		})
	}
}
