package control

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/regfs/regfs/index"
)

// ErrBroken: the index is to be opened by another process. The mounts are left
// as a crash leaves them, so that no registry sees what is below.
var ErrBroken = errors.New("the server has to be started anew")

// onceAMinute is how often a server may end itself: whoever starts it again
// counts those that ran for less as crashes in a row, and what can be read is
// served meanwhile.
const onceAMinute = time.Minute

// broken gives an error when this server is of no more use, and another one may
// be.
func (s *Server) broken(began time.Time) <-chan error {
	out := make(chan error, 1)
	go func() {
		why := <-s.store.Index.Broken()
		s.failed.Store(true)
		wait := onceAMinute - time.Since(began)
		if errors.Is(why, index.ErrStuck) {
			wait = 0
		}
		s.log.Error("the index has failed, and takes changes again after a new start", "err", why, "in", max(wait, 0).Round(time.Second))
		time.Sleep(wait)
		out <- fmt.Errorf("%w: %w", ErrBroken, why)
	}()
	return out
}

// closeTime is how long a store may take to be closed. Badger tries for ever to
// write a table.
const closeTime = 30 * time.Second

// closeStore closes the store, in time. On a disk that has failed it is left as
// a crash would leave it: Badger would write its last table, by a memory map.
func (s *Server) closeStore() error {
	err := s.store.Index.Probe()
	if s.failed.Load() || err != nil && !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(errors.New("close store: the disk has failed; the next process finds what was acknowledged"), err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.store.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTime):
		return fmt.Errorf("close store: not done after %v; the next process finds what was acknowledged", closeTime)
	}
}
