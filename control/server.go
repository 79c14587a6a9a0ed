package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/overlay"
	"github.com/regfs/regfs/store"
)

// A Server answers for one open store.
type Server struct {
	store *store.Store
	log   *slog.Logger
	pid   int // 0 if it serves only its own process
	ServeOptions

	// using is held for reading by each request that uses the store, and for
	// writing from when the server gives it up.
	using sync.RWMutex

	noting sync.Mutex // held while the mounts are written down, and while a list of them for that is made; taken before mu

	snapshots snapshots

	mu         sync.Mutex // guards what follows; not held while anything is mounted or unmounted
	mounts     map[string]*mounted
	lost       map[string]lost             // by mount point: noted, and not restored
	restoring  bool                        // mounts are being restored: no time to leave
	overlays   map[string]*overlay.Overlay // by release
	claims     map[string]string           // by release: what it is claimed for
	renaming   int                         // releases that are being renamed: no time to collect
	collecting bool                        // garbage is being collected: no time to leave
	imports    map[string]*importing       // by id
	closing    bool                        // no new mount is taken

	failed atomic.Bool // the index has

	watching sync.WaitGroup // one for each mount, and each import
	stopping sync.Once
	stopped  chan struct{} // closed when mounts are not watched any more

	leaving chan struct{} // closed when closing is set
	left    chan struct{} // closed when the store is given up
}

// NewServer returns a server for an open store.
func NewServer(s *store.Store, log *slog.Logger) *Server {
	return &Server{
		store: s, log: log,
		mounts:   make(map[string]*mounted),
		lost:     make(map[string]lost),
		overlays: make(map[string]*overlay.Overlay),
		claims:   make(map[string]string),
		imports:  make(map[string]*importing),
		stopped:  make(chan struct{}),
		leaving:  make(chan struct{}),
		left:     make(chan struct{}),
	}
}

// stop ends the watch over the mounts, which are gone, or live on by themselves.
func (s *Server) stop() {
	s.stopping.Do(func() { close(s.stopped) })
	s.watching.Wait()
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", s.answer(s.status))
	mux.Handle("GET /v1/releases", s.answer(s.releases))
	mux.Handle("POST /v1/releases", s.answer(s.create))
	mux.Handle("DELETE /v1/releases/{name}", s.answer(s.removeRelease))
	mux.Handle("GET /v1/releases/{name}", s.answer(s.detail))
	mux.Handle("POST /v1/releases/{name}/seal", s.answer(s.seal))
	mux.Handle("POST /v1/releases/{name}/fork", s.answer(s.fork))
	mux.Handle("POST /v1/releases/{name}/rename", s.answer(s.rename))
	mux.Handle("POST /v1/releases/{name}/tag", s.answer(s.tag))
	mux.Handle("POST /v1/releases/{name}/untag", s.answer(s.untag))
	mux.Handle("GET /v1/releases/{name}/document", s.answer(s.document))
	mux.Handle("GET /v1/releases/{name}/images", s.answer(s.images))
	mux.Handle("POST /v1/releases/{name}/inventory", s.answer(s.inventory))
	mux.Handle("POST /v1/releases/{name}/sync", s.answer(s.sync))
	mux.Handle("POST /v1/releases/{name}/compose", s.answer(s.compose))
	mux.Handle("GET /v1/releases/{name}/diff/{other}", s.answer(s.compare))
	mux.Handle("GET /v1/fsck", s.answer(s.fsck))
	mux.Handle("POST /v1/fsck/affects", s.answer(s.affects))
	mux.Handle("POST /v1/fsck/repair", s.answer(s.repair))
	mux.Handle("POST /v1/fsck/quarantine", s.answer(s.quarantine))
	mux.HandleFunc("POST /v1/releases/{name}/import", s.startImport)
	mux.Handle("POST /v1/imports/{id}/have", during(s, s.have))
	mux.Handle("POST /v1/imports/{id}/blob", during(s, s.importBlob))
	mux.Handle("POST /v1/imports/{id}/images", during(s, s.importImages))
	mux.Handle("POST /v1/imports/{id}/end", s.answer(s.endImport))
	mux.HandleFunc("POST /v1/umount", s.unmount)
	mux.HandleFunc("POST /v1/mounts", s.mount)
	mux.HandleFunc("POST /v1/gc", s.collect)
	return mux
}

// answer turns what a request gives into JSON. While that is on its way, which
// may take as long as the caller likes, the store is not in use.
func (s *Server) answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := s.use(r, f)
		s.tell(w, r, out, err)
	})
}

func (s *Server) tell(w http.ResponseWriter, r *http.Request, out any, err error) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writePatience))
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.log.Debug("answer not sent", "path", r.URL.Path, "err", err)
	}
}

func (s *Server) use(r *http.Request, f func(*http.Request) (any, error)) (any, error) {
	if !s.using.TryRLock() {
		return nil, ErrLeaving
	}
	defer s.using.RUnlock()
	return f(r)
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(newError(err))
}

// maxRequest bounds what is read of a request: a few paths and flags.
const maxRequest = 64 << 10

// maxSelection bounds a list of images.
const maxSelection = 16 << 20

func decode(r *http.Request, into any) error { return decodeUpTo(maxRequest, r, into) }

func decodeUpTo(most int64, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("request: %w: %w", err, ErrUsage)
	}
	return nil
}

func (s *Server) status(*http.Request) (any, error) {
	all, err := s.store.Index.Releases()
	if err != nil {
		return nil, err
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.store.Dir, &disk); err != nil {
		return nil, err
	}
	dead, err := s.dead()
	if err != nil {
		s.log.Warn("status", "err", err)
	}
	return Status{
		Store: s.store.Dir, Format: store.Format, Server: s.pid, Supervisor: s.supervisor(), Dead: dead,
		Releases: len(all), Mounts: s.mounted(),
		DiskSize: disk.Blocks * uint64(disk.Bsize), DiskFree: disk.Bavail * uint64(disk.Bsize),
		Syncs: s.store.Blobs.Syncs() + s.store.Index.Syncs(),
	}, nil
}

func (s *Server) releases(*http.Request) (any, error) {
	all, err := s.store.Index.Releases()
	if err != nil {
		return nil, err
	}
	at := make(map[string]string)
	for _, m := range s.mounted() {
		at[m.Release] = m.Mountpoint
	}
	out := make([]Release, len(all))
	for i, r := range all {
		out[i] = Release{Name: r.Name, Created: r.Created, Mountpoint: at[r.Name], Sealed: r.Document}
	}
	return out, nil
}

func (s *Server) create(r *http.Request) (any, error) {
	var req createRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if err := s.store.Index.Create(req.Name); err != nil {
		return nil, err
	}
	s.snapshot(req.Name)
	return struct{}{}, nil
}

func (s *Server) images(r *http.Request) (any, error) {
	return withRelease(s, r, func(release *index.Release) ([]export.Image, error) {
		return export.Images(release, s.store.Blobs)
	})
}

func (s *Server) inventory(r *http.Request) (any, error) {
	var selection export.Selection
	if err := decodeUpTo(maxSelection, r, &selection); err != nil {
		return nil, err
	}
	// For the caller, who has a hold, the pins are in force during a collection
	// that is under way. The next one sees the hold.
	pins := s.store.Blobs.NewPins("being exported: " + r.PathValue("name"))
	defer pins.Release()
	return withRelease(s, r, func(release *index.Release) (*export.Inventory, error) {
		inv, err := export.TakePart(release, s.store.Blobs, pins, selection)
		if err == nil {
			err = s.exportedDocument(release, inv, selection)
		}
		if err != nil {
			return nil, err
		}
		// Who asks reads the blobs himself.
		return inv, s.store.Blobs.Settle()
	})
}

func withRelease[T any](s *Server, r *http.Request, f func(*index.Release) (T, error)) (any, error) {
	release, err := s.store.Index.Open(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer release.Close()
	if _, err := s.settle(release.Name); err != nil {
		return nil, err
	}
	return f(release)
}

func (s *Server) sync(r *http.Request) (any, error) {
	release, err := s.store.Index.Open(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer release.Close()
	return s.settle(release.Name)
}

// unmount answers when the mount is gone; if the server leaves with it, when the
// store is given up.
func (s *Server) unmount(w http.ResponseWriter, r *http.Request) {
	out, err := s.use(r, s.endMount)
	s.awaitLeft() // also if what the mount held was refused
	s.tell(w, r, out, err)
}

func (s *Server) endMount(r *http.Request) (any, error) {
	var req unmountRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	m, ok := s.mounts[req.Mountpoint]
	s.mu.Unlock()
	if !ok {
		return nil, &Error{Kind: "not-exist", Message: fmt.Sprintf("umount %s: no release is mounted there (store %s)", req.Mountpoint, s.store.Dir)}
	}
	return struct{}{}, m.end(req.Force)
}

// mount answers with the mount, then stays until the mount has ended, or ends
// it when the caller has gone. When the server leaves with it, the caller
// hears of the end only after the store is given up.
func (s *Server) mount(w http.ResponseWriter, r *http.Request) {
	var req MountRequest
	err := decode(r, &req)
	if err == nil {
		err = s.checkMount(req)
	}
	var m *mounted
	if err == nil {
		m, err = s.add(req)
	}
	if err != nil {
		s.fail(w, err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leaveIfIdle() // it may have been started for this one
		return
	}
	json.NewEncoder(w).Encode(m.Mount)
	if req.Detach {
		return
	}
	http.NewResponseController(w).Flush()
	select {
	case <-m.done:
	case <-r.Context().Done():
		s.log.Info("command is gone, unmounting", "release", req.Release, "mountpoint", req.Mountpoint)
		if err := m.end(true); err != nil {
			s.log.Error("unmount", "err", err)
		}
		<-m.done
	}
	s.awaitLeft()
}

// awaitLeft waits for the store to be given up, if the server is leaving: who
// is told then can unmount its disk, or remove it. The caller uses the store no
// more.
func (s *Server) awaitLeft() {
	select {
	case <-s.leaving:
		<-s.left
	default:
	}
}

func (s *Server) checkMount(req MountRequest) error {
	ours, err := mountNamespace()
	if err != nil {
		return err
	}
	switch {
	case s.pid == 0:
		return errors.New("mount: no server runs")
	case req.Namespace != ours:
		return fmt.Errorf("mount %s: the server (process %d) runs in another mount namespace, where you would not see the mount; "+
			"stop it, or start \"regfs serve\" here: %w", req.Mountpoint, s.pid, ErrUsage)
	}
	return req.check()
}
