package registrytest

import (
	"fmt"
	"strings"
	"testing"
)

// A recorder is a test whose errors are expected.
type recorder struct {
	TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestRegistryThatDiesIsAnError(t *testing.T) {
	rec := &recorder{TB: t}
	r := Start(rec, Options{Root: t.TempDir()})
	if err := r.server.Kill(); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	if len(rec.errors) != 1 || !strings.Contains(rec.errors[0], "ended by itself") {
		t.Errorf("errors %q, want one", rec.errors)
	}
	r.Restart()
	r.Stop()
	if len(rec.errors) != 1 {
		t.Errorf("errors %q after a restart", rec.errors)
	}
}
