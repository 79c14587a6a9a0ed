package supervise

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// childFd is where a process finds its supervisor: the first of ExtraFiles.
const childFd = 3

// A Child is the process, on its way to the supervisor.
type Child struct {
	conn   *os.File
	parent int
	alone  atomic.Bool
}

// Attach is called once, by a process that [Run] has started. lost is called
// when the supervisor is there no longer.
func Attach(lost func()) (*Child, error) {
	var st unix.Stat_t
	if err := unix.Fstat(childFd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errors.New("no supervisor has started this process")
	}
	unix.CloseOnExec(childFd)
	if err := unix.SetNonblock(childFd, true); err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	c := &Child{conn: os.NewFile(childFd, "supervisor"), parent: os.Getppid()}
	go func() {
		_, _ = c.conn.Read(make([]byte, 1)) // it says nothing, it only ends
		c.alone.Store(true)
		lost()
	}()
	return c, nil
}

// Serving says that the process has begun well. If it crashes after that, and
// the next one cannot begin, that is tried again too.
func (c *Child) Serving() { c.say(wordServing) }

// End says that the process is about to end, in order. It must not be deferred:
// a panic is no order.
func (c *Child) End() { c.say(wordEnd) }

// say drops what a dead supervisor cannot hear.
func (c *Child) say(word string) { _ = unix.Send(childFd, []byte(word), unix.MSG_NOSIGNAL) }

// Supervisor is the supervisor's process, 0 if it has died.
func (c *Child) Supervisor() int {
	if c.alone.Load() {
		return 0
	}
	return c.parent
}
