package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/manifest"
)

// FuzzClosure plays a registry that pushes blobs and manifests of any shape, in
// any order, and links them. A link is taken or refused as invalid, nothing
// else; a refused one leaves nothing; what follows from those taken is the same
// after the index was opened again.
//
// The input is a program, a byte an instruction, its operands after it.
func FuzzClosure(f *testing.F) {
	g := &ground{tb: f}
	f.Cleanup(g.close)
	for _, program := range examplePrograms {
		f.Add([]byte(program))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 512 {
			return // what a long program finds, a short one does, in a fraction of the time
		}
		g.tb = t
		p := g.begin()
		defer p.end()
		for len(program) > 0 {
			program = p.step(program)
		}
		p.checkReopened()
	})
}

// The instructions. An operand that names a thing is an index into the things
// made so far, modulo their number.
const (
	opBlob     = 'b' // a layer, stored
	opLost     = 'x' // a blob that is never stored
	opRaw      = 'r' // LENGTH and so many bytes, stored
	opImage    = 'i' // FLAGS, COUNT and so many things: config, layers
	opIndex    = 'n' // FLAGS, COUNT and so many things
	opPush     = 'p' // THING enters the release as a blob
	opLink     = 'l' // THING is linked as a manifest
	opLayer    = 'y' // THING is linked as a layer
	opUnlink   = 'u' // THING's manifest link is removed
	opHide     = 'h' // THING is removed as a blob
	opDeliver  = 'd' // THING is stored after all, and enters the release
	flagUnsaid = 1   // no mediaType
	flagURLs   = 2   // foreign layers
	flagLater  = 4   // the manifest itself is not stored yet
	flagDocker = 8   // Docker's types
	flagBlobs  = 16  // an index that lists its children as blobs
	flagData   = 32  // content stands in the descriptor
)

var examplePrograms = []string{
	"bbi\x00\x02\x00\x01l\x02",                       // an image
	"bbi\x00\x02\x00\x01p\x02n\x00\x01\x02l\x03",     // an index of one
	"bbi\x00\x02\x00\x01n\x00\x01\x02l\x03",          // whose child was not pushed
	"bbi\x04\x02\x00\x01n\x00\x01\x02l\x03d\x02",     // or came later
	"bxi\x00\x02\x00\x01l\x02",                       // a layer is missing
	"bxi\x02\x02\x00\x01l\x02",                       // a foreign layer is missing
	"bxi\x02\x02\x00\x01l\x02d\x01",                  // and comes
	"bbi\x00\x02\x00\x01l\x02h\x01u\x02",             // and goes
	"r\x02{}l\x00",                                   // no manifest
	"bn\x00\x01\x00l\x01",                            // an index of a blob
	"bn\x10\x01\x00l\x01",                            // that says so
	"r\x0e{\"layers\":[]}\x01l\x00",                  // an image of nothing
	"bbi\x00\x02\x00\x01l\x02l\x02l\x02",             // again and again
	"bbi\x00\x02\x00\x01p\x02" + nested(7) + "l\x09", // the deepest that is taken
	"bbi\x00\x02\x00\x01p\x02" + nested(9) + "l\x0b", // and deeper
	"bi\x00\x00l\x01",                                // no config
	"bi\x00\x02\x00\x00l\x01",                        // one blob, in both roles
	"bi\x20\x02\x00\x00l\x01",                        // content in the descriptor
}

// nested wraps thing 2 into n indexes, each of which is pushed.
func nested(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "n\x00\x01%cp%c", 2+i, 3+i)
	}
	return b.String()
}

// A ground is a store on which programs run one after the other, each in a
// release of its own. It is made anew now and then, or it would grow for ever.
type ground struct {
	tb    testing.TB
	dir   string
	blobs *cas.Store
	db    *index.DB
	runs  int
}

func (g *ground) begin() *program {
	g.tb.Helper()
	if g.runs%1000 == 0 {
		g.close()
		dir, err := os.MkdirTemp("", "regfs-fuzz-")
		g.must(err)
		g.dir = dir
		g.blobs, err = cas.Open(dir)
		g.must(err)
		g.openIndex()
	}
	g.runs++
	name := fmt.Sprintf("r%d", g.runs)
	g.must(g.db.Create(name))
	p := &program{ground: g, name: name}
	p.open()
	return p
}

func (g *ground) openIndex() {
	db, err := index.Open(filepath.Join(g.dir, "index"), slog.New(slog.DiscardHandler))
	g.must(err)
	g.db = db
}

func (g *ground) close() {
	if g.dir != "" {
		g.must(errors.Join(g.db.Close(), g.blobs.Close(), os.RemoveAll(g.dir)))
	}
}

func (g *ground) must(err error) {
	g.tb.Helper()
	if err != nil {
		g.tb.Fatal(err)
	}
}

// A thing is a blob or a manifest that a program has made.
type thing struct {
	content []byte
	digest  digest.Digest
	stored  bool
}

type program struct {
	*ground
	name   string
	in     Intake
	things []thing
}

const repo = "library/fuzz"

func (p *program) open() {
	r, err := p.db.Open(p.name)
	p.must(err)
	p.in = Intake{
		Blobs: p.blobs, Pins: p.blobs.NewPins("test"), Index: p.db, Release: r, Log: slog.New(slog.DiscardHandler),
		Finds: func(d digest.Digest) error {
			if r.Blob(d).State == index.Hidden {
				return fs.ErrNotExist
			}
			_, err := p.blobs.Stat(d)
			return err
		},
	}
}

func (p *program) end() { p.in.Release.Close() }

// step does one instruction, and returns the rest of the program.
func (p *program) step(rest []byte) []byte {
	op, rest := rest[0], rest[1:]
	switch op {
	case opBlob:
		p.add([]byte("blob"), true)
	case opLost:
		p.add([]byte("lost"), false)
	case opRaw:
		n := int(operand(&rest))
		n = min(n, len(rest))
		p.add(rest[:n], true)
		return rest[n:]
	case opImage:
		flags := operand(&rest)
		p.add(p.image(flags, p.list(&rest)), flags&flagLater == 0)
	case opIndex:
		flags := operand(&rest)
		p.add(p.index(flags, p.list(&rest)), flags&flagLater == 0)
	default:
		if t, ok := p.operand(&rest); ok {
			p.do(op, t)
		}
	}
	return rest
}

func (p *program) do(op byte, t *thing) {
	switch op {
	case opPush:
		p.must(p.in.Blob(t.digest))
	case opLayer:
		p.must(p.in.Link(layout.Path{Kind: layout.LayerLink, Repository: repo, Digest: t.digest}, t.digest))
	case opLink:
		p.link(t.digest)
	case opUnlink:
		p.must(p.in.Release.UnlinkManifest(repo, t.digest))
	case opHide:
		p.must(p.in.Release.HideBlob(t.digest))
	case opDeliver:
		p.store(t)
		p.must(p.in.Blob(t.digest))
	}
}

// link links a manifest, and holds what comes of it against what is promised.
func (p *program) link(d digest.Digest) {
	before := p.view()
	err := p.in.Link(layout.Path{Kind: layout.RevisionLink, Repository: repo, Digest: d}, d)
	if err != nil {
		if !errors.Is(err, syscall.EINVAL) || len(err.Error()) > 1000 {
			p.tb.Fatalf("link: %v", err)
		}
		if after := p.view(); !reflect.DeepEqual(before, after) {
			p.tb.Fatalf("refused, and yet\n%v\n became\n%v", before, after)
		}
		return
	}
	p.checkManifest(d)
	needs := p.in.Release.Needs(repo, d)
	if len(needs) == 0 || needs[0].Digest != d {
		p.tb.Fatalf("%s needs %v", d, needs)
	}
	seen := make(map[digest.Digest]bool)
	for _, need := range needs {
		if seen[need.Digest] || need.Digest.Validate() != nil || need.Absent && !need.Optional {
			p.tb.Fatalf("%s needs %+v", d, need)
		}
		seen[need.Digest] = true
		if state := p.in.Release.Blob(need.Digest).State; !need.Absent && state != index.Needed {
			p.tb.Fatalf("%s needs %s, whose state is %d", d, need.Digest, state)
		}
	}
}

// checkManifest: what is linked as a manifest is one, if it is there.
func (p *program) checkManifest(d digest.Digest) {
	for _, t := range p.things {
		if t.digest != d || !t.stored {
			continue
		}
		if _, err := manifest.Parse(t.content); err != nil {
			p.tb.Fatalf("%s was linked, and %v", d, err)
		}
	}
}

// checkReopened opens the release anew. What it says must be the same.
func (p *program) checkReopened() {
	before := p.view()
	p.must(p.in.Release.Sync())
	p.in.Release.Close()
	p.open()
	if after := p.view(); !reflect.DeepEqual(before, after) {
		p.tb.Fatalf("reopened\n%v\n became\n%v", before, after)
	}
}

// view is all that a listing could show.
func (p *program) view() map[string]any {
	r := p.in.Release
	view := map[string]any{"repositories": fmt.Sprint(r.Repositories())}
	for _, l := range r.Layers(repo) {
		view["layer "+l.Digest.String()] = l.State
	}
	for _, rev := range r.Revisions(repo) {
		needs := make(map[digest.Digest]string)
		for _, need := range r.Needs(repo, rev.Digest) {
			needs[need.Digest] = fmt.Sprint(need.Manifest, need.Absent, need.Optional)
		}
		unknown := make(map[digest.Digest]bool)
		for _, d := range r.Unknown(repo, rev.Digest) {
			unknown[d] = true
		}
		view["revision "+rev.Digest.String()] = fmt.Sprint(needs, unknown)
	}
	for _, prefix := range r.BlobPrefixes(digest.SHA256) {
		for _, b := range r.Blobs(digest.SHA256, prefix) {
			view["blob "+b.Digest.String()] = b.State
		}
	}
	return view
}

// add makes a thing. Blanks before its content make it this program's own: what
// an earlier one has stored must not be found.
func (p *program) add(content []byte, stored bool) {
	salt := strings.NewReplacer("0", " ", "1", "\t").Replace(fmt.Sprintf("%016b%08b", p.runs, len(p.things)))
	t := thing{content: append([]byte(salt), content...)}
	t.digest = digest.FromBytes(t.content)
	p.things = append(p.things, t)
	if stored {
		p.store(&p.things[len(p.things)-1])
	}
}

func (p *program) store(t *thing) {
	if t.stored {
		return
	}
	t.stored = true
	w, err := p.blobs.NewWriter()
	p.must(err)
	defer w.Close()
	_, err = w.File().Write(t.content)
	p.must(err)
	_, err = w.Commit(t.digest)
	p.must(err)
}

func operand(rest *[]byte) byte {
	if len(*rest) == 0 {
		return 0
	}
	b := (*rest)[0]
	*rest = (*rest)[1:]
	return b
}

func (p *program) operand(rest *[]byte) (*thing, bool) {
	if len(p.things) == 0 {
		return nil, false
	}
	return &p.things[int(operand(rest))%len(p.things)], true
}

func (p *program) list(rest *[]byte) []*thing {
	n := int(operand(rest))
	var all []*thing
	for range min(n, len(*rest)) {
		if t, ok := p.operand(rest); ok {
			all = append(all, t)
		}
	}
	return all
}

func (p *program) image(flags byte, list []*thing) []byte {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	m.SchemaVersion = 2
	if flags&flagDocker != 0 {
		m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
	}
	if flags&flagUnsaid != 0 {
		m.MediaType = ""
	}
	for i, t := range list {
		d := describe(t, flags, v1.MediaTypeImageLayerGzip)
		if i == 0 {
			d.MediaType = v1.MediaTypeImageConfig
			m.Config = d
			continue
		}
		m.Layers = append(m.Layers, d)
	}
	return p.json(m)
}

func (p *program) index(flags byte, list []*thing) []byte {
	m := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	m.SchemaVersion = 2
	child := v1.MediaTypeImageManifest
	if flags&flagDocker != 0 {
		m.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
		child = "application/vnd.docker.distribution.manifest.v2+json"
	}
	if flags&flagUnsaid != 0 {
		m.MediaType = ""
	}
	if flags&flagBlobs != 0 {
		child = v1.MediaTypeImageLayer
	}
	for _, t := range list {
		m.Manifests = append(m.Manifests, describe(t, flags, child))
	}
	return p.json(m)
}

func describe(t *thing, flags byte, mediaType string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: t.digest, Size: int64(len(t.content))}
	if flags&flagURLs != 0 {
		d.URLs = []string{"https://user:secret@127.0.0.1/x"}
	}
	if flags&flagData != 0 {
		d.Data = t.content
	}
	return d
}

func (p *program) json(v any) []byte {
	text, err := json.Marshal(v)
	p.must(err)
	return text
}
