package index

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// A Release is one release in memory. Its methods may be called from many
// goroutines.
type Release struct {
	Info
	db    *DB
	users int  // guarded by db.mu
	begun bool // it is not among those that are open: see Begin, and OpenPart
	// part, if it is there, are the repositories that were read: see OpenPart.
	part map[string]bool

	mu    sync.RWMutex // guards what follows; taken before the writer's mu
	repos map[string]*repository
	steps map[string]map[string]bool // a directory of repositories → names of the next step; only grows
	blobs blobSet
	dirs  map[string]time.Time
	// awaited are blobs that were not there when a revision that names them was
	// linked: manifests of which nothing is known, and what is Absent.
	awaited map[digest.Digest]bool
	lost    error         // why a change that nobody waited for was not written
	broken  error         // why the records could not be read; no change is taken then
	sealed  digest.Digest // see Sealed
	sealing bool          // its document is being made
	mending bool          // see Mend
}

// A repository is what one release says of one repository.
type repository struct {
	layers    map[digest.Digest]*layer
	revisions map[digest.Digest]*revision
	tags      map[string]*tag
}

// A layer is a layer link, or the absence of one.
type layer struct {
	mark   mark
	time   time.Time
	needs  int       // revisions of this repository that need it
	needed time.Time // when the last of them was linked
}

func (l *layer) listed() bool { return l.mark == own || l.mark == unmarked && l.needs > 0 }

// A revision is a linked manifest with all it needs, itself included.
type revision struct {
	time   time.Time
	absent []digest.Digest // see Need.Absent
	reach  reach
}

type tag struct {
	current digest.Digest // empty when only the history is left
	time    time.Time
	history map[digest.Digest]time.Time
}

// Close gives the release back, when the changes made so far are on the disk.
func (r *Release) Close() {
	// Who opens it next reads what is on the disk. If that cannot be written, its
	// caller has been told.
	_ = r.db.writer.settle()
	r.db.mu.Lock()
	defer r.db.mu.Unlock()
	if r.users--; r.users == 0 && !r.begun {
		delete(r.db.open, r.Name)
	}
}

// Sync returns when all changes made so far are durable, and tells once of
// changes that were lost since the last Sync.
func (r *Release) Sync() error {
	err := r.db.writer.settle()
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := r.lost
	r.lost = nil
	return errors.Join(err, lost)
}

// load reads the release's records and derives what follows from them.
func (r *Release) load() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = r.read()
	return r.broken
}

// clear makes the release empty.
func (r *Release) clear() {
	r.repos = make(map[string]*repository)
	r.steps = make(map[string]map[string]bool)
	r.blobs = newBlobSet()
	r.dirs = make(map[string]time.Time)
	r.awaited = make(map[digest.Digest]bool)
}

func (r *Release) read() error {
	r.clear()
	prefix := releasePrefix(r.Name)
	err := r.db.view(func(txn *badger.Txn) error {
		found := newTally()
		found.add(string(keyRelease), 1)
		err := scanIn(txn, prefix, func(key, value []byte) error {
			if _, kind, _ := kindOf(key); kind != "" {
				found.add(kind, 1)
			}
			if r.part != nil && !r.isOfPart(key[len(prefix):]) {
				return nil
			}
			if err := r.loadRecord(string(key[len(prefix):]), value); err != nil {
				return fmt.Errorf("index record %q: %w", key, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return checkTally(txn, r.Name, found)
	})
	if err != nil {
		return err
	}
	for _, repo := range r.repos {
		for d, rev := range repo.revisions {
			r.count(repo, rev, r.db.reach(d, rev.absent))
		}
	}
	return nil
}

func (r *Release) loadRecord(key string, value []byte) error {
	if key == "" {
		return errors.New("no kind")
	}
	kind, fields := key[0], strings.Split(key[1:], "\x00")
	want := map[byte]int{keyLayer: 2, keyRevision: 2, keyTag: 2, keyTagIndex: 3, keyBlob: 1, keyDir: 1}[kind]
	if len(fields) != want {
		return fmt.Errorf("kind %q with %d fields", kind, len(fields))
	}
	if err := checkFields(kind, fields); err != nil {
		return err
	}
	last := digest.Digest(fields[len(fields)-1])
	switch kind {
	case keyLayer:
		m, t, err := decodeMark(value)
		l := r.repository(fields[0]).layer(last)
		l.mark, l.time = m, t
		return err
	case keyBlob:
		m, t, err := decodeMark(value)
		r.blobs.mark(last, m, t)
		return err
	}
	t, rest, err := decodeTime(value)
	switch kind {
	case keyRevision:
		absent, absentErr := decodeAbsent(rest)
		r.repository(fields[0]).revisions[last] = &revision{time: t, absent: absent}
		return errors.Join(err, absentErr)
	case keyTag:
		tag := r.repository(fields[0]).tag(fields[1])
		tag.current, tag.time = digest.Digest(rest), t
		return errors.Join(err, tag.current.Validate())
	case keyTagIndex:
		r.repository(fields[0]).tag(fields[1]).history[last] = t
	case keyDir:
		r.dirs[fields[0]] = t
	}
	return err
}

// checkFields holds a record's names against what they become: parts of paths.
// Whatever wrote the record, none leads out of its directory.
func checkFields(kind byte, fields []string) error {
	if !fs.ValidPath(fields[0]) && kind != keyBlob {
		return fmt.Errorf("bad name %.300q", fields[0])
	}
	if tagged := kind == keyTag || kind == keyTagIndex; tagged && (!fs.ValidPath(fields[1]) || strings.Contains(fields[1], "/")) {
		return fmt.Errorf("bad tag %.300q", fields[1])
	}
	if kind == keyTag || kind == keyDir {
		return nil
	}
	return digest.Digest(fields[len(fields)-1]).Validate()
}

// repository returns the repository of that name, made if need be.
func (r *Release) repository(name string) *repository {
	repo, ok := r.repos[name]
	if !ok {
		repo = &repository{
			layers:    make(map[digest.Digest]*layer),
			revisions: make(map[digest.Digest]*revision),
			tags:      make(map[string]*tag),
		}
		r.repos[name] = repo
		r.addSteps(name)
	}
	return repo
}

// addSteps makes the way to a repository known: "a/b" is a step in "", "a".
func (r *Release) addSteps(name string) {
	for name != "" {
		parent, step := "", name
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			parent, step = name[:i], name[i+1:]
		}
		if r.steps[parent] == nil {
			r.steps[parent] = make(map[string]bool)
		}
		r.steps[parent][step] = true
		name = parent
	}
}

func (p *repository) layer(d digest.Digest) *layer {
	l, ok := p.layers[d]
	if !ok {
		l = new(layer)
		p.layers[d] = l
	}
	return l
}

func (p *repository) tag(name string) *tag {
	t, ok := p.tags[name]
	if !ok {
		t = &tag{history: make(map[digest.Digest]time.Time)}
		p.tags[name] = t
	}
	return t
}

// listed says whether anything of the repository shows in a listing.
func (p *repository) listed() bool {
	if len(p.revisions) > 0 || len(p.tags) > 0 {
		return true
	}
	for _, l := range p.layers {
		if l.listed() {
			return true
		}
	}
	return false
}
