package cas

import (
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

const blobsDir = layout.Root + "/blobs"

// blobPath returns the path of a blob's file. The digest must be valid.
func blobPath(d digest.Digest) string { return layout.BlobDataPath(d) }

// checkForeign refuses a name that is no proper path, or that lies in the part
// of the store that belongs to this package.
func checkForeign(name string) error {
	top, _, _ := strings.Cut(name, "/")
	blobsTop, _, _ := strings.Cut(blobsDir, "/")
	if !fs.ValidPath(name) || top == "." || top == tempDir || top == blobsTop {
		return fs.ErrInvalid
	}
	return nil
}
