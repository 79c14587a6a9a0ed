package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
	"github.com/regfs/regfs/seal"
)

// An Opener has blobs: a store.
type Opener interface {
	Open(digest.Digest) (*os.File, error)
}

// Release checks that a store has all that the document of a release names, down
// to the last layer, with all processors. Each blob is read, once.
func Release(ctx context.Context, document []byte, blobs Opener, o Options) (*Report, error) {
	names, err := seal.Decode(document)
	if err != nil {
		return nil, err
	}
	r := releaseCheck{
		ctx: ctx, blobs: blobs, o: o, report: Report{Problems: []Problem{}, Release: digest.FromBytes(document)},
		needs: make(map[digest.Digest]*need), manifests: make(map[digest.Digest]*manifest.Manifest),
	}
	for _, n := range names {
		r.follow(n)
	}
	layers := make(chan digest.Digest, 64)
	go func() {
		defer close(layers)
		for _, d := range slices.Sorted(maps.Keys(r.needs)) {
			if !r.needs[d].manifest {
				layers <- d
			}
		}
	}()
	eachFile(layers, func(d digest.Digest) { r.read(d, io.Discard) })
	if err := done(ctx); err != nil {
		return nil, err
	}
	r.blame()
	return &r.report, nil
}

// A releaseCheck follows names to blobs.
type releaseCheck struct {
	ctx       context.Context
	blobs     Opener
	o         Options
	needs     map[digest.Digest]*need
	manifests map[digest.Digest]*manifest.Manifest

	mu     sync.Mutex // guards what follows, and what is wrong with needs
	report Report
}

// A need is a blob, and who needs it.
type need struct {
	manifest bool
	by       []string
	wrong    string // what is wrong with it
}

// follow enters all that a name needs.
func (r *releaseCheck) follow(n seal.Name) {
	if n.Tag != "" {
		r.report.Tags++
	}
	absent := make(map[digest.Digest]bool)
	for _, d := range n.Absent {
		absent[d] = true
	}
	seen := make(map[digest.Digest]bool)
	var visit func(ref manifest.Ref, depth int)
	visit = func(ref manifest.Ref, depth int) {
		if seen[ref.Digest] || ref.Optional && absent[ref.Digest] || depth > maxDepth || done(r.ctx) != nil {
			return
		}
		seen[ref.Digest] = true
		m := r.enter(n, ref)
		if depth == 0 && m != nil && m.MediaType != n.MediaType {
			r.report.problem(n.String(), "the manifest is of the type %s, and by the document of %s", m.MediaType, n.MediaType)
		}
		if m == nil {
			return
		}
		for _, child := range m.Refs {
			visit(child, depth+1)
		}
	}
	visit(manifest.Ref{Digest: n.Digest, Role: manifest.Child}, 0)
}

// enter notes that a blob is needed, and reads it if it is a manifest.
func (r *releaseCheck) enter(n seal.Name, ref manifest.Ref) *manifest.Manifest {
	known, ok := r.needs[ref.Digest]
	if !ok {
		known = new(need)
		r.needs[ref.Digest] = known
	}
	known.by = append(known.by, n.String())
	if ref.Role != manifest.Child {
		return nil
	}
	if known.manifest {
		return r.manifests[ref.Digest]
	}
	known.manifest = true
	var text bytes.Buffer
	if r.read(ref.Digest, &capped{&text, manifest.MaxSize}) {
		m, err := manifest.Parse(text.Bytes())
		if err != nil && ref.Digest == n.Digest {
			known.wrong = "linked as a manifest, and none"
		}
		r.manifests[ref.Digest] = m // nil for what an index lists and is none
		r.report.Manifests++
	}
	return r.manifests[ref.Digest]
}

// capped takes so many bytes, and lets the others go.
type capped struct {
	*bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.Buffer.Write(p[:n])
	return len(p), nil
}

// read reads a blob, and says whether it is what its digest says.
func (r *releaseCheck) read(d digest.Digest, into io.Writer) bool {
	wrong, size := r.compare(d, into)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.needs[d].wrong = wrong
	if wrong == "" {
		r.report.Blobs++
		r.report.Bytes += size
	}
	return wrong == ""
}

func (r *releaseCheck) compare(d digest.Digest, into io.Writer) (wrong string, size int64) {
	if done(r.ctx) != nil {
		return "", 0
	}
	f, err := r.blobs.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return "not in the store", 0
	}
	if err != nil {
		return err.Error(), 0
	}
	defer f.Close()
	hash := d.Algorithm().Hash()
	size, err = io.Copy(io.MultiWriter(hash, into), &counted{r.ctx, f, r.o})
	got := digest.NewDigest(d.Algorithm(), hash)
	switch {
	case done(r.ctx) != nil:
		return "", 0
	case err != nil:
		return err.Error(), size
	case got != d:
		return "damaged: content has digest " + got.String(), size
	}
	return "", size
}

// blame names the images that need what is not well.
func (r *releaseCheck) blame() {
	for d, n := range r.needs {
		if n.wrong != "" {
			r.report.problem("blob "+d.String(), "%s, needed by %s", n.wrong, few(n.by))
		}
	}
	r.report.sort()
}

func few(images []string) string {
	const most = 5
	images = slices.Compact(images)
	if more := len(images) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(images[:most], ", "), more)
	}
	return strings.Join(images, ", ")
}
