package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// What a registry has acknowledged survives, M7: the server is killed, or the
// power fails, while clients push; in part of the rounds once more while the
// next server is starting. Then all that was acknowledged is looked for.
//
// REGFS_ROUNDS is how many rounds each test has; it also asks for all controls.
// REGFS_SEED makes a run choose as another did; when things happen depends on
// the machine, too. REGFS_EVIDENCE is a directory for the stores of rounds that
// failed, as they were before the recovery.

func TestServerKilled(t *testing.T) {
	torture(t, "", rounds(10))
	t.Run(overlayTest, func(t *testing.T) { torture(t, "", rounds(3)) })
}

func TestPowerLoss(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run("M7-"+kind, func(t *testing.T) { torture(t, kind, rounds(3)) })
	}
	t.Run(overlayTest, func(t *testing.T) { torture(t, "ext4", rounds(2)) })
}

func rounds(short int) int {
	if n, err := strconv.Atoi(os.Getenv("REGFS_ROUNDS")); err == nil && n > 0 {
		return n
	}
	if testing.Short() {
		return (short + 2) / 3
	}
	return short
}

func long() bool { return rounds(0) > 0 }

var seed = func() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("REGFS_SEED"), 10, 64); err == nil {
		return n
	}
	return uint64(time.Now().UnixNano()) % 1_000_000
}()

// torture runs rounds, on a new store every now and then, since a store's first
// minutes are unlike the rest of its life. A few rounds can all have crashed
// before anything was acknowledged; then more follow, up to three times as many.
func torture(t *testing.T, diskKind string, rounds int) {
	const perStore = 10
	sum := report.add(t.Name())
	enough := func() bool { return sum.testedEnough(rounds) == nil || sum.rounds >= 3*rounds }
	for store := 0; !enough() && !t.Failed(); store++ {
		t.Run(fmt.Sprint("store-", store), func(t *testing.T) {
			o := newOrdeal(t, diskKind, uint64(store))
			o.tally = sum
			for range perStore {
				if enough() {
					break
				}
				for _, l := range o.round() {
					t.Errorf("M7, round %d of this store: %s%s", o.number, l, o.seedText())
				}
				if t.Failed() {
					return
				}
			}
			for _, l := range o.finish() {
				t.Errorf("M7, at the end: %s%s", l, o.seedText())
			}
		})
	}
	if err := sum.testedEnough(rounds); err != nil && !t.Failed() {
		t.Error(err)
	}
}

// An ordeal is the rounds on one store.
type ordeal struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	disk   *disk // nil: its crashes are kill -9
	store  store
	dir    string // the mount point
	number int    // of the round
	*tally

	ledger     *ledger
	release    imagetest.Release
	queue      []imagetest.Image
	mount      *mounted
	registries map[registrytest.Version]*registrytest.Registry
	registry   *registrytest.Registry // the one that runs
	recovery   time.Duration          // how long the last one took
	killed     int                    // the process that was the server
	inARow     int                    // crashes since the supervisor was started
}

// imagesAStore is more than ten rounds push.
const imagesAStore = 250

func newOrdeal(t *testing.T, diskKind string, number uint64) *ordeal {
	t.Helper()
	o := &ordeal{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, number)),
		dir: filepath.Join(t.TempDir(), "mnt"), ledger: newLedger(), tally: newTally(""),
		registries: map[registrytest.Version]*registrytest.Registry{}, recovery: 200 * time.Millisecond,
	}
	series, err := imagetest.Synthetic(t.TempDir(), imagetest.Options{
		Images: imagesAStore, LayerSize: 10_000, SharedBases: 3, Seed: o.random.Uint64(),
	})
	ok(t, err)
	o.release, o.queue = series.Release, series.Images
	if diskKind == "" {
		o.store = newStore(t, "v1")
	} else {
		o.disk = newDisk(t, diskKind)
		o.store = o.disk.newStore(t, "store")
	}
	o.mount = o.store.mountAt(t, o.dir, "v1")
	o.serve()
	return o
}

func (o *ordeal) seedText() string { return fmt.Sprintf(" (REGFS_SEED=%d)", o.seed) }

// serve runs a registry on the mount, 2.8 and 3.1 in turn.
func (o *ordeal) serve() {
	version := registrytest.Versions[o.number%len(registrytest.Versions)]
	if r := o.registries[version]; r != nil {
		r.Restart()
	} else {
		o.registries[version] = serve(o.t, version, o.dir, nil)
	}
	o.registry = o.registries[version]
}

// A plan is all that a round leaves to chance.
type plan struct {
	seed    uint64        // of what is pushed
	answers int           // after so many answers of the registry,
	delay   time.Duration // and so long, the crash comes
	again   []crash       // and these while the next server starts
	stale   bool          // the dead server's mount is still there then
	alone   bool          // only the server dies: its supervisor starts the next, the registry runs on
}

// A crash comes when the part of the recovery is over that the last one says.
type crash struct {
	at    float64
	power bool
}

func (o *ordeal) plan() plan {
	p := plan{
		seed: o.random.Uint64(), answers: 1 + o.random.IntN(200),
		delay: time.Duration(o.random.IntN(15_000)) * time.Microsecond,
		stale: o.random.IntN(2) == 0, alone: o.random.IntN(2) == 0 && o.disk == nil,
	}
	if o.number%3 == 2 {
		p.answers += 80 // some images at least, even in a short run
	}
	for o.random.IntN(2) == 0 && len(p.again) < 2 {
		p.again = append(p.again, crash{1.1 * o.random.Float64(), o.random.IntN(2) == 0})
	}
	// A supervisor waits longer after each crash in a row, and gives up after eight.
	if o.inARow += 1 + len(p.again); o.inARow > 4 || !p.alone {
		p.alone, o.inARow = false, 0
	}
	return p
}

// round pushes until it crashes, starts everything again, in part of the rounds
// after another crash, and returns what is lost or damaged.
func (o *ordeal) round() []loss {
	o.t.Helper()
	o.number++
	o.rounds++
	p := o.plan()
	o.load(p)
	evidence := o.keep()
	for _, c := range p.again {
		if p.alone {
			o.killNext(c)
		} else {
			o.crashRecovery(c)
		}
	}
	losses := o.recover(p)
	if len(losses) == 0 {
		losses = o.check(false)
	}
	if len(losses) == 0 {
		_ = os.RemoveAll(evidence)
	}
	o.lost += len(losses)
	return losses
}

// load runs the pushers until the crash.
func (o *ordeal) load(p plan) {
	o.t.Helper()
	acknowledged, removed := o.ledger.counts()
	reached := o.ledger.begin(p.answers)
	pushers := startPushers(o.t, o.registry, o.ledger, o.release.Dir, o.queue, p.seed)
	defer func() { o.queue = pushers.stop() }()
	select {
	case <-reached:
	case <-time.After(time.Minute):
		o.t.Fatalf("the registry has not answered %d requests in a minute", p.answers)
	}
	time.Sleep(p.delay)
	pushers.crashing()
	under := o.ledger.busy()
	old := o.store.server()
	end := func() {
		if p.alone {
			ok(o.t, syscall.Kill(old, syscall.SIGKILL))
			return
		}
		o.store.kill(o.t, o.mount, func() { pushers.stop(); o.registry.Stop() })
		if o.disk != nil || !p.stale {
			tearDown(o.dir) // if it is still there
		}
	}
	if o.disk != nil {
		o.disk.losePower(end)
	} else {
		end()
	}
	o.crashed(o.disk != nil, "while clients pushed")
	o.killed = old
	for _, kind := range under {
		o.underWay[kind]++
	}
	acknowledgedNow, removedNow := o.ledger.counts()
	o.acknowledged += acknowledgedNow - acknowledged
	o.removed += removedNow - removed
}

// crashRecovery starts a server, and crashes before it is done.
func (o *ordeal) crashRecovery(c crash) {
	o.t.Helper()
	m := o.store.startMount(o.t, o.dir, "v1")
	time.Sleep(time.Duration(c.at * float64(o.recovery)))
	where := ""
	end := func() {
		where = o.store.killAll(o.t, m)
		if o.disk != nil {
			tearDown(o.dir)
		}
	}
	power := c.power && o.disk != nil
	if power {
		o.disk.losePower(end)
	} else {
		end()
	}
	o.crashed(power, where)
}

// killNext waits for the server that the supervisor starts, and kills it before
// it is done.
func (o *ordeal) killNext(c crash) {
	o.t.Helper()
	next := 0
	if !within(mountTime, func() bool { next = o.store.server(); return next != 0 && next != o.killed }) {
		o.t.Fatalf("no server has come back after %v\n%s", mountTime, o.mount.Log())
	}
	time.Sleep(time.Duration(c.at * float64(o.recovery)))
	where := "in the recovery"
	if answers(o.dir) {
		where = "after the recovery"
	}
	ok(o.t, syscall.Kill(next, syscall.SIGKILL))
	o.crashed(false, where)
	o.killed = next
}

// recover starts a server, or waits for the one that the supervisor starts, and
// a registry. Nothing of what was half done is left then.
func (o *ordeal) recover(p plan) (losses []loss) {
	o.t.Helper()
	begun := time.Now()
	if p.alone {
		back := func() bool { is := o.store.server(); return is != 0 && is != o.killed && answers(o.dir) }
		if !within(mountTime, back) {
			return []loss{{unopened, "has not come back: " + o.mount.Log()}}
		}
		o.store.must(o.t, "status") // an overlay answers without a server
		o.cameBack++
		return o.leftovers()
	}
	o.mount = o.store.startMount(o.t, o.dir, "v1")
	if !o.mount.up() {
		return []loss{{unopened, "not mounted again: " + o.mount.Log()}}
	}
	o.recovery = time.Since(begun)
	losses = o.leftovers()
	if o.onOverlay() {
		// Registry 2.8 writes links in place. One that was stopped in between stumbles
		// over what it has left, on any disk, until that is put aside.
		if res := o.store.regfs(o.t, "sync", "v1"); res.code != 0 && res.code != damage {
			o.t.Errorf("sync: exit code %d: %s", res.code, res.stderr)
		}
	}
	o.serve()
	return losses
}

// leftovers are the temporary files after a recovery. That of an overlay brings
// in blobs itself, so there it is left to the end of the ordeal to look.
func (o *ordeal) leftovers() []loss {
	o.t.Helper()
	if o.onOverlay() {
		return nil
	}
	return o.store.leftovers(o.t)
}

func (o *ordeal) onOverlay() bool { return strings.Contains(o.t.Name(), "/"+overlayTest) }

// check looks for all that was acknowledged, and pulls the images of this
// round, or all of them.
func (o *ordeal) check(all bool) (losses []loss) {
	o.t.Helper()
	losses = o.store.damaged(o.t)
	there, err := o.images()
	if err != nil {
		return append(losses, loss{unwhole, err.Error()})
	}
	losses = append(losses, o.ledger.settle(there)...)
	losses = append(losses, o.pull(there, all)...)
	if o.disk == nil {
		losses = append(losses, o.checkBlobs()...)
	}
	if res := o.store.regfs(o.t, "fsck", "--data"); res.code != 0 {
		losses = append(losses, loss{unsound, "fsck: " + res.stdout + res.stderr})
	}
	if res := o.store.regfs(o.t, "export", "v1", "--verify", "-o", "/dev/null"); res.code != 0 {
		losses = append(losses, loss{unwhole, "export: " + res.stderr})
	}
	return losses
}

// images asks regfs for all that is there.
func (o *ordeal) images() (map[tagName]digest.Digest, error) {
	o.t.Helper()
	var list []struct {
		Repository, Tag string
		Digest          digest.Digest
	}
	res := o.store.regfs(o.t, "ls", "v1", "--json")
	if err := json.Unmarshal([]byte(res.stdout), &list); err != nil {
		return nil, fmt.Errorf("ls: exit code %d: %s", res.code, res.stderr)
	}
	there := map[tagName]digest.Digest{}
	for _, i := range list {
		if i.Tag != "" {
			there[tagName{i.Repository, i.Tag}] = i.Digest
		}
	}
	return there, nil
}

// pull compares what the registry serves with what was pushed.
func (o *ordeal) pull(there map[tagName]digest.Digest, all bool) (losses []loss) {
	o.t.Helper()
	types := map[digest.Digest]string{}
	for _, i := range o.release.Images {
		types[i.Digest] = i.MediaType
	}
	pulled := o.release
	pulled.Images = nil
	for n, d := range there {
		if all || o.ledger.touched[n] {
			pulled.Images = append(pulled.Images, imagetest.Image{Repository: n.repo, Tag: n.tag, Digest: d, MediaType: types[d]})
		}
	}
	if err := imagetest.Verify(o.t.Context(), o.registry.Client(), o.registry.URL(), pulled); err != nil {
		losses = append(losses, loss{lostImage, err.Error()})
	}
	o.pulled += len(pulled.Images)
	for n := range o.ledger.touched {
		if _, is := there[n]; is {
			continue
		}
		if _, status := o.registry.API(o.t).HeadManifest(n.repo, n.tag); status != http.StatusNotFound {
			losses = append(losses, loss{strange, fmt.Sprintf("%s is not listed, but has status %d", n, status)})
		}
	}
	return losses
}

// checkBlobs pulls the blobs that were acknowledged. A power loss may take those
// that no acknowledged manifest needs; a server's death may not.
func (o *ordeal) checkBlobs() (losses []loss) {
	o.t.Helper()
	api := o.registry.API(o.t)
	for blob := range o.ledger.blobs {
		want := digest.Digest(blob[1])
		content, status := api.GetBlob(blob[0], want)
		if status != http.StatusOK || digest.FromBytes(content) != want {
			losses = append(losses, loss{lostBlob, fmt.Sprintf("%s in %s: status %d, %d bytes", want, blob[0], status, len(content))})
		}
		o.blobs++
	}
	return losses
}

// finish pulls all images of the store, and closes it.
func (o *ordeal) finish() []loss {
	o.t.Helper()
	losses := o.check(true)
	o.registry.Stop()
	o.mount.stop(syscall.SIGTERM)
	losses = append(losses, o.store.leftovers(o.t)...)
	o.lost += len(losses)
	return losses
}

// keep copies the store as the crash has left it, if somebody wants to see it.
func (o *ordeal) keep() (path string) {
	dir := os.Getenv("REGFS_EVIDENCE")
	if dir == "" {
		return ""
	}
	path = filepath.Join(dir, fmt.Sprintf("%s-%d-%d", filepath.Base(filepath.Dir(o.t.Name())), o.seed, o.number))
	if out, err := exec.Command("cp", "-a", "--sparse=always", string(o.store), path).CombinedOutput(); err != nil {
		o.t.Errorf("evidence: %v: %s", err, out)
	}
	return path
}

// kill ends the store's server at once, has the users of the mount ended, and
// waits until the command that stands for the mount has ended, too. That stands
// still meanwhile: it must not take the mount from under its users.
func (s store) kill(t *testing.T, m *mounted, endUsers func()) {
	t.Helper()
	ok(t, m.cmd.Process.Signal(syscall.SIGSTOP))
	for _, pid := range s.servers() {
		ok(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	endUsers()
	ok(t, m.cmd.Process.Signal(syscall.SIGCONT))
	m.ends()
}

// killAll ends the server, and then the command, wherever they are. It says
// where they were.
func (s store) killAll(t *testing.T, m *mounted) (where string) {
	t.Helper()
	where = "before the store was open"
	_ = m.cmd.Process.Signal(syscall.SIGSTOP) // it may have ended
	if m.says("serving") || m.says("is mounted at") {
		where = "after the recovery"
	} else if len(s.servers()) > 0 {
		where = "in the recovery"
	}
	for range 100 {
		others := slices.DeleteFunc(s.processes(""), func(pid int) bool { return pid == m.cmd.Process.Pid })
		if len(others) == 0 {
			break
		}
		for _, pid := range others {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
	_ = m.cmd.Process.Kill()
	m.ends()
	return where
}

// ends waits for the end of the command, however it comes.
func (m *mounted) ends() {
	m.t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- err
	case <-time.After(mountTime):
		m.t.Errorf("regfs mount has not noticed that the server is gone\n%s", m.Log())
		_ = m.cmd.Process.Kill()
	}
	m.stopped = true
}

// damaged returns the blobs of the store that are not what their names say.
func (s store) damaged(t *testing.T) (losses []loss) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(string(s), v2, "blobs"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := digest.SHA256.Digester()
		n, err := io.Copy(sum.Hash(), f)
		if hex := filepath.Base(filepath.Dir(name)); sum.Digest().Encoded() != hex {
			losses = append(losses, loss{damaged, fmt.Sprintf("blob %s of %d bytes is %s", hex, n, sum.Digest())})
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) { // the crash came before the first blob
		ok(t, err)
	}
	return losses
}

// leftovers returns the files in the store's tmp.
func (s store) leftovers(t *testing.T) (losses []loss) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(string(s), "tmp"), func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			losses = append(losses, loss{leftover, "in the store's tmp: " + name})
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		ok(t, err)
	}
	return losses
}

// When the server dies, a registry that goes on must not go on in the bare
// directory under the mount: it would acknowledge what is nowhere in the store.
func TestDeadServerTakesNothing(t *testing.T) {
	s := newStore(t, "v1")
	m := s.mount(t, "v1")
	r := serve(t, registrytest.V31, m.dir, nil)
	s.kill(t, m, func() {})
	t.Cleanup(func() { tearDown(m.dir) })
	if _, status := r.API(t).PushBlobMonolithic("a", []byte("blob")); status == http.StatusCreated {
		t.Error("M7: the server is dead, and the registry has acknowledged a blob")
	}
}
