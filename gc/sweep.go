package gc

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
)

// batch is how many blobs are removed together: they share the syncs of the
// index, and who looks for one of them waits for the others, some 10 ms.
const batch = 128

// Sweep removes what the plan says, but for what was pinned meanwhile. It tells
// of its progress after each batch, and can be interrupted between two. The
// amount is what has gone, also if there is an error.
func (r *Run) Sweep(ctx context.Context, progress func(gone Amount)) (gone Amount, err error) {
	for len(r.candidates) > 0 {
		if err := ctx.Err(); err != nil {
			return gone, err
		}
		n := min(batch, len(r.candidates))
		places := r.candidates[:n]
		r.candidates = r.candidates[n:]
		if err := r.sweep(places, &gone); err != nil {
			return gone, err
		}
		progress(gone)
	}
	return gone, nil
}

// sweep removes a batch: first what names the blobs, then the blobs. What it
// has named is durable then, what is gone need not be.
func (r *Run) sweep(places []cas.Place, gone *Amount) (err error) {
	sizes := make(map[digest.Digest]cas.Place, len(places))
	all := make([]digest.Digest, len(places))
	for i, p := range places {
		sizes[p.Digest], all[i] = p, p.Digest
	}
	removal := r.Blobs.Condemn(all...)
	defer func() { err = errors.Join(err, removal.End()) }()
	var pairs []index.Pair
	for _, d := range removal.Blobs {
		pairs = append(pairs, r.mark.Pairs(d)...)
	}
	if err := r.Unlink(pairs); err != nil {
		return err
	}
	if err := r.Index.RemoveBlobs(r.mark, removal.Blobs); err != nil {
		return err
	}
	for _, d := range removal.Blobs {
		if err := removal.Remove(d); err != nil {
			return err
		}
		if p := sizes[d]; !p.Empty {
			gone.add(p.Size)
		}
	}
	return nil
}
