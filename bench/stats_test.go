package bench

import (
	"math"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values stats
		want   float64
	}{{stats{3}, 3}, {stats{1, 2}, 1.5}, {stats{1, 2, 9}, 2}, {stats{1, 2, 4, 100}, 3}} {
		if got := c.values.median(); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.values, got, c.want)
		}
	}
}

func TestOver(t *testing.T) {
	if v, ok := (stats{2, 3, 9}).over(stats{1, 2, 7}); !ok || v != 1.5 {
		t.Errorf("%v, %v; want 1.5", v, ok)
	}
	if _, ok := (stats{1}).over(nil); ok {
		t.Error("a ratio to nothing")
	}
}

// TestReleases: the first release is in no figure, and both ends have five.
func TestReleases(t *testing.T) {
	r := new(Report)
	for n := 1; n <= 20; n++ {
		r.Samples = append(r.Samples, Sample{Workload: "release", Subject: "fuse", Round: 1, Release: n, Value: float64(n)})
	}
	if got := r.young("release", "fuse"); !slices.Equal(got, stats{2, 3, 4, 5, 6}) {
		t.Errorf("young: %v", got)
	}
	if got := r.old("release", "fuse"); !slices.Equal(got, stats{16, 17, 18, 19, 20}) {
		t.Errorf("old: %v", got)
	}
}

func TestFormat(t *testing.T) {
	s, b := measure{unit: seconds}, measure{unit: bytesOf}
	for got, want := range map[string]string{
		s.format(0): "0 s", s.format(3.2e-7): "320 ns", s.format(4.25e-5): "42.5 µs", s.format(0.0999): "99.9 ms", s.format(123.4): "123 s",
		b.format(0): "0 B", b.format(-86016): "-86.0 kB", b.format(4e9): "4.00 GB",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestApart(t *testing.T) {
	got := apart([]float64{100, 101, 50}, 16)
	for i := range got {
		for j := range got[:i] {
			if math.Abs(got[i]-got[j]) < 16 {
				t.Errorf("%v: names overlap", got)
			}
		}
	}
}
