package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Bounds on what a tar may make us keep.
const (
	maxMembers = 2_000_000 // a registry of half a million layers; some 300 bytes each
	maxName    = 4096      // bytes, as for the kernel
	maxNames   = 1 << 30   // bytes of all names
	maxDirs    = 4_000_000
	maxKept    = 256 << 20 // of manifests and links of a compressed tar
	maxLinks   = 8         // from one member to another
	maxWindow  = 1 << 29   // of zstd: --long=29
)

// archive is a tar. It is read through once for its names. If it is not
// compressed, its members are then read where they lie; else it is read through
// again for each visit, and small texts are kept from the first time.
type archive struct {
	f          *os.File
	length     int64
	decompress func(io.Reader) (io.Reader, func(), error) // nil if it is not compressed
	ended      func() error                               // why nothing more is to be read
	progress   func(n, of int64)

	members map[string]*member // by clean name
	dirs    map[string]map[string]kind
	names   int   // bytes, of what is in members and dirs
	kept    int64 // bytes
	bad     []fault
}

var _ files = (*archive)(nil)

// A member is what a tar says of one name.
type member struct {
	number int   // of the entry in the tar
	offset int64 // of the content, if the tar is not compressed
	size   int64
	link   string // another member's name: a hard link, or a symbolic one
	start  []byte // the first bytes of the content, if the tar is compressed
	text   []byte // kept content; nil if none was
	err    error  // why it cannot be taken
}

var magicGzip, magicZstd = []byte{0x1f, 0x8b}, []byte{0x28, 0xb5, 0x2f, 0xfd}

func openArchive(f *os.File, length int64, ended func() error, progress func(n, of int64)) (*archive, error) {
	a := &archive{f: f, length: length, ended: ended, progress: progress,
		members: make(map[string]*member), dirs: map[string]map[string]kind{".": {}}}
	var magic [6]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil && err != io.EOF {
		return nil, unwrap(err)
	}
	switch {
	case bytes.HasPrefix(magic[:], magicGzip):
		a.decompress = gunzip
	case bytes.HasPrefix(magic[:], magicZstd):
		a.decompress = unzstd
	case bytes.HasPrefix(magic[:], []byte("BZh")), bytes.HasPrefix(magic[:], []byte("\xfd7zXZ")):
		return nil, fmt.Errorf("it is compressed by bzip2 or xz; decompress it first: %w", ErrFormat)
	}
	if err := a.scan(); err != nil {
		return nil, err
	}
	return a, nil
}

func gunzip(r io.Reader) (io.Reader, func(), error) {
	z, err := gzip.NewReader(r)
	return z, func() {}, err
}

func unzstd(r io.Reader) (io.Reader, func(), error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// stream begins to read the tar, from its beginning.
func (a *archive) stream() (io.Reader, func(), error) {
	if _, err := a.f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, unwrap(err)
	}
	if a.decompress == nil {
		return a.f, func() {}, nil // as a Seeker, so that content is passed over
	}
	c := &counter{r: a.f, ended: a.ended}
	if a.progress != nil {
		c.tell = func(n int64) { a.progress(n, a.length) }
	}
	return a.decompress(bufio.NewReaderSize(c, 1<<20))
}

// A counter counts what was read, and tells it. It reads on as long as it may.
type counter struct {
	r     io.Reader
	n     int64
	ended func() error
	tell  func(n int64) // may be nil
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ended(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.tell != nil {
		c.tell(c.n)
	}
	return n, err
}

// scan reads all headers. A tar that ends too early has what was read until
// then; one that does not even begin is none.
func (a *archive) scan() error {
	r, done, err := a.stream()
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrFormat)
	}
	defer done()
	at := func() int64 { n, _ := a.f.Seek(0, io.SeekCurrent); return n }
	if a.decompress != nil {
		plain := &counter{r: r, ended: a.ended}
		r, at = plain, func() int64 { return plain.n }
	}
	t := tar.NewReader(r)
	end := int64(0) // of what was read, in blocks
	for number := 0; ; number++ {
		h, err := t.Next()
		if ended := a.ended(); ended != nil {
			return ended
		}
		if err == io.EOF {
			a.checkEnd(at(), end)
			return nil
		}
		if err != nil && number == 0 {
			return fmt.Errorf("not a tar: %w", ErrFormat)
		}
		if err != nil {
			a.fault("archive", fmt.Errorf("it is damaged or cut short after %d members: %w", number, err))
			return nil
		}
		if number >= maxMembers || a.names > maxNames || len(a.dirs) > maxDirs {
			return fmt.Errorf("more than %d members, %d directories or %d bytes of names: %w", maxMembers, maxDirs, maxNames, ErrFormat)
		}
		end = (at() + h.Size + block - 1) / block * block
		if err := a.member(h, number, t); err != nil {
			a.fault("archive", fmt.Errorf("it is damaged or cut short after %d members: %w", number, err))
			return nil
		}
	}
}

// block is what a tar consists of. It ends with one of zeros, or more.
const block = 512

// checkEnd looks for the end that a tar must have: cut between two members it
// would seem whole. Compression does not tell: a file may be a row of
// compressed pieces, and be cut between two of these.
func (a *archive) checkEnd(at, end int64) {
	if at < end+block && a.length > 0 {
		a.fault("archive", errors.New("it is cut short: its end is missing"))
	}
}

func (a *archive) fault(name string, err error) { a.bad = append(a.bad, fault{name, err}) }

func (a *archive) list(dir string) ([]entry, error) {
	names, ok := a.dirs[path.Clean(dir)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	entries := make([]entry, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		entries = append(entries, entry{name, names[name]})
	}
	return entries, nil
}

// find follows the links of a name to the member that has the content.
func (a *archive) find(name string) (*member, error) {
	for range maxLinks {
		m, ok := a.members[path.Clean(name)]
		switch {
		case !ok:
			return nil, fs.ErrNotExist
		case m.err != nil:
			return nil, m.err
		case m.link == "":
			return m, nil
		}
		name = m.link
	}
	return nil, errors.New("links that do not end")
}

func (a *archive) size(name string) (int64, error) {
	m, err := a.find(name)
	if err != nil {
		return 0, err
	}
	return m.size, nil
}

func (a *archive) read(name string, limit int64) (data []byte, err error) {
	m, err := a.find(name)
	switch {
	case err != nil:
		return nil, err
	case m.size > limit:
		return nil, fmt.Errorf("more than %d bytes", limit)
	case m.text != nil:
		return m.text, nil
	case a.decompress == nil:
		return readAll(io.NewSectionReader(a.f, m.offset, m.size), limit)
	}
	err = a.visit(context.Background(), []string{name}, 1, func(_ string, c *content) (err error) {
		if c.err != nil {
			return c.err
		}
		data, err = readAll(c.r, limit)
		return err
	})
	return data, err
}

func (a *archive) head(name string) ([]byte, error) {
	m, err := a.find(name)
	if err != nil || a.decompress != nil {
		return m.begins(), err
	}
	return io.ReadAll(io.NewSectionReader(a.f, m.offset, min(m.size, maxHead)))
}

func (m *member) begins() []byte {
	if m == nil {
		return nil
	}
	return m.start
}

func (a *archive) visit(ctx context.Context, names []string, workers int, f func(string, *content) error) error {
	if a.decompress != nil {
		return a.visitStream(ctx, names, f)
	}
	return each(ctx, names, workers, func(name string) error {
		m, err := a.find(name)
		if err != nil {
			return f(name, &content{err: err})
		}
		return f(name, &content{file: a.f, offset: m.offset, size: m.size})
	})
}

// visitStream reads a compressed tar through, up to the last of the members.
func (a *archive) visitStream(ctx context.Context, names []string, f func(string, *content) error) error {
	wanted := make(map[int][]string)
	for _, name := range names {
		m, err := a.find(name)
		if err != nil {
			if err := f(name, &content{err: err}); err != nil {
				return err
			}
			continue
		}
		wanted[m.number] = append(wanted[m.number], name)
	}
	r, done, err := a.stream()
	if err != nil {
		return err
	}
	defer done()
	t := tar.NewReader(r)
	for number := 0; len(wanted) > 0; number++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err != nil {
			break
		}
		for i, name := range wanted[number] {
			c := &content{r: t, size: h.Size}
			if i > 0 {
				c = &content{err: errors.New("a member is read once only")}
			}
			if err := f(name, c); err != nil {
				return err
			}
		}
		delete(wanted, number)
	}
	for _, left := range wanted {
		for _, name := range left {
			if err := f(name, &content{err: errShort}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *archive) faults() []fault { return a.bad }

func (a *archive) close() error { return a.f.Close() }
