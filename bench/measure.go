package bench

import (
	"fmt"
	"math"
	"strings"
)

// A measure is what samples of one workload are values of.
type measure struct {
	workload, title string
	unit            unit
	base            string // the subject that others are compared with
}

// A unit says how a value is written.
type unit int

const (
	seconds unit = iota
	each         // of something, an image
	bytesOf
)

var measures = []measure{
	{"push", "push, nothing known", seconds, "plain"},
	{"known", "push, every blob known", seconds, "plain"},
	{"pull", "pull", seconds, "plain"},
	{"list", "walk of the directory", seconds, "plain"},
	{"catalog", "catalog and tags", seconds, "plain"},
	{"read", "read of a blob", seconds, "plain"},
	{"write", "write of an upload", seconds, "plain"},
	{"requests", "FUSE requests an image", each, ""},
	{"syncs", "disk syncs an image", each, ""},
	{"release/sync", "sync into history", seconds, ""},
	{"release/prepare", "prepare", seconds, ""},
	{"release/start", "start of the registry", seconds, ""},
	{"release/push", "push", seconds, ""},
	{"release/select", "selection by hard links", seconds, ""},
	{"release/umount", "umount", seconds, ""},
	{"release/collect", "garbage collection", seconds, ""},
	{"release/export", "tar", seconds, ""},
	{"release", "all", seconds, "pipeline"},
	{"assemble", "a release of known images", seconds, "hardlink"},
	{"export", "large blobs, on the disk", seconds, "cat"},
	{"export-unsynced", "large blobs, not synced", seconds, "cat"},
	{"export-small", "small images, on the disk", seconds, "cat"},
	{"export-small-unsynced", "small images, not synced", seconds, "cat"},
	{"clone", "XFS, large blobs, on the disk", seconds, "tar"},
	{"clone-unsynced", "XFS, large blobs, not synced", seconds, "tar"},
	{"clone-space", "XFS, space taken", bytesOf, "tar"},
	{"scale/open", "open, until the first answer", seconds, ""},
	{"scale/mount", "mount of a release", seconds, ""},
	{"scale/lookup-p50", "lookup of a layer link, half of them", seconds, ""},
	{"scale/lookup-p99", "lookup of a layer link, 99 of 100", seconds, ""},
	{"scale/list", "walk of a release", seconds, ""},
	{"scale/memory", "memory of the server", bytesOf, ""},
	{"scale/memory-anonymous", "of it no file's", bytesOf, ""},
	{"scale/bytes", "bytes on disk, an image of a release", bytesOf, ""},
}

// measureOf returns what a workload measures.
func measureOf(workload string) measure {
	for _, m := range measures {
		if m.workload == workload {
			return m
		}
	}
	if opcode, ok := strings.CutPrefix(workload, "requests/"); ok {
		return measure{workload: workload, title: opcode, unit: each}
	}
	return measure{workload: workload, title: workload}
}

// format writes a value with its unit.
func (m measure) format(v float64) string {
	switch m.unit {
	case each:
		return digits(v)
	case bytesOf:
		return formatBytes(v)
	}
	switch {
	case v == 0:
		return "0 s"
	case v < 1e-6:
		return digits(v*1e9) + " ns"
	case v < 1e-3:
		return digits(v*1e6) + " µs"
	case v < 0.1:
		return digits(v*1e3) + " ms"
	}
	return digits(v) + " s"
}

func formatBytes(v float64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if math.Abs(v) >= u.size {
			return digits(v/u.size) + " " + u.name
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

// digits writes a value with three of them: the fourth is never the same.
func digits(v float64) string {
	switch {
	case math.Abs(v) >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// spread writes the median, the least and the most.
func (m measure) spread(s stats) string {
	switch len(s) {
	case 0:
		return "-"
	case 1:
		return m.format(s[0])
	}
	return fmt.Sprintf("%s (%s - %s)", m.format(s.median()), m.format(s.least()), m.format(s.most()))
}
