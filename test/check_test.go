package test

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"
)

// ok fails the test on an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want compares one value.
func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// sameSet compares two lists without regard to order, and names the
// differences.
func sameSet(t testing.TB, what string, got, want []string) {
	t.Helper()
	more, less := minus(got, want), minus(want, got)
	if len(more)+len(less) > 0 || len(got) != len(want) {
		t.Errorf("%s: %d, want %d\n  too many: %q\n  missing: %q", what, len(got), len(want), first(more), first(less))
	}
}

func minus(a, b []string) []string {
	known := make(map[string]bool, len(b))
	for _, s := range b {
		known[s] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return known[s] })
}

func first(s []string) []string { return s[:min(len(s), 12)] }

// noise is bytes that do not compress, the same for the same seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(b)
	return b
}

// newHTTPClient returns a client that leaves no connection behind.
func newHTTPClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}
