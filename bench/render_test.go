package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

func fixed(t *testing.T) *Report {
	t.Helper()
	f, err := os.Open("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRender compares all that is made of a fixed report with testdata, its
// JSON too: a report that is read and written is the same.
func TestRender(t *testing.T) {
	dir := t.TempDir()
	if *update {
		dir = "testdata"
	}
	if err := fixed(t).WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	golden, err := filepath.Glob("testdata/*")
	if err != nil || len(golden) != 6 {
		t.Fatalf("golden files %v, %v; want results, tables and four charts", golden, err)
	}
	for _, path := range golden {
		want, got := read(t, path), read(t, filepath.Join(dir, filepath.Base(path)))
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not as it was: look at it, then go test ./bench -update", filepath.Base(path))
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestChartsAreXML(t *testing.T) {
	r := fixed(t)
	for _, c := range r.charts() {
		d := xml.NewDecoder(bytes.NewReader(c.svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.file, err)
			}
		}
		if bytes.Contains(c.svg, []byte("NaN")) || bytes.Contains(c.svg, []byte(`fill=""`)) {
			t.Errorf("%s: a position or a colour is missing", c.file)
		}
	}
}

// TestEveryTarget has all rows in a report of which each was measured, and in
// one of which none was.
func TestEveryTarget(t *testing.T) {
	full, empty := string(fixed(t).Markdown()), string((&Report{Schema: Schema}).Markdown())
	if strings.Contains(full, "not measured") {
		t.Error("a target of the full report is not measured")
	}
	if n := strings.Count(empty, "not measured"); n != len(targets) {
		t.Errorf("%d targets of an empty report are not measured, want all %d", n, len(targets))
	}
}

func TestReadRefusesAnotherSchema(t *testing.T) {
	if _, err := Read(strings.NewReader(`{"schema": 2}`)); err == nil {
		t.Error("a report of schema 2 was read")
	}
}
