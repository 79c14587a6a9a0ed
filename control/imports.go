package control

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/store"
)

// importStarted answers POST /v1/releases/NAME/import. Dir is where the command
// puts what is to become a blob, relative to the store's directory.
type importStarted struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
}

// haveRequest is the body of POST /v1/imports/ID/have, which answers with the
// sizes of those blobs that the store has.
type haveRequest struct {
	Digests []digest.Digest `json:"digests"`
}

// blobRequest is the body of POST /v1/imports/ID/blob: a file in the import's
// directory that nobody writes to any more becomes a blob.
type blobRequest struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
}

// imagesRequest is the body of POST /v1/imports/ID/images, which answers with
// why each image was refused, or "".
type imagesRequest struct {
	Images []intake.Image `json:"images"`
}

// An importing is an import under way. It lasts as long as the connection of
// the command that began it. Nobody can mount its release meanwhile, and only
// one import goes into a release at a time.
type importing struct {
	id      string
	release *index.Release
	pins    *cas.Pins // of all that it asked for and brought
	ending  sync.Once
	end     chan struct{} // closed when its command is done
	ended   chan struct{} // closed when all is given back

	mu     sync.RWMutex // held for reading by each of its requests
	closed bool
}

// startImport answers with where to put files, then stays until the command
// is done or gone, or the server leaves.
func (s *Server) startImport(w http.ResponseWriter, r *http.Request) {
	if !s.using.TryRLock() {
		s.fail(w, ErrLeaving)
		return
	}
	defer s.using.RUnlock()
	i, err := s.addImport(r.PathValue("name"))
	if err != nil {
		s.fail(w, err)
		return
	}
	s.watching.Add(1)
	defer s.watching.Done()
	defer s.removeImport(i)
	json.NewEncoder(w).Encode(importStarted{ID: i.id, Dir: store.IncomingDir(i.id)})
	http.NewResponseController(w).Flush()
	select {
	case <-i.end:
	case <-r.Context().Done():
	case <-s.leaving:
	case <-s.stopped:
	}
}

func (s *Server) addImport(name string) (*importing, error) {
	release, err := s.store.Index.Open(name)
	if err != nil {
		return nil, err
	}
	i := &importing{
		id: rand.Text(), release: release, pins: s.store.Blobs.NewPins("being imported into " + name),
		end: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := s.reservePatiently(i); err != nil {
		i.pins.Release()
		release.Close()
		return nil, err
	}
	if err = s.settleForGood(name); err == nil {
		err = os.MkdirAll(filepath.Join(s.store.Dir, store.IncomingDir(i.id)), 0o700)
	}
	if err != nil {
		s.removeImport(i)
		return nil, fmt.Errorf("import into %s: %w", name, err)
	}
	return i, nil
}

// reservePatiently waits for an import that is about to end: that of a command
// which was killed, when its last blob is stored.
func (s *Server) reservePatiently(i *importing) error {
	late := time.After(patience)
	for {
		err := s.reserveImport(i)
		var busy *importBusyError
		if !errors.As(err, &busy) {
			return err
		}
		select {
		case <-busy.other.ended:
		case <-late:
			return err
		}
	}
}

// An importBusyError says which import is in the way.
type importBusyError struct{ other *importing }

func (e *importBusyError) Error() string {
	return fmt.Sprintf("import into %s: another import into it is under way", e.other.release.Name)
}

func (e *importBusyError) Unwrap() error { return syscall.EBUSY }

// reserveImport refuses a release that is mounted: the kernel would go on not
// seeing what comes from beside the mount.
func (s *Server) reserveImport(i *importing) error {
	if err := s.forgetCleared(i.release.Name); err != nil {
		return fmt.Errorf("import into %s: %w", i.release.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrLeaving
	}
	if err := cmp.Or(i.release.Frozen(), s.isMounted(i.release.Name)); err != nil {
		return fmt.Errorf("import into %s: %w", i.release.Name, err)
	}
	for _, other := range s.imports {
		if other.release.Name == i.release.Name {
			return &importBusyError{other}
		}
	}
	if err := s.isTaken(i.release.Name); err != nil {
		return fmt.Errorf("import into %s: %w", i.release.Name, err)
	}
	s.imports[i.id] = i
	return nil
}

// removeImport ends an import when its last request is answered.
func (s *Server) removeImport(i *importing) {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(s.store.Dir, store.IncomingDir(i.id))); err != nil {
		s.log.Warn("files of an import are left", "release", i.release.Name, "err", err)
	}
	i.pins.Release()
	i.release.Close()
	s.snapshot(i.release.Name)
	s.mu.Lock()
	delete(s.imports, i.id)
	s.mu.Unlock()
	close(i.ended)
}

// maxImportRequest bounds what is read of a request about many blobs or images:
// the command sends some hundred at a time.
const maxImportRequest = 32 << 20

// during answers a request that belongs to an import.
func during[In any](s *Server, f func(*importing, In) (any, error)) http.Handler {
	return s.answer(func(r *http.Request) (any, error) {
		s.mu.Lock()
		i, ok := s.imports[r.PathValue("id")]
		s.mu.Unlock()
		if !ok {
			return nil, ErrLeaving // begun with a server that is gone
		}
		i.mu.RLock()
		defer i.mu.RUnlock()
		if i.closed {
			return nil, ErrLeaving
		}
		var in In
		if err := decodeUpTo(maxImportRequest, r, &in); err != nil {
			return nil, err
		}
		return f(i, in)
	})
}

func (s *Server) have(i *importing, req haveRequest) (any, error) {
	sizes := make(map[digest.Digest]int64)
	for _, d := range req.Digests {
		info, err := i.pins.Stat(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sizes[d] = info.Size
	}
	return sizes, nil
}

func (s *Server) importBlob(i *importing, req blobRequest) (any, error) {
	if req.Name != filepath.Base(req.Name) || strings.HasPrefix(req.Name, ".") {
		return nil, fmt.Errorf("import: file %q: %w", req.Name, ErrUsage)
	}
	w, err := s.store.Blobs.Adopt(filepath.Join(store.IncomingDir(i.id), req.Name))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	i.pins.Add(req.Digest)
	_, err = w.Commit(req.Digest)
	var corrupt *cas.CorruptError
	if errors.As(err, &corrupt) {
		return nil, fmt.Errorf("%w: %w", corrupt, ErrCorrupt)
	}
	return struct{}{}, err
}

func (s *Server) importImages(i *importing, req imagesRequest) (any, error) {
	in := intake.Intake{Blobs: s.store.Blobs, Pins: i.pins, Index: s.store.Index, Release: i.release, Log: s.log}
	refused, err := in.Images(req.Images)
	if err != nil {
		return nil, err
	}
	reasons := make([]string, len(refused))
	for n, err := range refused {
		if err != nil {
			reasons[n] = reason(err)
		}
	}
	return reasons, nil
}

// reason leaves out what only programs understand.
func reason(err error) string {
	text := err.Error()
	for _, kind := range []error{syscall.EINVAL, fs.ErrNotExist} {
		text = strings.TrimSuffix(text, ": "+kind.Error())
	}
	return text
}

// endImport returns when all is given back, so that the release can be mounted.
func (s *Server) endImport(r *http.Request) (any, error) {
	s.mu.Lock()
	i, ok := s.imports[r.PathValue("id")]
	s.mu.Unlock()
	if ok {
		i.ending.Do(func() { close(i.end) })
		<-i.ended
	}
	return struct{}{}, nil
}
