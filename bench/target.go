package bench

import "fmt"

// A target is a figure that is aimed at: a ratio of two medians of one run, or
// a value where there is nothing to compare with.
type target struct {
	what, against string
	limit         float64
	ratio         bool
	of, base      func(*Report) stats // base is nil unless it is a ratio
	unit          unit
}

// same is how far two medians of the same may lie apart: what the disk of one
// machine does in one run.
const same = 1.25

// naive counts are of the field notes: a plain loopback file system, and a
// stock registry on ext4.
const (
	naiveRequests = 530
	stockSyncs    = 34
)

var targets = []target{
	ratio("cold push through FUSE", "kernel overlayfs", 1, all("push", "fuse"), all("push", "overlayfs")),
	ratio("push with every blob known", "kernel overlayfs", 1, all("known", "fuse"), all("known", "overlayfs")),
	ratio("pull", "plain directory", 1.02, all("pull", "fuse"), all("pull", "plain")),
	ratio("sequential read of a blob", "plain directory", 1.02, all("read", "fuse"), all("read", "plain")),
	ratio("sequential write of an upload", "plain directory", 1.1, all("write", "fuse"), all("write", "plain")),
	ratio("prepare the next release, at the end of the history", "overlay pipeline", 1.0/50, old("release/prepare", "fuse"), old("release/prepare", "pipeline")),
	ratio("prepare the next release, at the end of the history", "the same at its beginning", same, old("release/prepare", "fuse"), young("release/prepare", "fuse")),
	ratio("one release, prepare to tar, at the end of the history", "overlay pipeline", 1.0/10, old("release", "fuse"), old("release", "pipeline")),
	ratio("one release, prepare to tar, at the end of the history", "the same at its beginning", same, old("release", "fuse"), young("release", "fuse")),
	ratio("export to a tar, on the disk", "cat of the same blobs", 1.05, all("export", "fuse"), all("export", "cat")),
	ratio("export to a tar, not synced", "cat of the same blobs", 1.05, all("export-unsynced", "fuse"), all("export-unsynced", "cat")),
	ratio("export to a tar, XFS, on the disk", "GNU tar of the merged overlay", 1.0/50, all("clone", "fuse"), all("clone", "tar")),
	ratio("export to a tar, XFS, not synced", "GNU tar of the merged overlay", 1.0/50, all("clone-unsynced", "fuse"), all("clone-unsynced", "tar")),
	ratio("space that an export takes, XFS", "GNU tar of the merged overlay", 0.01, all("clone-space", "fuse"), all("clone-space", "tar")),
	value("FUSE requests an image in a cold push", fmt.Sprintf("%d for a naive loopback", naiveRequests), 200, each, all("requests", "fuse")),
	value("disk syncs an image in a cold push", fmt.Sprintf("%d by the registry on ext4", stockSyncs), 6, each, all("syncs", "fuse")),
	value("open a store of many releases", "", 0.1, seconds, all("scale/open", "fuse")),
	value("server memory with it", "", 120e6, bytesOf, all("scale/memory", "fuse")),
}

func ratio(what, against string, limit float64, of, base func(*Report) stats) target {
	return target{what: what, against: against, limit: limit, ratio: true, of: of, base: base}
}

func value(what, against string, limit float64, u unit, of func(*Report) stats) target {
	return target{what: what, against: against, limit: limit, unit: u, of: of}
}

func all(workload, subject string) func(*Report) stats {
	return func(r *Report) stats { return r.of(workload, subject) }
}

func old(workload, subject string) func(*Report) stats {
	return func(r *Report) stats { return r.old(workload, subject) }
}

func young(workload, subject string) func(*Report) stats {
	return func(r *Report) stats { return r.young(workload, subject) }
}

// measured returns what came out, and false if it was not measured.
func (t target) measured(r *Report) (float64, bool) {
	of := t.of(r)
	if t.ratio {
		return of.over(t.base(r))
	}
	if len(of) == 0 {
		return 0, false
	}
	return of.median(), true
}

// format writes the limit, or what came out.
func (t target) format(v float64) string {
	if !t.ratio {
		return measure{unit: t.unit}.format(v)
	}
	if v > 0 && v < 0.1 {
		return "1/" + digits(1/v)
	}
	return digits(v)
}

func (t target) formatLimit() string {
	if t.ratio && t.limit < 0.5 {
		return fmt.Sprintf("1/%.0f", 1/t.limit)
	}
	return t.format(t.limit)
}
