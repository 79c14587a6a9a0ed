package bench

import "context"

// Counts are what a mount has been asked so far, and what it has asked.
type counts struct {
	requests map[string]int64 // by opcode; nil if nobody counts
	syncs    int64            // -1 if nobody counts
}

// counts asks a subject that counts, which a regfs mount does.
func (v *visit) counts(ctx context.Context) (c counts, err error) {
	c.syncs = -1
	if r, ok := v.counter(); ok {
		c.requests, c.syncs, err = r.counts(ctx)
	}
	return c, err
}

// counter is the subject if it counts. On overlayfs the kernel and the registry
// do the work, which no server of regfs sees.
func (v *visit) counter() (*regfs, bool) {
	r, ok := v.subject.(*regfs)
	return r, ok && r.backend == "fuse" && v.wants("push")
}

// addCounts keeps what a push has cost, an image.
func (v *visit) addCounts(before, after counts) {
	if _, ok := v.counter(); !ok {
		return
	}
	images := float64(len(v.release.Images))
	if after.requests == nil {
		v.report.note("FUSE requests are not counted: this regfs does not tell them (status --json).")
	}
	total := int64(0)
	for opcode, n := range after.requests {
		n -= before.requests[opcode]
		total += n
		if n > 0 {
			v.add(Sample{Workload: "requests/" + opcode, Subject: v.name, Round: v.round, Value: float64(n) / images})
		}
	}
	if total > 0 {
		v.add(Sample{Workload: "requests", Subject: v.name, Round: v.round, Value: float64(total) / images})
	}
	if after.syncs < 0 {
		v.report.note("Disk syncs are not counted: this regfs does not tell them (status --json).")
		return
	}
	v.add(Sample{Workload: "syncs", Subject: v.name, Round: v.round, Value: float64(after.syncs-before.syncs) / images})
}
