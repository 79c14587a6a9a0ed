package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// A Fill writes a blob's content to an empty file. Where the file system can,
// the file shares its blocks with the source.
type Fill func(*os.File) error

// ErrContent is wrapped by errors of a blob that is not what it should be, or
// cannot be read.
var ErrContent = errors.New("bad content")

// A Taker receives blobs. Take writes one somewhere, and Commit checks and
// stores what Take has written. Both are called from many goroutines. An error
// that wraps [ErrContent] concerns this blob in this place, any other ends the
// copy.
type Taker interface {
	Take(digest.Digest, Fill) error
	Commit(digest.Digest) error
}

// Copy hands out blobs, several at a time. If one fails with [ErrContent], the
// other places where the source may have it are tried. Copy returns why blobs
// could not be had at all.
func (s *Source) Copy(ctx context.Context, want []digest.Digest, workers int, to Taker) (map[digest.Digest]error, error) {
	failed := make(map[digest.Digest]error)
	for attempt := 0; len(want) > 0; attempt++ {
		r := &round{Source: s, to: to, slots: make(chan struct{}, workers),
			queue: make(map[string][]digest.Digest), failed: make(map[digest.Digest]error)}
		if err := r.run(ctx, want, attempt, workers); err != nil {
			return nil, err
		}
		want = nil
		for d, err := range r.failed {
			if attempt+1 < len(s.places(d)) {
				want = append(want, d)
			} else {
				failed[d] = err
			}
		}
	}
	return failed, nil
}

// A round takes each blob from one place.
type round struct {
	*Source
	to      Taker
	slots   chan struct{} // as many commits at a time
	commits sync.WaitGroup

	mu     sync.Mutex                 // guards what follows
	queue  map[string][]digest.Digest // by file
	failed map[digest.Digest]error
	ended  error
}

func (r *round) run(ctx context.Context, want []digest.Digest, attempt, workers int) error {
	var names []string
	for _, d := range want {
		all := r.places(d)
		if attempt >= len(all) {
			r.failed[d] = fmt.Errorf("it is not in the source: %w", ErrContent)
			continue
		}
		if p := all[attempt]; p.made == nil {
			names = append(names, p.name)
			r.queue[p.name] = append(r.queue[p.name], d)
		} else if err := r.take(d, func(f *os.File) error { _, err := f.Write(p.made); return err }); err != nil {
			return err
		}
	}
	err := r.files.visit(ctx, names, workers, func(name string, c *content) error {
		return r.take(r.next(name), func(f *os.File) error { return fillError(c.copyTo(f)) })
	})
	r.commits.Wait()
	return errors.Join(err, r.ended)
}

// next returns the digest for which a file is visited this time.
func (r *round) next(name string) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.queue[name][0]
	r.queue[name] = r.queue[name][1:]
	return d
}

// take takes one blob, and lets it be stored while the next one is taken.
func (r *round) take(d digest.Digest, fill Fill) error {
	if err := r.to.Take(d, fill); err != nil {
		return r.judge(d, err)
	}
	r.slots <- struct{}{}
	r.commits.Go(func() {
		defer func() { <-r.slots }()
		if err := r.judge(d, r.to.Commit(d)); err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ended = err
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// judge notes an error that concerns one blob only.
func (r *round) judge(d digest.Digest, err error) error {
	if !errors.Is(err, ErrContent) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[d] = err
	return nil
}

// Shares says whether a file shares its blocks with a blob of the source, if
// both are on a file system that can.
func (s *Source) Shares(ctx context.Context, d digest.Digest, to *os.File) (shares bool) {
	all := s.places(d)
	if len(all) == 0 || all[0].made != nil {
		return false
	}
	s.files.visit(ctx, []string{all[0].name}, 1, func(_ string, c *content) error {
		shares = c.err == nil && c.file != nil && c.offset%cloneUnit == 0 && c.size > 0 && c.clone(to)
		return nil
	})
	return shares
}

// fillError tells what is wrong with the source from what is wrong with the
// disk that is written to.
func fillError(err error) error {
	for _, ours := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS, context.Canceled} {
		if errors.Is(err, ours) {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", plain(err), ErrContent)
	}
	return nil
}
