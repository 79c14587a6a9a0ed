package test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/registrytest"
)

// The exit codes, as docs/operations.md promises them.
const (
	failed      = 1
	usage       = 2
	damage      = 3
	noStore     = 10
	locked      = 11
	interrupted = 130
)

func TestBadNames(t *testing.T) {
	s := newStore(t, "v1.0")
	before := s.must(t, "release", "ls")
	out := filepath.Join(t.TempDir(), "x.tar")
	mnt := t.TempDir()
	t.Run("unknown release", func(t *testing.T) {
		s.refuses(t, failed, []string{"v9"}, "ls", "v9")
		s.refuses(t, failed, []string{"v9"}, "export", "v9", "-o", out)
		s.refuses(t, failed, []string{"v9"}, "mount", "v9", mnt)
	})
	t.Run("release exists", func(t *testing.T) {
		s.refuses(t, failed, []string{"v1.0", "exists"}, "release", "create", "v1.0")
	})
	t.Run("bad release name", func(t *testing.T) {
		for _, name := range []string{"", ".", "..", "../x", "a/b", "/abs", "with space", "new\nline", ".hidden", strings.Repeat("x", 300), "ü"} {
			s.refuses(t, usage, nil, "release", "create", "--", name)
		}
	})
	t.Run("arguments", func(t *testing.T) {
		for _, args := range [][]string{
			{"export", "v1.0"}, {"export"}, {"mount", "v1.0"}, {"ls"}, {"ls", "v1.0", "more"}, {"umount"}, {"no-such-command"}, {"release", "no-such-command"},
			{"ls", "v1.0", "--no-such-flag"}, {"mount", "v1.0", mnt, "--reuse", "some"}, {"mount", "v1.0", mnt, "--file-mode", "9"},
			{"export", "v1.0", "-o", mnt},
		} {
			s.refuses(t, usage, nil, args...)
		}
	})
	want(t, "releases", s.must(t, "release", "ls"), before)
	if _, err := os.Stat(out); err == nil {
		t.Error("an output was left")
	}
}

func TestBadStore(t *testing.T) {
	all := [][]string{{"ls", "v1.0"}, {"status"}, {"release", "create", "v2"}, {"export", "v1.0", "-o", "-"}, {"mount", "v1.0", t.TempDir()}}
	t.Run("missing", func(t *testing.T) {
		for _, dir := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
			for _, args := range all {
				store(dir).refuses(t, noStore, []string{dir, "regfs init"}, args...)
			}
			entries, _ := os.ReadDir(dir)
			want(t, "files made", len(entries), 0)
		}
	})
	t.Run("init", func(t *testing.T) {
		s := newStore(t)
		s.refuses(t, failed, []string{"store already"}, "init")
		full := t.TempDir()
		writeFile(t, filepath.Join(full, "file"), nil)
		store(full).refuses(t, failed, []string{"not empty"}, "init")
	})
	t.Run("newer format", func(t *testing.T) {
		s := newStore(t, "v1.0")
		file := filepath.Join(string(s), "regfs.json")
		text, err := os.ReadFile(file)
		ok(t, err)
		ok(t, os.WriteFile(file, []byte(`{"format": 99}`), 0o600))
		for _, args := range all {
			s.refuses(t, noStore, []string{"99", "newer"}, args...)
		}
		ok(t, os.WriteFile(file, text, 0o600))
		s.must(t, "ls", "v1.0")
	})
	t.Run("locked", func(t *testing.T) {
		s := newStore(t, "v1.0")
		f, err := os.OpenFile(filepath.Join(string(s), "lock"), os.O_RDWR, 0)
		ok(t, err)
		ok(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		s.refuses(t, locked, []string{"in use"}, "ls", "v1.0")
		s.refuses(t, locked, []string{"in use"}, "mount", "v1.0", t.TempDir())
		ok(t, f.Close())
		s.must(t, "ls", "v1.0")
	})
	t.Run("on a read-only disk", func(t *testing.T) {
		s := newStore(t, "v1.0")
		for _, args := range all {
			r := privately(t, `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"`, s, args...)
			refused(t, r, failed, "read-only file system")
		}
		s.must(t, "ls", "v1.0")
	})
}

// privately runs the program in a mount namespace of its own, after a script
// that has the store as $1 and a directory as $2.
func privately(t *testing.T, script string, s store, args ...string) result {
	t.Helper()
	needRoot(t)
	full := append([]string{"-m", "--propagation", "private", "sh", "-euc", script + "\n" + `shift 2; exec "$@"`, "sh", string(s), t.TempDir(), program, "--store", string(s)}, args...)
	return runProgram(t, nil, "unshare", full...)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "needs root")
	}
}

func TestMountCreates(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	s.refuses(t, failed, []string{"no release v1"}, "mount", "v1", dir)
	for range 2 { // the second time it is there
		s.must(t, "mount", "v1", dir, "--create", "--detach")
		s.must(t, "umount", dir)
	}
	s.refuses(t, usage, []string{"../x"}, "mount", "../x", dir, "--create")
	want(t, "releases", strings.Count(s.must(t, "release", "ls"), "\n"), 2) // with a heading
}

func TestBadMountPoint(t *testing.T) {
	s := newStore(t, "v1.0", "v1.1")
	dir := t.TempDir()
	t.Run("missing", func(t *testing.T) {
		s.refuses(t, failed, []string{dir + "/none", "missing"}, "mount", "v1.0", dir+"/none")
	})
	t.Run("not empty", func(t *testing.T) {
		writeFile(t, dir+"/full/file", nil)
		s.refuses(t, failed, []string{dir + "/full", "not empty"}, "mount", "v1.0", dir+"/full")
	})
	t.Run("not a directory", func(t *testing.T) {
		s.refuses(t, usage, []string{"not a directory"}, "mount", "v1.0", dir+"/full/file")
	})
	t.Run("in the store", func(t *testing.T) {
		s.refuses(t, usage, []string{"store"}, "mount", "v1.0", filepath.Join(string(s), "docker"))
	})
	t.Run("busy", func(t *testing.T) {
		m := s.mount(t, "v1.0")
		s.refuses(t, failed, []string{"v1.0", m.dir}, "mount", "v1.1", m.dir)
		s.refuses(t, failed, []string{"v1.0", m.dir}, "mount", "v1.0", t.TempDir())
		other := newStore(t, "v1.0")
		other.refuses(t, failed, []string{m.dir}, "mount", "v1.0", m.dir)
		want(t, "still mounted", isMounted(m.dir), true)
	})
	t.Run("umount of no mount", func(t *testing.T) {
		s.refuses(t, failed, []string{dir, "no release is mounted"}, "umount", dir)
	})
	t.Run("M13 umount while in use", func(t *testing.T) {
		m := s.mount(t, "v1.0")
		f, err := os.Open(m.dir)
		ok(t, err)
		s.refuses(t, failed, []string{"busy", "test.test", strconv.Itoa(os.Getpid())}, "umount", m.dir)
		want(t, "still mounted", isMounted(m.dir), true)
		ok(t, f.Close())
		s.must(t, "umount", m.dir)
		m.gone()
	})
}

// TestDeadServer kills the server: what it leaves is cleared away.
func TestDeadServer(t *testing.T) {
	for _, how := range []string{"mount", "umount"} {
		t.Run("M13 cleared by "+how, func(t *testing.T) {
			s := newStore(t, "v1.0")
			dir := filepath.Join(t.TempDir(), "mnt")
			ok(t, os.Mkdir(dir, 0o755))
			t.Cleanup(func() { tearDown(dir) })
			s.must(t, "mount", "v1.0", dir, "--detach")
			writeFile(t, filepath.Join(dir, "kept"), []byte("text"))
			for _, pid := range s.servers() {
				ok(t, syscall.Kill(pid, syscall.SIGKILL))
			}
			s.noServer(t)
			want(t, "mounted, dead", isMounted(dir), true)
			if how == "umount" {
				s.must(t, "umount", dir)
				want(t, "mounted", isMounted(dir), false)
				return
			}
			m := s.mountAt(t, dir, "v1.0")
			want(t, "mounts", len(minorsAt(dir)), 1)
			text, err := os.ReadFile(m.path("kept"))
			ok(t, err)
			want(t, "M9 what was there", string(text), "text")
		})
	}
}

// TestSignals ends mounts in all ways.
func TestSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run("M13 "+signal.String()+" to mount", func(t *testing.T) {
			s := newStore(t, "v1.0", "v1.1")
			one, two := s.mount(t, "v1.0"), s.mount(t, "v1.1")
			one.stop(signal)
			want(t, "the other is mounted", isMounted(two.dir), true)
			two.stop(signal)
			s.noServer(t)
		})
		t.Run("M13 "+signal.String()+" to the server", func(t *testing.T) {
			s := newStore(t, "v1.0")
			dir := t.TempDir()
			t.Cleanup(func() { tearDown(dir) })
			s.must(t, "mount", "v1.0", dir, "--detach")
			ok(t, syscall.Kill(s.servers()[0], signal))
			s.noServer(t)
			want(t, "mounted", isMounted(dir), false)
		})
	}
}

func TestNoFuse(t *testing.T) {
	s := newStore(t, "v1.0")
	mnt := t.TempDir()
	t.Run("no /dev/fuse", func(t *testing.T) {
		r := privately(t, `mount -t tmpfs none "$2"; touch "$2/null"; mount --bind /dev/null "$2/null"; mount --rbind "$2" /dev`,
			s, "mount", "v1.0", mnt, "--backend", "fuse")
		refused(t, r, failed, "/dev/fuse")
	})
	t.Run("not root", func(t *testing.T) {
		needRoot(t)
		dir, _ := nobodysStore(t)
		mnt := filepath.Join(dir, "mnt")
		t.Run("and no fusermount3", func(t *testing.T) {
			hide := openFuse + `mkdir "$1/up" "$1/work"
				mount -t overlay -o "lowerdir=/usr/bin,upperdir=$1/up,workdir=$1/work" overlay /usr/bin
				rm -f /usr/bin/fusermount3 /usr/bin/fusermount`
			cmd := asNobody(dir, hide, "mount", "v1.0", mnt)
			refused(t, runProgram(t, nil, cmd[0], cmd[1:]...), failed, "fusermount3")
		})
		t.Run("M11 but fusermount3", func(t *testing.T) {
			cmd := asNobody(dir, openFuse, "mount", "v1.0", mnt)
			log := openOutput(t)
			process := exec.Command(cmd[0], cmd[1:]...)
			process.Stderr = log
			ok(t, process.Start())
			ask := asNobody(dir, "", "status")
			status := func() string { return runProgram(t, nil, ask[0], ask[1:]...).stdout }
			if !within(mountTime, func() bool { return strings.Contains(status(), "no: needs root") }) {
				t.Errorf("status does not say why there is no passthrough:\n%s", status())
			}
			ok(t, process.Process.Signal(syscall.SIGTERM))
			if err := process.Wait(); err != nil {
				t.Errorf("mount: %v\n%s", err, readOutput(t, log))
			}
		})
	})
}

// openFuse lets everybody open /dev/fuse, as is usual on machines with users.
const openFuse = `mknod "$1/fuse" c 10 229; chmod 0666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse; `

// asNobody is the command line that runs nobody's regfs, after a script of
// root's that has a scratch directory as $1, in a mount namespace of its own.
func asNobody(dir, script string, args ...string) []string {
	return append([]string{"unshare", "-m", "--propagation", "private", "sh", "-euc",
		"mount -t tmpfs none " + dir + "/scratch; set -- " + dir + `/scratch "$@"` + "\n" + script + "\n" +
			`shift; exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`,
		"sh", filepath.Join(dir, "regfs"), "--store", filepath.Join(dir, "store")}, args...)
}

// nobodysStore makes a store of the user nobody's, with a copy of the program
// that nobody may run, in a directory that nobody may enter.
func nobodysStore(t *testing.T) (dir string, s store) {
	t.Helper()
	dir, err := os.MkdirTemp("", "regfs-nobody-")
	ok(t, err)
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	s = store(filepath.Join(dir, "store"))
	t.Cleanup(func() { s.noServer(t) })
	command(t, "cp", program, filepath.Join(dir, "regfs"))
	s.must(t, "init")
	s.must(t, "release", "create", "v1.0")
	ok(t, os.Mkdir(filepath.Join(dir, "mnt"), 0o755))
	ok(t, os.Mkdir(filepath.Join(dir, "scratch"), 0o755))
	command(t, "chown", "-R", "65534:65534", dir)
	ok(t, os.Chmod(dir, 0o755))
	return dir, s
}

func TestSocket(t *testing.T) {
	needRoot(t)
	t.Run("M13 only its owner may use the socket", func(t *testing.T) {
		s := newStore(t, "v1.0")
		m := s.mount(t, "v1.0")
		socket := filepath.Join(string(s), "control.sock")
		info, err := os.Stat(socket)
		ok(t, err)
		want(t, "mode", info.Mode().Perm(), 0o600)
		for name, mode := range map[string]fs.FileMode{string(s): 0o700, filepath.Join(string(s), "regfs.json"): 0o600} {
			info, err := os.Stat(name)
			ok(t, err)
			want(t, "mode of "+name, info.Mode().Perm(), mode)
		}
		// Let the modes be wide open: the kernel's word on the caller remains.
		dir, theirs := nobodysStore(t)
		ok(t, os.Chmod(socket, 0o666))
		open := `mount --bind ` + string(s) + ` ` + string(theirs) + `; chmod 0755 ` + string(s) + `; chmod 0644 ` + string(s) + `/regfs.json`
		cmd := asNobody(dir, open, "status")
		refused(t, runProgram(t, nil, cmd[0], cmd[1:]...), failed)
		if !within(mountTime, func() bool { return strings.Contains(m.Log(), "refused") && strings.Contains(m.Log(), "65534") }) {
			t.Errorf("the log does not say who was refused:\n%s", m.Log())
		}
		s.must(t, "status")
	})
}

// A bigRelease is a store with one release of an image with large layers,
// whose export takes a while.
func bigRelease(t *testing.T) (store, image) {
	t.Helper()
	s := newStore(t, "big")
	m := s.mount(t, "big")
	r := serve(t, registrytest.V31, m.dir, nil)
	img := putImage(t, r.API(t), "library/big", "1.0", noise(1, 64<<20), noise(2, 64<<20), noise(3, 64<<20))
	r.Stop()
	m.stop(syscall.SIGTERM)
	return s, img
}

func TestExportFaults(t *testing.T) {
	s, img := bigRelease(t)
	t.Run("output exists", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "big.tar")
		writeFile(t, file, []byte("mine"))
		s.refuses(t, failed, []string{file, "--force"}, "export", "big", "-o", file)
		text, err := os.ReadFile(file)
		ok(t, err)
		want(t, "the file", string(text), "mine")
		s.must(t, "export", "big", "-o", file, "--force")
	})
	t.Run("output in no directory", func(t *testing.T) {
		s.refuses(t, failed, []string{"/none: no such file"}, "export", "big", "-o", t.TempDir()+"/none/x.tar")
	})
	t.Run("too little space", func(t *testing.T) {
		dir := tmpfs(t, 100<<20)
		s.refuses(t, failed, []string{"needed", "free", "no space left"}, "export", "big", "-o", dir+"/big.tar")
		nothingIn(t, dir)
	})
	t.Run("disk full while exporting", func(t *testing.T) {
		dir := tmpfs(t, 220<<20)
		fill := filepath.Join(dir, "filler")
		r := s.exportWith(t, dir, func(*os.Process) {
			f, err := os.Create(fill)
			ok(t, err)
			defer f.Close()
			for at, size := int64(0), int64(1<<28); size >= 4096; size /= 2 {
				if unix.Fallocate(int(f.Fd()), 0, at, size) == nil {
					at += size
				}
			}
		})
		refused(t, r, failed, "no space left on device")
		ok(t, os.Remove(fill))
		nothingIn(t, dir)
	})
	t.Run("interrupted, killed, and run again", func(t *testing.T) {
		whole := filepath.Join(t.TempDir(), "whole.tar")
		s.must(t, "export", "big", "-o", whole)
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
			dir := t.TempDir()
			r := s.exportWith(t, dir, func(p *os.Process) { ok(t, p.Signal(signal)) })
			if signal != syscall.SIGKILL {
				refused(t, r, interrupted, "kept in", ".big.tar.part")
			}
			sameSet(t, "left", dumpDir(t, dir).names(), []string{".big.tar.part"})
			s.must(t, "export", "big", "-o", dir+"/big.tar")
			sameFile(t, dir+"/big.tar", whole)
			sameSet(t, "left", dumpDir(t, dir).names(), []string{"big.tar"})
		}
	})
	t.Run("memory is bounded", func(t *testing.T) {
		for _, how := range [][]string{nil, {"--verify"}, {"--split", "50MB"}, {"--compress", "zstd"}, {"--compress", "gzip", "--split", "50MB"}} {
			used := peakMemory(t, program, append([]string{"--store", string(s), "export", "big", "-o", t.TempDir() + "/big.tar"}, how...)...)
			t.Logf("%v: %d MiB", how, used)
			if used > 160 {
				t.Errorf("%v took %d MiB for 192 MiB of layers", how, used)
			}
		}
	})
	t.Run("corrupt blob", func(t *testing.T) { s.withCorrupt(t, img.layers[1]) })
	t.Run("missing blob", func(t *testing.T) { s.withMissing(t, img.layers[1]) })
	s.must(t, "export", "big", "-o", "/dev/null", "--verify")
}

// peakMemory runs a program and returns the most MiB that it had. The kernel's
// own figure at its end is of no use: it begins with that of whoever starts it.
func peakMemory(t *testing.T, name string, args ...string) (peak int) {
	t.Helper()
	cmd := exec.Command(name, args...)
	out := openOutput(t)
	cmd.Stdout, cmd.Stderr = out, out
	ok(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if said := readOutput(t, out); err != nil {
				t.Fatalf("%q: %v\n%s", args, err, said)
			}
			return peak
		case <-time.After(5 * time.Millisecond):
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			var kib int
			if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok {
				fmt.Sscan(after, &kib)
				peak = max(peak, kib>>10)
			}
		}
	}
}

func (s store) withCorrupt(t *testing.T, d digest.Digest) {
	flip := func() {
		f, err := os.OpenFile(s.blob(d), os.O_RDWR, 0)
		ok(t, err)
		defer f.Close()
		var b [1]byte
		_, err = f.ReadAt(b[:], 12345)
		ok(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], 12345)
		ok(t, err)
	}
	flip()
	defer flip()
	dir := t.TempDir()
	s.refuses(t, damage, []string{d.String(), "library/big:1.0"}, "export", "big", "-o", dir+"/big.tar", "--verify")
	nothingIn(t, dir)
	ok(t, os.Truncate(s.blob(d), 64<<20-1))
	s.refuses(t, damage, []string{d.String(), "library/big:1.0"}, "export", "big", "-o", dir+"/big.tar")
	nothingIn(t, dir)
	f, err := os.OpenFile(s.blob(d), os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	_, err = f.WriteAt(noise(2, 64<<20)[64<<20-1:], 64<<20-1)
	ok(t, err)
}

func (s store) withMissing(t *testing.T, d digest.Digest) {
	ok(t, os.Rename(s.blob(d), s.blob(d)+".away"))
	defer os.Rename(s.blob(d)+".away", s.blob(d))
	dir := t.TempDir()
	for _, more := range []string{"--verify", "--verify=false", "--dry-run"} {
		s.refuses(t, damage, []string{d.String(), "library/big:1.0"}, "export", "big", "-o", dir+"/big.tar", more)
	}
	r := s.regfs(t, "export", "big", "-o", "-")
	refused(t, r, damage, d.String())
	want(t, "bytes streamed", len(r.stdout), 0)
	nothingIn(t, dir)
}

// exportWith runs an export into a directory and does something as soon as it
// has begun to write.
func (s store) exportWith(t *testing.T, dir string, do func(*os.Process)) result {
	t.Helper()
	stdout, stderr := openOutput(t), openOutput(t)
	cmd := exec.Command(program, "--store", string(s), "export", "big", "-o", dir+"/big.tar", "--verify")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	ok(t, cmd.Start())
	begun := func() bool {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Size() > 0 {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(mountTime); !begun() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	do(cmd.Process)
	_ = cmd.Wait()
	return result{cmd.ProcessState.ExitCode(), readOutput(t, stdout), readOutput(t, stderr)}
}

// tmpfs mounts a small disk until the test ends.
func tmpfs(t *testing.T, size int64) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	t.Cleanup(func() { ok(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func nothingIn(t *testing.T, dir string) {
	t.Helper()
	ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if path != dir {
			t.Errorf("left behind: %s", path)
		}
		return err
	}))
}

// TestBadManifests links, past the registry, what is no manifest.
func TestBadManifests(t *testing.T) {
	s := newStore(t, "v1.0")
	m := s.mount(t, "v1.0")
	huge := []byte(`{"schemaVersion":2,"x":"` + strings.Repeat("x", 4<<20) + `"}`)
	for name, content := range map[string][]byte{"unreadable": []byte("no JSON"), "over 4 MiB": huge} {
		t.Run(name+" manifest", func(t *testing.T) {
			d := digest.FromBytes(content)
			writeFile(t, m.path(blobPath(d)), content)
			link := m.path(repoPath("any", "_manifests/revisions", digestPath(d), "link"))
			ok(t, os.MkdirAll(filepath.Dir(link), 0o755))
			if err := os.WriteFile(link, []byte(d), 0o644); err == nil {
				t.Error("it was linked")
			}
			if _, err := os.Stat(link); !os.IsNotExist(err) {
				t.Errorf("the link is there: %v", err)
			}
			if !within(mountTime, func() bool { return strings.Contains(m.Log(), d.String()) }) {
				t.Errorf("the log does not name it:\n%s", m.Log())
			}
		})
	}
	out := s.must(t, "ls", "v1.0", "--json")
	if strings.TrimSpace(out) != "[]" {
		t.Errorf("ls --json of a release without images: %s", out)
	}
}
