package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
)

// quarantineDir is where blobs go that are not what their digests say. Nothing
// in it is looked at again, or deleted.
const quarantineDir = "quarantine"

// ErrWhole says that a blob is not damaged.
var ErrWhole = errors.New("the blob is whole")

// Quarantine puts aside what stands in a blob's place, whatever it is, and
// returns where it is now, in the store. The blob is absent then, so that the
// next push brings it back; a power loss does not undo that. Who has it open
// reads on.
//
// It is read once more where it is then: between the caller's look and the
// move, a push may have replaced it. A whole blob goes back, and is ErrWhole.
func (s *Store) Quarantine(d digest.Digest) (to string, err error) {
	if err := d.Validate(); err != nil {
		return "", failure("quarantine", d.String(), err)
	}
	if to, err = s.quarantine(d); err != nil {
		return "", failure("quarantine", d.String(), err)
	}
	return to, nil
}

func (s *Store) quarantine(d digest.Digest) (string, error) {
	dir := path.Join(quarantineDir, d.Algorithm().String())
	if err := s.dir.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	to := path.Join(dir, d.Encoded())
	err := s.dir.RenameNew(blobPath(d), to)
	for n := 2; err == unix.EEXIST; n++ { // damaged before
		to = path.Join(dir, fmt.Sprintf("%s.%d", d.Encoded(), n))
		err = s.dir.RenameNew(blobPath(d), to)
	}
	if err != nil {
		return "", err
	}
	// First the place where it is: it may be at both after a power loss, but not
	// at none.
	for _, dir := range []string{dir, quarantineDir, ".", path.Dir(blobPath(d))} {
		if err := s.disk.syncDir(dir); err != nil {
			return to, err
		}
	}
	if !s.isWhole(to, d) {
		return to, nil
	}
	if err := s.dir.RenameNew(to, blobPath(d)); err != nil && err != unix.EEXIST {
		return to, err
	}
	return "", errors.Join(ErrWhole, s.disk.syncDir(path.Dir(blobPath(d))))
}

// isWhole says whether a file is what a digest says. One that cannot be read
// is not.
func (s *Store) isWhole(name string, d digest.Digest) bool {
	file, err := s.dir.OpenRegular(name)
	if err != nil {
		return false
	}
	defer file.Close()
	got, err := d.Algorithm().FromReader(file)
	return err == nil && got == d
}

// Protect gives a blob the mode that all have, so that nobody writes to it. It
// says nothing of the content.
func (s *Store) Protect(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return failure("protect", d.String(), err)
	}
	stat, err := s.dir.Lstat(blobPath(d))
	if err == nil && !beneath.IsRegular(stat) {
		err = beneath.ErrNotRegular
	}
	if err == nil {
		err = s.dir.Chmod(blobPath(d), blobMode)
	}
	if err != nil {
		return failure("protect", d.String(), err)
	}
	return nil
}

// DiscardLeftover removes one file that [Store.Inspect] has found to be left in
// the directory for files that are being written.
func (s *Store) DiscardLeftover(f Flaw) error {
	if f.Kind != Leftover || path.Dir(f.Path) != tempDir {
		return failure("discard", f.Path, fs.ErrInvalid)
	}
	if err := s.dir.Unlink(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure("discard", f.Path, err)
	}
	return nil
}
