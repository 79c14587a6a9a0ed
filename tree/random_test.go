package tree_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// A model is a tree as a map: path to content, a directory's with a slash at
// the end. Of the registry's tree it has the files only.
type model map[string]string

func (m model) isDir(p string) bool {
	_, there := m[p+"/"]
	return there || p == ""
}

func (m model) isFile(p string) bool {
	_, there := m[p]
	return there
}

func (m model) empty(dir string) bool {
	for p := range m {
		if strings.HasPrefix(p, dir+"/") && p != dir+"/" {
			return false
		}
	}
	return true
}

func up(p string) string {
	if dir := path.Dir(p); dir != "." {
		return dir
	}
	return ""
}

// Each operation says whether it may be done, and does it then.

func (m model) mkdir(p string) bool {
	may := m.isDir(up(p)) && !m.isDir(p) && !m.isFile(p)
	if may {
		m[p+"/"] = ""
	}
	return may
}

func (m model) write(p, content string) bool {
	may := m.isDir(up(p)) && !m.isDir(p)
	if may {
		m[p] = content
	}
	return may
}

func (m model) unlink(p string) bool {
	may := m.isFile(p)
	delete(m, p)
	return may
}

func (m model) rmdir(p string) bool {
	may := m.isDir(p) && m.empty(p)
	if may {
		delete(m, p+"/")
	}
	return may
}

func (m model) rename(from, to string) bool {
	switch {
	case from == to:
		return true // the tree is not asked whether it is there
	case !m.isDir(up(to)), strings.HasPrefix(to, from+"/"):
		return false
	case m.isFile(from) && !m.isDir(to):
		m[to] = m[from]
		delete(m, from)
		return true
	case !m.isDir(from), m.isFile(to), m.isDir(to) && !m.empty(to):
		return false
	}
	for p, content := range maps.Clone(m) {
		if rest, below := strings.CutPrefix(p, from+"/"); below {
			delete(m, p)
			m[to+"/"+rest] = content
		}
	}
	return true
}

// A walker does one thing after the other to a tree and to its model.
type walker struct {
	*bench
	*rand.Rand
	model model
}

// TestRandom compares with the model what a few thousand random operations
// leave behind.
func TestRandom(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := walker{newBench(t), rand.New(rand.NewPCG(seed, 7)), make(model)}
			for i := range 1200 {
				op := w.step()
				if i%100 == 0 {
					w.same(fmt.Sprintf("step %d, %s", i, op), files(w.dump()), w.model)
				}
				if i%400 == 399 {
					w.reopen()
				}
				if t.Failed() {
					t.Fatalf("at step %d: %s", i, op)
				}
			}
			w.same("at the end", files(w.dump()), w.model)
			w.reopen()
			w.same("opened again", files(w.dump()), w.model)
		})
	}
}

func (w walker) step() string {
	if w.IntN(2) == 0 {
		return w.plainStep()
	}
	return w.registryStep()
}

// plain gives a path of an ordinary file, sometimes between the registry's.
func (w walker) plain() string {
	p := string("abc"[w.IntN(3)])
	for w.IntN(3) > 0 && len(p) < 8 {
		p += "/" + string("abc"[w.IntN(3)])
	}
	return p
}

func (w walker) plainStep() string {
	p, q := w.plain(), w.plain()
	var may bool
	var err error
	op := ""
	switch w.IntN(5) {
	case 0:
		op, may = "mkdir "+p, w.model.mkdir(p)
		_, err = w.Mkdir(p, 0o755, nobody)
	case 1:
		content := fmt.Sprint("content ", w.Uint32())
		op, may = "write "+p, w.model.write(p, content)
		err = inPlace(w.bench, p, []byte(content))
	case 2:
		op, may = "unlink "+p, w.model.unlink(p)
		err = w.Unlink(p)
	case 3:
		op, may = "rmdir "+p, w.model.rmdir(p)
		err = w.Rmdir(p)
	default:
		op, may = "rename "+p+" "+q, w.model.rename(p, q)
		err = w.Rename(p, q, false)
	}
	if may != (err == nil) {
		w.t.Errorf("%s: %v, want success: %v", op, err, may)
	}
	return op
}

// registryStep commits or removes a blob, a layer link or a tag. No manifest
// is linked, so nothing follows from anything.
func (w walker) registryStep() string {
	content := fmt.Sprint("blob ", w.IntN(40))
	d := digest.FromString(content)
	repo, tag := fmt.Sprint("repo/", w.IntN(4)), fmt.Sprint("tag", w.IntN(3))
	p := []string{
		layout.BlobDataPath(d), layout.LayerLinkPath(repo, d), layout.TagCurrentLinkPath(repo, tag), layout.TagIndexLinkPath(repo, tag, d),
	}[w.IntN(4)]
	if p != layout.BlobDataPath(d) {
		content = d.String()
	}
	if w.IntN(3) > 0 {
		by := slices.Sorted(maps.Keys(ways))[w.IntN(len(ways))]
		op := by + " " + p
		if err := ways[by](w.bench, p, []byte(content)); err != nil {
			w.t.Errorf("%s: %v", op, err)
		}
		w.model[p] = content
		return op
	}
	// A layer link or a blob may be found though it is not listed, and is
	// hidden by its removal.
	_, err := w.Stat(p)
	may := w.model.unlink(p) || err == nil
	if err := w.Unlink(p); may != (err == nil) {
		w.t.Errorf("unlink %s: %v, want success: %v", p, err, may)
	}
	if _, err := w.Stat(p); err == nil {
		w.t.Errorf("%s is still found", p)
	}
	return "unlink " + p
}
