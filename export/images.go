package export

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/manifest"
)

// An Image is one thing to be pulled from a release. Its JSON form is the
// output of "regfs ls --json": keys are never given a new meaning.
type Image struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"` // empty if it can be pulled by digest only
	Digest     digest.Digest `json:"digest"`
	MediaType  string        `json:"media_type"` // of the manifest; empty if it is not in the store
	Size       int64         `json:"size"`       // bytes of itself and all it needs that is in the store, each blob once
	Layers     int           `json:"layers"`     // different ones, of all platforms
	Platforms  []string      `json:"platforms,omitempty"`
	Linked     time.Time     `json:"linked"` // when the tag was set, or the untagged manifest pushed
}

// Images lists the images of a release, by repository and tag: all tags that
// point at a linked manifest, and the untagged manifests that no linked index
// contains. Platforms are those an index states; a single image's would be in
// its config, which is not read.
//
// A blob that is missing is no error: one lists a release also to see what is
// left of it.
func Images(release *index.Release, blobs *cas.Store) ([]Image, error) {
	l := lister{sizes: newSizes(blobs), images: []Image{}} // none is [] in JSON, not null
	for _, name := range release.Repositories() {
		if err := l.repository(survey(release, name)); err != nil {
			return nil, fmt.Errorf("list %s: %w", release.Name, err)
		}
	}
	slices.SortFunc(l.images, func(a, b Image) int {
		return cmp.Or(
			cmp.Compare(a.Repository, b.Repository),
			cmp.Compare(a.Tag, b.Tag),
			cmp.Compare(a.Digest, b.Digest))
	})
	return l.images, nil
}

type lister struct {
	sizes  sizes
	images []Image
}

func (l *lister) repository(repo *repository) error {
	for _, t := range repo.tags {
		if rev, ok := repo.revisions[t.current]; ok {
			if err := l.add(repo, t.name, t.time, rev); err != nil {
				return err
			}
		}
	}
	for _, rev := range repo.revisions {
		if rev.loose() {
			if err := l.add(repo, "", rev.time, rev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) add(repo *repository, tag string, linked time.Time, rev *revision) error {
	image := Image{Repository: repo.name, Tag: tag, Digest: rev.digest, Linked: linked}
	if err := l.measure(&image, rev.needs); err != nil {
		return fmt.Errorf("image %s: %w", rev.images[0], err)
	}
	l.images = append(l.images, image)
	return nil
}

func (l *lister) measure(image *Image, needs []index.Need) (err error) {
	for _, need := range needs {
		if need.Absent {
			continue
		}
		size, there, err := l.sizes.of(need.Digest)
		if err != nil {
			return err
		}
		if there {
			image.Size += size
		}
		if need.Role == manifest.Layer {
			image.Layers++
		}
		if namesPlatform(need) {
			image.Platforms = append(image.Platforms, need.Platform)
		}
	}
	slices.Sort(image.Platforms)
	image.Platforms = slices.Compact(image.Platforms)
	image.MediaType, err = mediaType(l.sizes.blobs, image.Digest)
	return err
}

// namesPlatform passes over attestations, which BuildKit files in an index
// under this platform.
func namesPlatform(need index.Need) bool {
	return need.Platform != "" && need.Platform != "unknown/unknown"
}

// mediaType reads a manifest: a release gives what it needs, not what it is.
func mediaType(blobs *cas.Store, d digest.Digest) (string, error) {
	file, err := blobs.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, manifest.MaxSize+1))
	if err != nil {
		return "", fmt.Errorf("read manifest %s: %w", d, cause(err))
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return "", fmt.Errorf("manifest %s: %w", d, err)
	}
	return m.MediaType, nil
}
