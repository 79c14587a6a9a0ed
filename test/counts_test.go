package test

import (
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// What a cold push of one image of three layers may cost, one image at a time.
// The figures are what it costs today; who makes a push cheaper lowers them,
// and who makes it dearer has to say why (docs/performance.md).
//
// Exact is what the registry itself asks for: another figure means that this is
// another registry. Most depends on what the kernel was let keep; one that has
// forgotten it on a busy machine asks once more, hence the tenth on top.
var (
	exactRequests = map[string]uint64{
		"CREATE": 32, "RENAME": 32, "SETATTR": 32, "FSYNC": 40, "FSYNCDIR": 28, "UNLINK": 12, "RMDIR": 16,
	}
	mostRequests = uint64(720)
	// Five blobs and their directory, a revision's link and a tag; and what timers
	// ask for when an image takes longer than they do.
	mostSyncs = uint64(9)
)

// TestCounts: the requests and the syncs of a push are counted, since counts,
// unlike times, are the same on every machine.
func TestCounts(t *testing.T) {
	const images = 5
	series, err := imagetest.Synthetic(filepath.Join(t.TempDir(), "images"), imagetest.Options{
		Images: 1 + images, LayersPerImage: 3, SharedBases: -1, LayerSize: 50_000, Seed: 7,
	})
	ok(t, err)
	s := newStore(t, "v1.0")
	r := serve(t, registrytest.V31, s.mount(t, "v1.0").dir, nil)
	pushOne := func(image imagetest.Image) {
		ok(t, imagetest.Push(t.Context(), r.Client(), r.URL(), series.Dir, image.Ref(), image.Repository, image.Tag))
	}
	pushOne(series.Images[0]) // makes the directories that all share
	before := counted(t, s)
	for _, image := range series.Images[1:] {
		pushOne(image)
	}
	after := counted(t, s)

	var all uint64
	for opcode, n := range after.requests {
		n -= before.requests[opcode]
		all += n
		if exact, ok := exactRequests[opcode]; ok && n != images*exact {
			t.Errorf("%s: %d requests for %d images, want %d for each", opcode, n, images, exact)
		}
	}
	syncs := after.syncs - before.syncs
	t.Logf("an image: %d requests, %.1f syncs; %v", all/images, float64(syncs)/images, after.requests)
	if all > images*mostRequests*11/10 {
		t.Errorf("%d requests an image, want %d at most", all/images, mostRequests)
	}
	if syncs > images*mostSyncs*11/10 {
		t.Errorf("%d syncs an image, want %d at most", syncs/images, mostSyncs)
	}
}

// A count is what a server has been asked, and has asked of the disk.
type count struct {
	requests map[string]uint64
	syncs    uint64
}

func counted(t *testing.T, s store) count {
	t.Helper()
	var status struct {
		Syncs  uint64
		Mounts []struct{ Requests map[string]uint64 }
	}
	s.mustJSON(t, &status, "status")
	if len(status.Mounts) != 1 || len(status.Mounts[0].Requests) == 0 || status.Syncs == 0 {
		t.Fatalf("status counts nothing: %+v", status)
	}
	return count{status.Mounts[0].Requests, status.Syncs}
}
