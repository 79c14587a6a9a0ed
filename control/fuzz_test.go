package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/store"
)

// FuzzRequest sends a request, as it comes over the socket, to the server's own
// handler over a real store. It ends with a status that is meant for it, has
// made no file outside of the store's index, and of a body without end no more
// was read than the bound.
func FuzzRequest(f *testing.F) {
	for _, path := range []string{"/v1/status", "/v1/releases", "/v1/releases/v1/images", "/v1/releases/v1/inventory",
		"/v1/releases/v1", "/v1/releases/v1/document", "/v1/releases/v1/diff/v2"} {
		f.Add([]byte("GET " + path + " HTTP/1.1\r\nHost: regfs\r\n\r\n"))
	}
	for path, body := range map[string]string{
		"/v1/releases":            `{"name":"v2"}`,
		"/v1/releases/v1/sync":    `null`,
		"/v1/releases/v1/seal":    `null`,
		"/v1/releases/v1/fork":    `{"name":"v4"}`,
		"/v1/releases/v1/rename":  `{"name":"v5"}`,
		"/v1/releases/v1/tag":     `{"from":{"repository":"a","tag":"1"},"to":{"repository":"b","tag":"2"}}`,
		"/v1/releases/v1/untag":   `{"image":{"repository":"a","tag":"1"},"with_image":true}`,
		"/v1/gc":                  `{"dry_run":false,"grace":0,"keep":{"last":1,"names":["v1"]}}`,
		"/v1/releases/v3/compose": `{"from":["v1"],"images":[{"Name":"a","Tag":"1"}],"require_complete":true}`,
		"/v1/umount":              `{"mountpoint":"/mnt","force":true}`,
		"/v1/mounts":              `{"release":"v1","mountpoint":"/mnt/x","namespace":"mnt:[1]","backend":"auto","reuse":"store","detach":true}`,
	} {
		f.Add([]byte("POST " + path + " HTTP/1.1\r\nHost: regfs\r\nTransfer-Encoding: chunked\r\n\r\n" + body))
		f.Add(rawRequest(path, body))
	}
	f.Add([]byte("DELETE /v1/releases/v1 HTTP/1.1\r\nHost: regfs\r\nContent-Length: 17\r\n\r\n" + `{"dry_run":false}`))
	served := &fuzzed{tb: f}
	f.Cleanup(served.close)
	f.Fuzz(func(t *testing.T, request []byte) {
		served.tb = t
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
		if err != nil {
			return // net/http answers it
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		served.renew()
		served.ask(r, bytes.NewReader(body))
		served.ask(r, io.MultiReader(bytes.NewReader(body), blanks{}))
		checkMountRequest(t, body)
	})
}

func rawRequest(path, body string) []byte {
	var b bytes.Buffer
	r := httptest.NewRequest(http.MethodPost, "http://regfs"+path, strings.NewReader(body))
	r.Write(&b)
	return b.Bytes()
}

// A fuzzed is a server that requests come to one after the other. It is made
// anew now and then: they make releases.
type fuzzed struct {
	tb      testing.TB
	dir     string
	store   *store.Store
	handler http.Handler
	asked   int
}

func (s *fuzzed) renew() {
	s.tb.Helper()
	if s.asked++; s.handler != nil && s.asked%1000 != 0 {
		return
	}
	s.close()
	dir, err := os.MkdirTemp("", "regfs-fuzz-")
	ok(s.tb, err)
	s.dir = filepath.Join(dir, "store")
	ok(s.tb, store.Init(s.dir))
	s.store, err = store.Open(s.dir, quiet)
	ok(s.tb, err)
	ok(s.tb, s.store.Index.Create("v1"))
	s.handler = NewServer(s.store, quiet).handler() // without a process: it mounts nothing
}

func (s *fuzzed) close() {
	if s.handler != nil {
		ok(s.tb, s.store.Close())
		ok(s.tb, os.RemoveAll(filepath.Dir(s.dir)))
	}
}

// ask sends a request with a body, and holds the answer against the protocol.
func (s *fuzzed) ask(r *http.Request, body io.Reader) {
	s.tb.Helper()
	counted := &countingReader{Reader: body}
	r = r.Clone(s.tb.Context())
	r.Body, r.ContentLength = io.NopCloser(counted), -1
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	const slack = 4 << 10 // a decoder's buffer
	if counted.n > maxRequest+slack {
		s.tb.Fatalf("%d bytes of the body were read", counted.n)
	}
	switch w.Code {
	case http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
	case http.StatusBadRequest:
		if r.RequestURI == "*" {
			return // answered by net/http
		}
		var e Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Message == "" {
			s.tb.Fatalf("400 says %q: %v", w.Body, err)
		}
	default:
		s.tb.Fatalf("status %d: %s", w.Code, w.Body)
	}
	s.checkPlaces()
}

// checkPlaces looks for what no request makes: whatever a name says, nothing is
// written beside the index.
func (s *fuzzed) checkPlaces() {
	s.tb.Helper()
	for dir, want := range map[string]string{filepath.Dir(s.dir): " store", s.dir: " index lock regfs.json"} {
		entries, err := os.ReadDir(dir)
		ok(s.tb, err)
		var names string
		for _, e := range entries {
			names += " " + e.Name()
		}
		if strings.TrimSuffix(names, " releases") != want {
			s.tb.Fatalf("in %s there are%s", dir, names)
		}
	}
	made, _ := filepath.Glob(filepath.Join(s.dir, "releases", "*"))
	for _, dir := range made { // with the names of a new release in it
		release, err := s.store.Index.Open(filepath.Base(dir))
		if err != nil {
			s.tb.Fatalf("there is %s: %v", dir, err)
		}
		release.Close()
	}
}

type countingReader struct {
	io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// checkMountRequest: of a mount that would be tried, the release's directory is
// in the store and the mount point is a plain path.
func checkMountRequest(t *testing.T, body []byte) {
	var req MountRequest
	if json.Unmarshal(body, &req) != nil || req.check() != nil {
		return
	}
	if index.ValidRelease(req.Release) != nil || filepath.Dir(filepath.Dir(store.PlainDir(req.Release))) != "releases" {
		t.Fatalf("release %q", req.Release)
	}
	if path := req.Mountpoint; path[0] != '/' || strings.Contains(path+"/", "/../") || strings.Contains(path, "//") {
		t.Fatalf("mount point %q", path)
	}
}
