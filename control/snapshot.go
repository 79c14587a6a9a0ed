package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/regfs/regfs/snapshot"
	"github.com/regfs/regfs/store"
)

// snapshotEvery is how much of a mounted release's names is lost with the index
// at most. A snapshot of 300 images takes milliseconds and a few syncs, in the
// background: nobody who pushes waits for it.
const snapshotEvery = 30 * time.Second

// snapshots are what the snapshots are of that this process has written: the
// release's generation.
type snapshots struct {
	mu   sync.Mutex
	done map[string]uint64
}

// snapshot writes down the names of a release, if they have changed since. That
// it cannot is no reason to refuse anything: the index has them.
func (s *Server) snapshot(release string) {
	generation := s.store.Index.Generation(release)
	s.snapshots.mu.Lock()
	defer s.snapshots.mu.Unlock()
	_, err := os.Lstat(filepath.Join(s.store.Dir, store.SnapshotFile(release)))
	if err == nil && s.snapshots.done[release] == generation {
		return
	}
	if err := snapshot.Save(s.store, release); err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // else it was removed this moment
			s.log.Error("names are not written down", "err", err)
		}
		return
	}
	if s.snapshots.done == nil {
		s.snapshots.done = make(map[string]uint64)
	}
	s.snapshots.done[release] = generation
}

// keepSnapshots writes down the names of what is mounted, until the server
// stops, and first those of releases that have none.
func (s *Server) keepSnapshots(every time.Duration) {
	if all, err := s.store.Index.Releases(); err == nil {
		for _, r := range all {
			if _, err := os.Lstat(filepath.Join(s.store.Dir, store.SnapshotFile(r.Name))); err != nil && !s.isStopped() {
				s.snapshot(r.Name)
			}
		}
	}
	for {
		select {
		case <-s.stopped:
			return
		case <-time.After(every):
		}
		for _, m := range s.mounted() {
			s.snapshot(m.Release)
		}
	}
}

func (s *Server) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}
