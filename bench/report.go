package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Schema is the version of a report's JSON.
const Schema = 1

// A Report is the outcome of a run. Its JSON is what a run keeps; all else is
// rendered from it.
type Report struct {
	Schema      int         `json:"schema"`
	Environment Environment `json:"environment"`
	Rounds      int         `json:"rounds"` // counted ones
	Sizes       Sizes       `json:"sizes"`
	Scale       Scale       `json:"scale"`
	Without     []Absence   `json:"without,omitempty"`
	Notes       []string    `json:"notes,omitempty"`
	Samples     []Sample    `json:"samples"`
}

// Scale is what the store of the scale measurement holds.
type Scale struct {
	Links int `json:"links"` // that registries would have written
	Blobs int `json:"blobs"`
}

// An Absence is a subject that took no part.
type Absence struct {
	Subject string `json:"subject"`
	Why     string `json:"why"`
}

// A Sample is one measured value, in the unit of its workload: seconds unless
// the workload's measure says otherwise.
type Sample struct {
	Workload string  `json:"workload"`
	Subject  string  `json:"subject"`
	Round    int     `json:"round"`             // from 1
	Release  int     `json:"release,omitempty"` // in a history, from 1
	Value    float64 `json:"value"`
}

func newReport(ctx context.Context, o Options, dir string) *Report {
	return &Report{Schema: Schema, Environment: environment(ctx, o, dir), Rounds: o.Rounds, Sizes: o.Sizes}
}

// Read reads a report that Write has written.
func Read(r io.Reader) (*Report, error) {
	report := new(Report)
	if err := json.NewDecoder(r).Decode(report); err != nil {
		return nil, fmt.Errorf("bench: report: %w", err)
	}
	if report.Schema != Schema {
		return nil, fmt.Errorf("bench: report: schema %d is not %d, which this regfs knows", report.Schema, Schema)
	}
	return report, nil
}

// Write writes the report as JSON, a line for each sample: there are some
// thousands, and versions of it are compared.
func (r *Report) Write(w io.Writer) error {
	head := *r
	head.Samples = []Sample{}
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	text = text[:len(text)-len("]\n}")]
	for i, s := range r.Samples {
		line, err := json.Marshal(s)
		if err != nil {
			return err
		}
		text = append(text, "\n    "...)
		text = append(text, line...)
		if i < len(r.Samples)-1 {
			text = append(text, ',')
		}
	}
	_, err = w.Write(append(text, "\n  ]\n}\n"...))
	return err
}

// note adds a sentence to the report, once.
func (r *Report) note(text string) {
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

// left says whether a subject took no part.
func (r *Report) left(subject string) bool {
	return slices.ContainsFunc(r.Without, func(a Absence) bool { return a.Subject == subject })
}

// of returns the values of a workload and a subject.
func (r *Report) of(workload, subject string) stats {
	return r.where(func(s Sample) bool { return s.Workload == workload && s.Subject == subject })
}

// span is how many releases of a history make one figure.
const span = 5

// young returns what releases took at the beginning of a history, after the
// first, in which all is new; old what the last ones took.
func (r *Report) young(workload, subject string) stats {
	return r.releases(workload, subject, 2, span+1)
}

func (r *Report) old(workload, subject string) stats {
	return r.releases(workload, subject, max(2, r.lastRelease()-span+1), r.lastRelease())
}

func (r *Report) releases(workload, subject string, from, to int) stats {
	return r.where(func(s Sample) bool {
		return s.Workload == workload && s.Subject == subject && from <= s.Release && s.Release <= to
	})
}

func (r *Report) lastRelease() (last int) {
	for _, s := range r.Samples {
		last = max(last, s.Release)
	}
	return last
}

func (r *Report) where(keep func(Sample) bool) (values stats) {
	for _, s := range r.Samples {
		if keep(s) {
			values = append(values, s.Value)
		}
	}
	slices.Sort(values)
	return values
}

// subjectsOf lists who was measured in a workload, in the order of tables.
func (r *Report) subjectsOf(workload string) (names []string) {
	order := append(Subjects(), "cat", "tar", "index", "ext4")
	for _, name := range order {
		if len(r.of(workload, name)) > 0 {
			names = append(names, name)
		}
	}
	return names
}
