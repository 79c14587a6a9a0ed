package fsck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
)

// stateFile is in the store's directory: how far the last scan has come.
const stateFile = "fsck.json"

// saved is how often a scan notes how far it is. What is lost by a kill -9 is
// read again.
const saved = 5 * time.Second

// A position is what is left of a scan that was interrupted. docs/format.md
// specifies its form.
type position struct {
	Started  time.Time     `json:"started"`
	Updated  time.Time     `json:"updated"`
	Finished bool          `json:"finished"`
	After    digest.Digest `json:"after,omitempty"` // all up to this one are read
	Blobs    int           `json:"blobs"`
	Bytes    int64         `json:"bytes"`
	Bad      []Bad         `json:"bad,omitempty"`
}

// A state is the position of a scan that runs.
type state struct {
	file *os.File

	mu sync.Mutex // guards what follows
	position
	written time.Time
	pending []*job // in the order of their digests; those at the head are done no more than begun
}

// A job is one blob that is being read.
type job struct {
	cas.Info
	done bool
}

// openState reads what an interrupted scan has left. The file is locked as
// long as it is open, and written in place: half-written, it is no JSON, and the
// scan starts anew.
func openState(dir string) (*state, error) {
	file, err := os.OpenFile(filepath.Join(dir, stateFile), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scan store: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errScanning
		}
		return nil, fmt.Errorf("scan store: %w", err)
	}
	keepOwner(dir, file)
	s := &state{file: file}
	data, err := io.ReadAll(io.LimitReader(file, 64<<20))
	if err != nil || json.Unmarshal(data, &s.position) != nil || s.Finished || s.After.Validate() != nil {
		s.position = position{}
	}
	if s.Started.IsZero() {
		s.Started = time.Now().UTC()
	}
	return s, nil
}

// keepOwner gives the file to the store's owner, if root has made it.
func keepOwner(dir string, file *os.File) {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) == nil && os.Geteuid() == 0 {
		file.Chown(int(st.Uid), int(st.Gid))
	}
}

func (s *state) close() { s.file.Close() }

// takeBad returns what was found before the interruption, to be found anew.
func (s *state) takeBad() []Bad {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := s.Bad
	s.Bad = nil
	return bad
}

func (s *state) bad(b Bad) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Bad = append(s.Bad, b)
}

func (s *state) begin(info cas.Info) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &job{Info: info}
	s.pending = append(s.pending, j)
	return j
}

// done notes that a blob was read. The position moves past those that are read
// up to it.
func (s *state) done(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.done = true
	for len(s.pending) > 0 && s.pending[0].done {
		first := s.pending[0]
		s.pending = s.pending[1:]
		s.After, s.Blobs, s.Bytes = first.Digest, s.Blobs+1, s.Bytes+first.Size
	}
	if time.Since(s.written) > saved {
		s.write() // not to be able to resume is no reason to stop
	}
}

// finish notes how a scan has ended.
func (s *state) finish(whole bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Finished = whole
	return s.write()
}

func (s *state) write() error {
	s.written, s.Updated = time.Now(), time.Now().UTC()
	data, err := json.Marshal(s.position)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if _, err = s.file.WriteAt(data, 0); err == nil {
		err = s.file.Truncate(int64(len(data)))
	}
	if err != nil {
		return fmt.Errorf("scan store: note how far it is: %w", err)
	}
	return nil
}
