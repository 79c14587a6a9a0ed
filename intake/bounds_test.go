package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/layout"
)

// indexOf writes an index of manifests with the given digests.
func indexOf(p *program, digests []digest.Digest) *thing {
	m := v1.Index{MediaType: v1.MediaTypeImageIndex}
	for _, d := range digests {
		m.Manifests = append(m.Manifests, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: 1})
	}
	text, err := json.Marshal(m)
	p.must(err)
	p.add(text, true)
	return &p.things[len(p.things)-1]
}

func made(what string, n int) []digest.Digest {
	all := make([]digest.Digest, n)
	for i := range all {
		all[i] = digest.FromString(fmt.Sprint(what, i))
	}
	return all
}

func (p *program) linkErr(d digest.Digest) error {
	return p.in.Link(layout.Path{Kind: layout.RevisionLink, Repository: repo, Digest: d}, d)
}

// A small index of large ones is bounded as a whole; below the bound it is taken.
func TestManyNeedsAreRefused(t *testing.T) {
	g := &ground{tb: t}
	t.Cleanup(g.close)
	p := g.begin()
	defer p.end()
	var parts []digest.Digest
	for i := range 11 {
		part := indexOf(p, made(fmt.Sprintf("part %d ", i), 10_000))
		p.must(p.in.Blob(part.digest))
		parts = append(parts, part.digest)
	}
	top := indexOf(p, parts)
	err := p.linkErr(top.digest)
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "more than 100000 blobs") {
		t.Errorf("%v", err)
	}
	if _, linked := p.in.Release.Revision(repo, top.digest); linked {
		t.Error("it is linked")
	}
	less := indexOf(p, parts[:9])
	p.must(p.linkErr(less.digest))
	if n := len(p.in.Release.Needs(repo, less.digest)); n != 90_010 {
		t.Errorf("needs %d", n)
	}
}

// An index of 10,000 children, none of which was pushed, costs no more than any
// other work on so many; and one more child is refused.
func TestLargestIndex(t *testing.T) {
	g := &ground{tb: t}
	t.Cleanup(g.close)
	p := g.begin()
	defer p.end()
	top := indexOf(p, made("child ", 10_000))
	begin := time.Now()
	p.must(p.linkErr(top.digest))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	absent := 0
	for _, need := range p.in.Release.Needs(repo, top.digest) {
		if need.Absent {
			absent++
		}
	}
	if absent != 10_000 {
		t.Errorf("%d are absent", absent)
	}
	more := indexOf(p, made("child ", 10_001))
	if err := p.linkErr(more.digest); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "more than 10000 references") {
		t.Errorf("one more: %v", err)
	}
}
