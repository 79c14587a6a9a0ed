package bench

import (
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/regfs/regfs/gc"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
)

// BenchmarkGC measures what a garbage collection does before it removes
// anything, over 100 releases of 300 images. The store
// is filled first, which takes a minute or two; REGFS_SCALE is the number of
// releases.
func BenchmarkGC(b *testing.B) {
	s := scaleStore{dir: b.TempDir(), releases: 100, images: 300}
	if n, err := strconv.Atoi(os.Getenv("REGFS_SCALE")); err == nil {
		s.releases = n
	}
	if err := s.fill(b.Context()); err != nil {
		b.Fatal(err)
	}
	opened, err := store.Open(s.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer opened.Close()
	collector := gc.Collector{
		Blobs: opened.Blobs, Index: opened.Index,
		Unlink:   func([]index.Pair) error { return nil },
		LeaveOut: func(string) bool { return false },
	}
	var verify, mark, survey time.Duration
	for b.Loop() {
		run := collector.Begin()
		plan, err := run.Plan(b.Context())
		run.End()
		if err != nil {
			b.Fatal(err)
		}
		verify, mark, survey = verify+plan.Verify, mark+plan.Mark, survey+plan.Survey
	}
	report := func(d time.Duration, name string) { b.ReportMetric(d.Seconds()/float64(b.N), name) }
	report(verify, "verify-s/op")
	report(mark, "mark-s/op")
	report(survey, "survey-s/op")
	b.ReportMetric(float64(s.blobs), "blobs")
}
