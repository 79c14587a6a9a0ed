package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// A marking is a mark in the making.
type marking struct {
	mark     *Mark
	ctx      context.Context
	txn      *badger.Txn
	leaveOut func(release string) bool

	leftOut map[string]bool
	numbers map[string]int32 // of the releases that count
	roots   [][]root         // by release
	claims  []claim
	visits  int32
	stack   []int32
}

// A root is a linked manifest.
type root struct {
	digest int32
	absent []int32
}

func newMarking(ctx context.Context, leaveOut func(string) bool) *marking {
	return &marking{
		mark: &Mark{
			digests: newNumbers(), repos: newNumbers(),
			claims: make(map[int32][]claim), pairs: make(map[int32][]Pair),
		},
		ctx: ctx, leaveOut: leaveOut,
		leftOut: make(map[string]bool), numbers: make(map[string]int32),
	}
}

func (r *marking) read(txn *badger.Txn) error {
	r.txn = txn
	for _, step := range []func() error{r.releases, r.facts, r.names, r.need, r.keepClaims, r.everLinked} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// scan calls f with each record that begins with prefix. Key and value are only
// good until f returns.
func (r *marking) scan(prefix byte, f func(key, value []byte) error) error {
	n := 0
	return scanIn(r.txn, []byte{prefix}, func(key, value []byte) error {
		if n++; n%1024 == 0 && r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		return f(key, value)
	})
}

// releases lists the releases that count. One that is being removed does not,
// nor one that is being made: who makes it has pinned what it needs.
func (r *marking) releases() error {
	err := r.scan(keyRelease, func(key, value []byte) error {
		info, stands, err := decodeRelease(string(key[1:]), value)
		if err != nil {
			return err
		}
		if stands != there || r.leaveOut(info.Name) {
			r.leftOut[info.Name] = true
			return nil
		}
		r.mark.releases = append(r.mark.releases, markedRelease{Info: info})
		return nil
	})
	slices.SortFunc(r.mark.releases, func(a, b markedRelease) int { return byAge(a.Info, b.Info) })
	for i, release := range r.mark.releases {
		r.numbers[release.Name] = int32(i)
	}
	r.roots = make([][]root, len(r.mark.releases))
	return err
}

// facts reads what all manifests need. JSON takes most of the time, so it is
// for all processors.
func (r *marking) facts() error {
	type fact struct {
		digest, value []byte
		refs          []factsRef
		err           error
	}
	const atOnce = 256
	raw, decoded := make(chan []fact, 4), make(chan []fact, 4)
	var decoders, collector sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		decoders.Go(func() {
			for batch := range raw {
				for i := range batch {
					batch[i].refs, batch[i].err = decodeRefs(batch[i].value)
				}
				decoded <- batch
			}
		})
	}
	var failed error
	collector.Go(func() {
		for batch := range decoded {
			for _, f := range batch {
				if f.err != nil {
					failed = fmt.Errorf("manifest %s: %w", f.digest, f.err)
					continue
				}
				r.fact(r.mark.digests.number(f.digest), f.refs)
			}
		}
	})
	var batch []fact
	err := r.scan(keyFacts, func(key, value []byte) error {
		batch = append(batch, fact{digest: bytes.Clone(key[1:]), value: bytes.Clone(value)})
		if len(batch) == atOnce {
			raw <- batch
			batch = nil
		}
		return nil
	})
	raw <- batch
	close(raw)
	decoders.Wait()
	close(decoded)
	collector.Wait()
	return errors.Join(err, failed)
}

// factsRef is what counts here of a [manifest.Ref].
type factsRef struct {
	Digest   digest.Digest `json:"digest"`
	Role     manifest.Role `json:"role"`
	Optional bool          `json:"optional"`
}

func decodeRefs(facts []byte) ([]factsRef, error) {
	var m struct {
		Refs []factsRef `json:"refs"`
	}
	err := unmarshalFacts(facts, &m)
	return m.Refs, err
}

func (r *marking) fact(d int32, refs []factsRef) {
	all := make([]markedRef, len(refs))
	for i, ref := range refs {
		all[i] = markedRef{
			digest:   r.mark.digests.number([]byte(ref.Digest)),
			child:    ref.Role == manifest.Child,
			optional: ref.Optional,
		}
	}
	b := r.mark.at(d)
	b.known, b.refs = true, all
}

// names reads what the releases say: their linked manifests, and what else
// names a blob.
func (r *marking) names() error {
	var removed map[int32]bool // blobs that the release at hand has removed
	current := int32(-1)
	return r.scan(keyIn, func(key, value []byte) error {
		name, rest, ok := bytes.Cut(key[1:], []byte{0})
		release, counts := r.numbers[string(name)]
		if !counts && r.leftOut[string(name)] {
			return nil
		}
		if !ok || !counts || len(rest) == 0 {
			return fmt.Errorf("index record %q: of a release that there is not", key)
		}
		if release != current {
			current, removed = release, make(map[int32]bool)
		}
		kind, rest := rest[0], rest[1:]
		var err error
		switch kind { // in this order: blobs come before layers
		case keyBlob:
			err = r.blob(release, rest, value, removed)
		case keyLayer:
			err = r.layer(release, rest, value, removed)
		case keyRevision:
			err = r.revision(release, rest, value)
		}
		if err != nil {
			return fmt.Errorf("index record %q: %w", key, err)
		}
		return nil
	})
}

func (r *marking) blob(release int32, d, value []byte, removed map[int32]bool) error {
	m, at, err := decodeMark(value)
	if err != nil {
		return err
	}
	n := r.mark.digests.number(d)
	if m == hidden {
		removed[n] = true
		return nil
	}
	r.claims = append(r.claims, claim{at: at.UnixNano(), digest: n, repo: noRepo, release: release})
	return nil
}

func (r *marking) layer(release int32, rest, value []byte, removed map[int32]bool) error {
	m, at, err := decodeMark(value)
	repo, d, ok := bytes.Cut(rest, []byte{0})
	if err != nil || !ok || m == hidden {
		return err
	}
	n := r.mark.digests.number(d)
	r.claims = append(r.claims, claim{
		at: at.UnixNano(), digest: n, repo: r.mark.repos.number(repo), release: release, void: removed[n],
	})
	return nil
}

func (r *marking) revision(release int32, rest, value []byte) error {
	_, absent, err := decodeTime(value)
	_, d, ok := bytes.Cut(rest, []byte{0})
	if err != nil || !ok || digest.Digest(d).Validate() != nil {
		return errors.Join(err, errors.New("no manifest's link"))
	}
	top := root{digest: r.mark.digests.number(d)}
	list, err := decodeAbsent(absent)
	for _, d := range list {
		top.absent = append(top.absent, r.mark.digests.number([]byte(d)))
	}
	r.roots[release] = append(r.roots[release], top)
	return err
}

// need follows the linked manifests down to their layers. A sealed release
// needs its document, too, which no manifest names.
func (r *marking) need() error {
	for release, marked := range r.mark.releases {
		if marked.Document != "" {
			r.visit(int32(release), r.mark.digests.number([]byte(marked.Document)), false)
		}
	}
	for release, roots := range r.roots {
		for _, top := range roots {
			if r.visits++; r.visits%1024 == 0 && r.ctx.Err() != nil {
				return r.ctx.Err()
			}
			r.follow(int32(release), top)
		}
	}
	return nil
}

func (r *marking) follow(release int32, top root) {
	r.visit(release, top.digest, true)
	for len(r.stack) > 0 {
		d := r.stack[len(r.stack)-1]
		r.stack = r.stack[:len(r.stack)-1]
		for _, ref := range r.mark.blobs[d].refs {
			if !ref.optional || !slices.Contains(top.absent, ref.digest) {
				r.visit(release, ref.digest, ref.child)
			}
		}
	}
}

func (r *marking) visit(release, d int32, child bool) {
	b := r.mark.at(d)
	if b.last != release+1 {
		b.many = b.last != 0
		b.last = release + 1
		needs := &r.mark.releases[release].needs
		*needs = append(*needs, d)
	}
	if child && b.root != r.visits {
		b.root, b.manifest = r.visits, true
		r.stack = append(r.stack, d)
	}
}

// keepClaims keeps those on blobs that nobody needs.
func (r *marking) keepClaims() error {
	for _, c := range r.claims {
		if r.mark.at(c.digest).last == 0 {
			r.mark.claims[c.digest] = append(r.mark.claims[c.digest], c)
		}
	}
	r.claims = nil
	return nil
}

func (r *marking) everLinked() error {
	return r.scan(keyEver, func(key, _ []byte) error {
		repo, d, _ := bytes.Cut(key[1:], []byte{0})
		n := r.mark.digests.number(d)
		if r.mark.at(n).last == 0 {
			r.mark.pairs[n] = append(r.mark.pairs[n], Pair{string(repo), digest.Digest(r.mark.digests.all[n])})
		}
		return nil
	})
}
