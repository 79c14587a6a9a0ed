package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestDirectoriesComeFirstAndOnce(t *testing.T) {
	all := Archive{{Path: "a/b/1"}, {Path: "a/c/2"}, {Path: "d/3"}, {Path: "a/b/4"}, {Path: "a/b/e/f/5"}, {Path: "6"}}
	seen := map[string]bool{"": true}
	for header := range all.entries() {
		name := strings.TrimSuffix(header.Name, "/")
		parent := name[:max(0, strings.LastIndexByte(name, '/'))]
		if seen[name] || !seen[parent] {
			t.Errorf("%s: seen before: %v, its directory: %v", header.Name, seen[name], seen[parent])
		}
		seen[name] = true
	}
	if len(seen) != 13 {
		t.Errorf("%d entries", len(seen)-1)
	}
}

func TestSizeBeyondUSTAR(t *testing.T) {
	all := Archive{{Path: "blob", Size: 9 << 30, Blob: digest.FromString("")}}
	// PAX: a header for the records, the size and the comment, the header.
	if got, want := all.Size(), int64(8*512+9<<30+1024); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
}

// fixed describes files as in a release: the paths decide which headers are
// long, the sizes which contents are aligned.
func fixed(sizes ...int64) Archive {
	var all Archive
	for i, size := range sizes {
		d := digest.FromString(fmt.Sprint(i))
		if i%2 == 1 {
			d = digest.SHA512.FromString(fmt.Sprint(i)) // whose path is too long for USTAR
		}
		all = append(all, Member{Path: "blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data", Size: size, Blob: d})
	}
	return all
}

func TestLargeContentIsAligned(t *testing.T) {
	for header := range fixed(alignFrom, alignFrom, alignFrom+1, 9<<30, 9<<30).entries() {
		if header.Typeflag == tar.TypeDir {
			continue
		}
		plain, err := encodeHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < 3*alignment; at += blockSize {
			data, err := encodeAt(header, at)
			if err != nil || (at+int64(len(data)))%alignment != 0 || len(data)-len(plain) > alignment+blockSize {
				t.Errorf("%d bytes at %d: header of %d bytes, unaligned of %d, %v", header.Size, at, len(data), len(plain), err)
			}
			got, err := tar.NewReader(bytes.NewReader(data)).Next()
			if err != nil || got.Name != header.Name || got.Size != header.Size {
				t.Errorf("%d bytes at %d: read back as %+v, %v", header.Size, at, got, err)
			}
		}
	}
}

func TestSmallContentIsNot(t *testing.T) {
	all := fixed(alignFrom - 1)
	headers := int64(len(newDirs(map[string]bool{}, all[0].Path))+1) * blockSize
	if got, want := all.Size(), headers+alignFrom+trailerSize; got != want {
		t.Errorf("size %d, want %d", got, want)
	}
}
