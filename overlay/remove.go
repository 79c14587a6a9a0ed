package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/store"
)

// RemoveLinks removes the links of blobs that are about to go, on the disk too
// when it returns. The index still names them then: killed before it does not,
// whoever removes the blobs next comes here again. Nothing may be mounted by
// overlayfs, see [Overlay.Guard].
func RemoveLinks(s *store.Store, pairs []index.Pair) error {
	laying.Lock()
	defer laying.Unlock()
	removed := false
	for _, p := range pairs {
		path := filepath.Join(linksDir(s.Dir), layout.LayerLinkPath(p.Repository, p.Digest))
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		removed = true
		removeEmptyAbove(filepath.Join(linksDir(s.Dir), layout.Root, "repositories"), path)
	}
	if !removed {
		return nil
	}
	return syncAll(s.Dir)
}

// removeEmptyAbove removes the directories above a path that are empty, up to
// one that stays.
func removeEmptyAbove(top, path string) {
	for dir := filepath.Dir(path); dir != top && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
}
