package overlay

import (
	"os"
	"path/filepath"
	"time"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
)

// fill lays out what the release says in an upper directory: its manifests,
// its tags, the directories that somebody made, and whiteouts for what was
// removed. Its layer links are among those of all releases, its blobs in the
// store. It reports whether there was anything.
func (o *Overlay) fill(dir string) (filled bool, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false, err
	}
	release, err := o.store.Index.Open(o.Release)
	if err != nil {
		return false, err
	}
	defer release.Close()
	f := filler{release: release, index: o.store.Index, dir: dir}
	for _, name := range release.Dirs() {
		f.mkdir(name)
	}
	for _, repo := range release.AllRepositories() {
		f.repository(repo)
	}
	for _, d := range release.HiddenBlobs() {
		f.whiteout(layout.Path{Kind: layout.BlobDir, Digest: d}.String())
	}
	return f.count > 0, f.err
}

// A filler writes until something goes wrong.
type filler struct {
	release *index.Release
	index   *index.DB
	dir     string
	count   int
	err     error
}

func (f *filler) repository(repo string) {
	for _, link := range f.release.Revisions(repo) {
		f.link(layout.RevisionLinkPath(repo, link.Digest), link)
	}
	for _, tag := range f.release.Tags(repo) {
		if link, ok := f.release.TagLink(repo, tag); ok {
			f.link(layout.TagCurrentLinkPath(repo, tag), link)
		}
		for _, link := range f.release.History(repo, tag) {
			f.link(layout.TagIndexLinkPath(repo, tag, link.Digest), link)
		}
	}
	for _, link := range f.release.Layers(repo) {
		if link.State == index.Linked && f.index.KnowsManifest(link.Digest) { // not among the links of all
			f.link(layout.LayerLinkPath(repo, link.Digest), link)
		}
	}
	for _, d := range f.release.HiddenLayers(repo) {
		f.whiteout(layout.Path{Kind: layout.LayerDir, Repository: repo, Digest: d}.String())
	}
}

// link writes a link with its time, by which it is told from one that a
// registry writes over it.
func (f *filler) link(name string, link index.Link) {
	path := filepath.Join(f.dir, name)
	f.do(func() error { return os.MkdirAll(filepath.Dir(path), 0o755) })
	f.do(func() error { return os.WriteFile(path, []byte(link.Digest), 0o644) })
	f.do(func() error { return os.Chtimes(path, time.Time{}, link.Time) })
}

func (f *filler) mkdir(name string) {
	f.do(func() error { return os.MkdirAll(filepath.Join(f.dir, name), 0o755) })
}

func (f *filler) whiteout(name string) {
	path := filepath.Join(f.dir, name)
	f.do(func() error { return os.MkdirAll(filepath.Dir(path), 0o755) })
	f.do(func() error { return makeWhiteout(path) })
}

func (f *filler) do(step func() error) {
	if f.err == nil {
		f.count++
		f.err = step()
	}
}
