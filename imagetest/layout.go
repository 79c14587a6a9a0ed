package imagetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layout is an OCI image layout that is being written. It is one when close
// has returned.
type layout struct {
	dir    string
	mu     sync.Mutex // guards images
	images []Image
	index  []ocispec.Descriptor
}

// newLayout begins a layout in dir, which must not have one already.
func newLayout(dir string) (*layout, error) {
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	header, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	return &layout{dir: dir}, writeNew(filepath.Join(dir, ocispec.ImageLayoutFile), header)
}

// blobPath is where a layout keeps a blob.
func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// add writes a blob and returns its descriptor. Several goroutines may add the
// same blob: the first writes it.
func (l *layout) add(mediaType string, content []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	err := writeNew(blobPath(l.dir, desc.Digest), content)
	if os.IsExist(err) {
		return desc, nil
	}
	return desc, err
}

// writeNew writes a file that must not exist.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// addJSON writes a value as a blob.
func (l *layout) addJSON(mediaType string, value any) (ocispec.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.add(mediaType, content)
}

// adopt takes a blob over from another layout, as a hard link.
func (l *layout) adopt(dir string, d digest.Digest) error {
	err := os.Link(blobPath(dir, d), blobPath(l.dir, d))
	if os.IsExist(err) {
		return nil
	}
	return err
}

// tag puts a manifest into the release's list.
func (l *layout) tag(repository, tag string, desc ocispec.Descriptor) {
	image := Image{Repository: repository, Tag: tag, Digest: desc.Digest, MediaType: desc.MediaType}
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: image.Ref()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images = append(l.images, image)
	l.index = append(l.index, desc)
}

// close writes the list and returns the release.
func (l *layout) close(name string) (Release, error) {
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: l.index,
	})
	if err != nil {
		return Release{}, err
	}
	err = os.WriteFile(filepath.Join(l.dir, ocispec.ImageIndexFile), index, 0o644)
	return Release{Name: name, Dir: l.dir, Images: l.images}, err
}

// find returns the descriptor of a name in the layout dir.
func find(dir, ref string) (ocispec.Descriptor, error) {
	text, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", dir, err)
	}
	for _, desc := range index.Manifests {
		if desc.Annotations[ocispec.AnnotationRefName] == ref {
			return desc, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s: no image %s", dir, ref)
}
