package cas

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// An upload that was being committed when the process was killed is where it
// was, for its client to go on with.
func TestAdoptedIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	upload := filepath.Join(dir, "files", "upload")
	if err := os.Mkdir(filepath.Dir(upload), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(upload, []byte("half an upload"), 0o644); err != nil {
		t.Fatal(err)
	}
	killed, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := killed.Adopt("files/upload"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(upload); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the adopted file is still there: %v", err)
	}
	next, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.DiscardTemp(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(upload); string(got) != "half an upload" {
		t.Errorf("after the next start: %q, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 || err != nil {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}
