package bench

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The files of a rendered report.
const (
	resultsFile = "results.json"
	tablesFile  = "README.md" // which a directory's visitors are shown
)

// WriteDir leaves the report in a directory: its JSON, tables and charts.
func (r *Report) WriteDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	var results bytes.Buffer
	if err := r.Write(&results); err != nil {
		return err
	}
	files := map[string][]byte{resultsFile: results.Bytes(), tablesFile: r.Markdown()}
	for _, c := range r.charts() {
		files[c.file] = c.svg
	}
	var errs []error
	for name, content := range files {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	return errors.Join(errs...)
}

// A chart is a drawn part of the report.
type chart struct {
	file, title string
	svg         []byte
}

// charts draws what was measured.
func (r *Report) charts() (all []chart) {
	if lines := r.historyCurves(); len(lines) > 0 {
		title := fmt.Sprintf("One release of %d images, a tenth changed: from the images to the tar", r.Sizes.Images)
		all = append(all, chart{"history.svg", "seconds a release, over the history", curves(title, lines)})
	}
	for _, c := range []struct {
		file, title string
		workloads   []string
	}{
		{"push.svg", "pushes and pulls", []string{"push", "known", "pull"}},
		{"assemble.svg", "a release of known images", []string{"assemble"}},
		{"export.svg", "exports", []string{"export", "export-unsynced", "clone", "clone-unsynced", "clone-space"}},
	} {
		if panels := r.panels(c.workloads); len(panels) > 0 {
			all = append(all, chart{c.file, c.title, bars(panels)})
		}
	}
	return all
}

// historyCurves begins with the second release: in the first all is new.
func (r *Report) historyCurves() (all []curve) {
	for _, subject := range r.subjectsOf("release") {
		c := curve{subject: subject}
		for _, s := range r.Samples {
			if s.Workload == "release" && s.Subject == subject && s.Release > 1 {
				c.releases, c.values = append(c.releases, s.Release), append(c.values, s.Value)
			}
		}
		if len(c.values) > 1 {
			all = append(all, c)
		}
	}
	return all
}

func (r *Report) panels(workloads []string) (panels []panel) {
	for _, workload := range workloads {
		p := panel{title: r.describe(workload), measure: measureOf(workload)}
		for _, subject := range r.subjectsOf(workload) {
			p.bars = append(p.bars, bar{subject, r.of(workload, subject)})
		}
		if len(p.bars) > 0 {
			panels = append(panels, p)
		}
	}
	return panels
}

// describe says how much a workload works on.
func (r *Report) describe(workload string) string {
	s, title := r.Sizes, measureOf(workload).title
	switch workload {
	case "push", "known":
		return fmt.Sprintf("%s: %d images of %d layers, 4 at a time", title, s.Images, s.Layers)
	case "pull", "list", "catalog":
		return fmt.Sprintf("%s: %d images, %d times over", title, s.Images, s.Repeat)
	case "read":
		return fmt.Sprintf("%s: %s, %d times over", title, formatBytes(float64(s.BlobSize)), s.Repeat)
	case "write":
		return fmt.Sprintf("%s: %s and fsync", title, formatBytes(float64(s.BlobSize)))
	case "assemble":
		return fmt.Sprintf("%s: %d images", title, s.Known)
	case "export", "export-unsynced":
		return fmt.Sprintf("%s: %d of %s", title, s.ExportBlobs, formatBytes(float64(s.ExportBlob)))
	case "export-small", "export-small-unsynced":
		return fmt.Sprintf("%s: %d", title, s.Images)
	case "clone", "clone-unsynced", "clone-space":
		return fmt.Sprintf("%s: %d of %s", title, s.CloneBlobs, formatBytes(float64(s.ExportBlob)))
	}
	return title
}

// Markdown is the report in tables.
func (r *Report) Markdown() []byte {
	t := new(tables)
	t.printf("# Bench\n\nRendered by `regfs bench` from [%s](%s), which has every single sample. What the words mean: "+
		"[How it is measured](#how-it-is-measured).\n\n%s. %s", resultsFile, resultsFile, r.Environment, r.method())
	t.targets(r)
	if len(r.historyCurves()) > 0 {
		t.printf("\n## Release after release\n\n![seconds a release, over the history](history.svg)\n")
	}
	t.history(r)
	t.section(r, "Storage", "push", "known", "pull", "list", "catalog", "read", "write")
	t.counts(r)
	t.section(r, "A release of known images", "assemble")
	t.section(r, "Export", "export", "export-unsynced", "export-small", "export-small-unsynced", "clone", "clone-unsynced", "clone-space")
	t.scale(r)
	t.method(r)
	return t.Bytes()
}

// method says in one sentence how often things were done.
func (r *Report) method() string {
	return fmt.Sprintf("%d rounds after one that is not counted; median (least - most).\n", r.Rounds)
}

// Tables are Markdown that is being written.
type tables struct{ bytes.Buffer }

func (t *tables) printf(format string, args ...any) { fmt.Fprintf(t, format, args...) }

func (t *tables) row(cells ...string) { t.printf("| %s |\n", strings.Join(cells, " | ")) }

// head begins a table. The first columns are words, the rest figures.
func (t *tables) head(words int, cells ...string) {
	t.printf("\n")
	t.row(cells...)
	rule := make([]string, len(cells))
	for i := range rule {
		rule[i] = "---:"
		if i < words {
			rule[i] = "---"
		}
	}
	t.row(rule...)
}

func (t *tables) targets(r *Report) {
	t.printf("\n## Targets\n\nEach ratio is one of two medians of this run.\n")
	t.head(2, "what", "against", "target", "measured", "met")
	for _, target := range targets {
		measured, met := "-", "not measured"
		if v, ok := target.measured(r); ok {
			measured, met = target.format(v), "no"
			if v <= target.limit {
				met = "yes"
			}
		}
		t.row(target.what, target.against, "≤ "+target.formatLimit(), measured, met)
	}
}

// section is a table of workloads, each against one of its subjects.
func (t *tables) section(r *Report, title string, workloads ...string) {
	begun := false
	for _, workload := range workloads {
		m := measureOf(workload)
		for i, subject := range r.subjectsOf(workload) {
			if !begun {
				t.printf("\n## %s\n", title)
				t.chartsOf(r, workload)
				t.head(2, "workload", "subject", "median (least - most)", "ratio")
				begun = true
			}
			what, ratio := "", "-"
			if i == 0 {
				what = r.describe(workload)
			}
			values := r.of(workload, subject)
			if v, ok := values.over(r.of(workload, m.base)); ok {
				ratio = digits(v)
			}
			t.row(what, titleOf(subject), m.spread(values), ratio)
		}
	}
	if begun {
		t.printf("\nThe ratio is that of medians, to %s.\n", r.bases(workloads))
	}
}

// bases names what a section's ratios are to.
func (r *Report) bases(workloads []string) string {
	var names []string
	for _, workload := range workloads {
		name := titleOf(measureOf(workload).base)
		if len(r.subjectsOf(workload)) > 0 && !strings.Contains(strings.Join(names, ","), name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// chartsOf shows the chart that begins with a workload.
func (t *tables) chartsOf(r *Report, workload string) {
	file := map[string]string{"push": "push.svg", "assemble": "assemble.svg", "export": "export.svg"}[workload]
	for _, c := range r.charts() {
		if c.file == file {
			t.printf("\n![%s](%s)\n", c.title, c.file)
		}
	}
}

// history is a table of steps at both ends of the history.
func (t *tables) history(r *Report) {
	begun := false
	for _, m := range measures {
		if !strings.HasPrefix(m.workload, "release") {
			continue
		}
		for _, subject := range r.subjectsOf(m.workload) {
			if !begun {
				last := r.lastRelease()
				t.head(2, "step", "subject", fmt.Sprintf("releases 2 to %d", min(span+1, last)), fmt.Sprintf("releases %d to %d", max(2, last-span+1), last))
				begun = true
			}
			t.row(m.title, titleOf(subject), m.spread(r.young(m.workload, subject)), m.spread(r.old(m.workload, subject)))
		}
	}
	if begun {
		t.printf("\nOne history a subject, of which %d releases make a figure. A step that a subject has no need of is not in the table: "+
			"regfs collects no garbage to cut a release.\n", span)
	}
}

func (t *tables) counts(r *Report) {
	begun := false
	for _, workload := range r.countWorkloads() {
		for _, subject := range r.subjectsOf(workload) {
			if !begun {
				t.printf("\n## Counts\n\nOf a cold push, an image. Counted, not timed: they differ only with how the four images meet.\n")
				t.head(2, "count", "subject", "median (least - most)")
				begun = true
			}
			m := measureOf(workload)
			t.row(m.title, titleOf(subject), m.spread(r.of(workload, subject)))
		}
	}
}

// countWorkloads are the totals, then the opcodes by their frequency.
func (r *Report) countWorkloads() []string {
	names := []string{"syncs", "requests"}
	for _, s := range r.Samples {
		if strings.HasPrefix(s.Workload, "requests/") && !slices.Contains(names, s.Workload) {
			names = append(names, s.Workload)
		}
	}
	median := func(workload string) float64 {
		return r.where(func(s Sample) bool { return s.Workload == workload }).median()
	}
	slices.SortStableFunc(names[2:], func(a, b string) int {
		return cmp.Compare(median(b), median(a))
	})
	return names
}

func (t *tables) scale(r *Report) {
	begun := false
	for _, m := range measures {
		if !strings.HasPrefix(m.workload, "scale/") {
			continue
		}
		for _, subject := range r.subjectsOf(m.workload) {
			if !begun {
				t.printf("\n## Scale\n\n%d releases of %d images: %d links and %d blobs of a few bytes.\n",
					r.Sizes.ScaleReleases, r.Sizes.ScaleImages, r.Scale.Links, r.Scale.Blobs)
				t.head(2, "what", "where", "median (least - most)")
				begun = true
			}
			t.row(m.title, scaleTitle(subject), m.spread(r.of(m.workload, subject)))
		}
	}
}

// scaleTitle says where something was measured.
func scaleTitle(subject string) string {
	switch subject {
	case "index":
		return "index alone"
	case "ext4":
		return "links as files"
	}
	return "server and mount"
}

func (t *tables) method(r *Report) {
	t.printf("\n## How it is measured\n\n%s", strings.TrimLeft(method, "\n"))
	for _, a := range r.Without {
		t.printf("- Without %s: %s.\n", titleOf(a.Subject), a.Why)
	}
	for _, note := range r.Notes {
		t.printf("- %s\n", note)
	}
}
