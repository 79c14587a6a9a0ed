package cas

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A blob is proven again when it is read if it is small, or if its size is not
// what somebody states. Manifests and configs are small, and an image with a
// rotten one is wrong without anybody noticing; a layer's client at least
// compares digests.
const maxProven = 1 << 20

// A SizeError says that a blob has another size than those state who need it,
// and is damaged.
type SizeError struct {
	CorruptError
	Size, Stated int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%d bytes in the store, %d by the manifest: %v", e.Size, e.Stated, &e.CorruptError)
}

func (e *SizeError) Unwrap() error { return &e.CorruptError }

// OpenProven opens a blob for reading like [Store.Open], and reads it first if
// it is small, or if its size is not the one that is stated (0 for none). One
// that is not what its digest says is a [*CorruptError]. A file is read once,
// as long as it stays the same: damage that comes later goes unnoticed.
func (s *Store) OpenProven(d digest.Digest, stated int64) (*os.File, error) {
	file, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	if err := s.prove(d, file, stated); err != nil {
		file.Close()
		return nil, failure("open blob", d.String(), err)
	}
	return file, nil
}

func (s *Store) prove(d digest.Digest, file *os.File, stated int64) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Size > maxProven && (stated <= 0 || stated == stat.Size) {
		return nil
	}
	is := proof{d, stat.Ino, stat.Size, stat.Mtim}
	err, ok := s.proofs.get(is)
	if !ok {
		if _, err = verify(file, d); errors.As(err, new(*CorruptError)) || err == nil {
			s.proofs.put(is, err)
		}
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) && stated > 0 && stated != stat.Size {
		return &SizeError{*corrupt, stat.Size, stated}
	}
	return err
}

// A proof is a file that was read.
type proof struct {
	digest digest.Digest
	ino    uint64
	size   int64
	mtime  unix.Timespec
}

// proofs are what the files were that were read.
type proofs struct {
	mu  sync.Mutex
	all map[proof]error // nil: it is what its digest says
}

// maxProofs bounds the memory: some 20 MiB. Then all is proven anew.
const maxProofs = 100_000

func (p *proofs) get(is proof) (error, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err, ok := p.all[is]
	return err, ok
}

func (p *proofs) put(is proof, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil || len(p.all) >= maxProofs {
		p.all = make(map[proof]error)
	}
	p.all[is] = err
}
