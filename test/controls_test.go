package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A control is a build of regfs that breaks a promise. The test of the promise
// must find that out, or it proves nothing.
type control struct {
	name     string
	file     string // of the source
	old, new string // what stands there once, and what stands there instead
	disk     string // where it is tried: a power loss on ext4 or xfs; "" is kill -9
	lost     []kind // what must be lost, any of these
	cheap    bool   // runs each time
}

var controls = []control{
	{name: "index-not-synced", file: "index/wal.go", old: "l.file.Sync()", new: "error(nil)",
		disk: "ext4", lost: []kind{lostImage}, cheap: true},
	{name: "blobs-not-synced", file: "cas/cas.go", old: "s.syncs.Add(1); return f.Sync()", new: "s.syncs.Add(1); return nil",
		disk: "ext4", lost: []kind{lostImage, damaged}, cheap: true},
	{name: "blobs-not-synced-xfs", file: "cas/cas.go", old: "s.syncs.Add(1); return f.Sync()", new: "s.syncs.Add(1); return nil",
		disk: "xfs", lost: []kind{lostImage, damaged}},
	{name: "image-not-flushed", file: "intake/intake.go", old: "in.Blobs.Flush()", new: "error(nil)",
		disk: "ext4", lost: []kind{lostImage, damaged}},
	{name: "pending-not-proven", file: "cas/recover.go", old: "size, err := verify(file, d)", new: "size, err := int64(0), error(nil)",
		disk: "ext4", lost: []kind{damaged}},
	{name: "links-not-waited-for", file: "index/change.go", old: "r.change(r.db.writer.enqueue, f)\n\tif err != nil {\n\t\treturn err\n\t}\n\treturn r.db.writer.wait(b)",
		new: "r.change(r.db.writer.later, f)\n\tif err != nil {\n\t\treturn err\n\t}\n\t_ = b\n\treturn nil", lost: []kind{lostImage}},
	{name: "temporary-files-stay", file: "cas/recover.go", old: "s.dir.RemoveAll(path.Join(tempDir, name))", new: `s.dir.RemoveAll(path.Join(tempDir, "no-"+name))`,
		lost: []kind{leftover}},
}

// controlRounds is how soon a control must be caught.
const controlRounds = 12

func TestControls(t *testing.T) {
	for i, c := range controls {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("-short: run without it to see that the tests of crashes find losses")
			}
			if !c.cheap && !long() {
				t.Skip("REGFS_ROUNDS is not set: only the cheapest controls are tried")
			}
			right := program
			defer func() { program = right }()
			program = buildPatched(t, c)
			o := newOrdeal(t, c.disk, uint64(1000+i))
			for n := 1; n <= controlRounds; n++ {
				losses := o.round()
				if text := c.caught(losses); text != "" {
					report.control(c.name, fmt.Sprintf("caught in round %d: %s", n, text))
					return
				}
				if len(losses) > 0 {
					t.Logf("round %d: other losses: %v", n, losses)
				}
			}
			report.control(c.name, fmt.Sprintf("NOT CAUGHT in %d rounds", controlRounds))
			t.Errorf("%s of %s: nothing was lost in %d rounds%s", c.name, c.file, controlRounds, o.seedText())
		})
	}
}

func (c control) caught(losses []loss) string {
	for _, l := range losses {
		if slices.Contains(c.lost, l.kind) {
			return l.String()
		}
	}
	return ""
}

// buildPatched builds the program with a part of its source replaced. It does
// without the race detector, which has its say in the right program.
func buildPatched(t *testing.T, c control) string {
	t.Helper()
	root, err := filepath.Abs("..")
	ok(t, err)
	text, err := os.ReadFile(filepath.Join(root, c.file))
	ok(t, err)
	if strings.Count(string(text), c.old) != 1 {
		t.Fatalf("%s does not have %q once", c.file, c.old)
	}
	dir := t.TempDir()
	patched, overlay, binary := filepath.Join(dir, "patched.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "regfs")
	ok(t, os.WriteFile(patched, []byte(strings.Replace(string(text), c.old, c.new, 1)), 0o600))
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, c.file): patched}})
	ok(t, err)
	ok(t, os.WriteFile(overlay, list, 0o600))
	command(t, "go", "build", "-trimpath", "-overlay", overlay, "-o", binary, "github.com/regfs/regfs/cmd/regfs")
	return binary
}
