package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/cas"
)

// Options say how a scan is done.
type Options struct {
	// Rate bounds the bytes that are read in a second; 0 for no bound.
	Rate int64
	// Progress is called with the bytes of blobs that are read, by many
	// goroutines, and first with those that an interrupted scan has read.
	Progress func(bytes int64)
}

// A Bad blob is one whose content is not what its digest says, or cannot be
// read.
type Bad struct {
	Digest  digest.Digest `json:"digest"`
	Problem string        `json:"problem"`
	// Unreadable says that the content is unknown, since the disk did not give it.
	Unreadable bool `json:"unreadable,omitempty"`
}

// A Result is what a scan has read and found, before an interruption, too.
type Result struct {
	Blobs int
	Bytes int64
	Bad   []Bad
}

// Digests are those of the bad blobs.
func (r Result) Digests() []digest.Digest {
	digests := make([]digest.Digest, len(r.Bad))
	for i, b := range r.Bad {
		digests[i] = b.Digest
	}
	return digests
}

// Measure returns how many blobs the store in dir has, and their bytes.
func Measure(ctx context.Context, dir string) (blobs int, bytes int64, err error) {
	store, err := cas.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer store.Close()
	for info, err := range store.All() {
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		if err == nil {
			blobs, bytes = blobs+1, bytes+info.Size
		}
	}
	return blobs, bytes, nil
}

// Scan reads every blob of the store in dir, on all processors, and says which
// are damaged. It needs no server, and hinders none. A scan that was
// interrupted goes on where it was; what it had found is looked at again.
// Blobs that come meanwhile may be read or not.
func Scan(ctx context.Context, dir string, o Options) (Result, error) {
	store, err := cas.Open(dir)
	if err != nil {
		return Result{}, err
	}
	defer store.Close()
	state, err := openState(dir)
	if err != nil {
		return Result{}, err
	}
	defer state.close()
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	s := &scan{store: store, state: state, options: o, limit: &limiter{rate: o.Rate}}
	return s.run(ctx)
}

type scan struct {
	store   *cas.Store
	state   *state
	options Options
	limit   *limiter
}

// run reads the blobs in the order of their digests, several at a time.
func (s *scan) run(ctx context.Context) (Result, error) {
	s.options.Progress(s.state.Bytes)
	for _, bad := range s.state.takeBad() {
		s.look(ctx, bad.Digest, nil)
	}
	jobs := make(chan *job)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			buffer := make([]byte, 1<<20)
			for j := range jobs {
				if s.look(ctx, j.Digest, buffer) {
					s.state.done(j)
				}
			}
		})
	}
	err := s.feed(ctx, jobs)
	close(jobs)
	workers.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return Result{s.state.Blobs, s.state.Bytes, s.state.Bad}, errors.Join(err, s.state.finish(err == nil))
}

func (s *scan) feed(ctx context.Context, jobs chan<- *job) error {
	for info, err := range s.store.After(s.state.After) {
		if err != nil {
			s.unlisted(info, err)
			continue
		}
		select {
		case jobs <- s.state.begin(info):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// unlisted: a directory that cannot be read is found by Check, too.
func (s *scan) unlisted(info cas.Info, err error) {
	if info.Digest != "" {
		s.state.bad(Bad{info.Digest, reason(err), true})
	}
}

// look reads a blob, and says whether it came to an end. One that is not what
// it should be is read twice: it may have been replaced meanwhile.
func (s *scan) look(ctx context.Context, d digest.Digest, buffer []byte) bool {
	if buffer == nil {
		buffer = make([]byte, 1<<20)
	}
	bad, whole := s.read(ctx, d, buffer, s.options.Progress)
	if !whole && ctx.Err() == nil {
		bad, whole = s.read(ctx, d, buffer, func(int64) {})
	}
	if ctx.Err() != nil {
		return false
	}
	if !whole {
		s.state.bad(bad)
	}
	return true
}

func (s *scan) read(ctx context.Context, d digest.Digest, buffer []byte, progress func(int64)) (bad Bad, whole bool) {
	got, err := s.sum(ctx, d, buffer, progress)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && got == d:
		return bad, true
	case err != nil:
		return Bad{d, "cannot be read: " + reason(err), true}, false
	}
	return Bad{d, "damaged: its content has the digest " + got.String(), false}, false
}

func (s *scan) sum(ctx context.Context, d digest.Digest, buffer []byte, progress func(int64)) (digest.Digest, error) {
	file, err := s.store.Open(d)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if !cached(file) {
		defer unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	hash := d.Algorithm().Hash()
	for {
		n, err := file.Read(buffer)
		hash.Write(buffer[:n])
		progress(int64(n))
		if err == io.EOF {
			return digest.NewDigest(d.Algorithm(), hash), nil
		}
		if err == nil {
			err = s.limit.wait(ctx, n)
		}
		if err != nil {
			return "", err
		}
	}
}

// cached says whether something of a file is in the page cache, and so is left
// there. A kernel that cannot tell (before Linux 6.5) keeps all that is read.
func cached(file *os.File) bool {
	var stat unix.Cachestat_t
	err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{}, &stat, 0)
	return err != nil || stat.Cache > 0
}

func reason(err error) string {
	if inner := new(fs.PathError); errors.As(err, &inner) {
		err = inner.Err
	}
	return err.Error()
}

// A limiter lets so many bytes pass in a second.
type limiter struct {
	rate int64
	mu   sync.Mutex
	next time.Time // when the next bytes may pass
}

func (l *limiter) wait(ctx context.Context, n int) error {
	if l.rate <= 0 {
		return ctx.Err()
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	pause := l.next.Sub(now)
	l.mu.Unlock()
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errScanning = fmt.Errorf("another \"regfs fsck --data\" reads the store")
