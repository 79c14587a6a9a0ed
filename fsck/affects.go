package fsck

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/store"
)

// Affects says which images need the blobs. A blob that no release needs is not
// in the answer. A release whose records are damaged is passed over.
func Affects(ctx context.Context, st *store.Store, blobs []digest.Digest) (map[digest.Digest][]Affected, error) {
	all := make(map[digest.Digest][]Affected)
	if len(blobs) == 0 {
		return all, nil
	}
	wanted := make(map[digest.Digest]bool)
	for _, d := range blobs {
		wanted[d] = true
	}
	releases, err := st.Index.Releases()
	if err != nil {
		return nil, err
	}
	taker := export.NewTaker(st.Blobs)
	for _, info := range releases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := st.Index.Open(info.Name)
		if err != nil {
			continue
		}
		for d, images := range needers(taker.Take(r), wanted) {
			all[d] = append(all[d], Affected{info.Name, images})
		}
		r.Close()
	}
	return all, nil
}

func needers(inv *export.Inventory, wanted map[digest.Digest]bool) map[digest.Digest][]string {
	images := make(map[digest.Digest][]string)
	for _, f := range inv.Files {
		if wanted[f.Blob] {
			images[f.Blob] = inv.ImagesOf(f)
		}
	}
	for _, m := range inv.Missing {
		if wanted[m.Digest] {
			images[m.Digest] = m.Images
		}
	}
	for _, d := range inv.Damaged {
		if wanted[d.Digest] {
			images[d.Digest] = d.Images
		}
	}
	return images
}
