package export

import (
	"archive/tar"
	"iter"
	"strings"
	"time"
)

const (
	dirMode  = 0o755
	fileMode = 0o644

	blockSize   = 512           // of a tar: contents are padded to it
	trailerSize = 2 * blockSize // the end of a tar, which is zeros
)

// modTime is the same for all, since two exports must have the same bytes. Not
// the epoch: GNU tar warns that it is implausibly old. 1980 is the first year
// that FAT and zip can hold, in which a package may be carried on.
var modTime = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

// Size returns the size in bytes of the tar that WriteTar writes.
func (inv *Inventory) Size() int64 {
	total := int64(trailerSize)
	for header := range inv.entries() {
		total += headerSize(header) + (header.Size+blockSize-1)/blockSize*blockSize
	}
	return total
}

// headerSize asks the one who knows: a long path takes further blocks. A
// header that cannot be written at all is for WriteTar to report.
func headerSize(header *tar.Header) int64 {
	var n counter
	_ = tar.NewWriter(&n).WriteHeader(header)
	return int64(n)
}

type counter int64

func (n *counter) Write(p []byte) (int, error) {
	*n += counter(len(p))
	return len(p), nil
}

// entries yields the tar's entries in order: files, and before the first file
// in a directory that directory, with a nil File.
func (inv *Inventory) entries() iter.Seq2[*tar.Header, *File] {
	return func(yield func(*tar.Header, *File) bool) {
		previous := ""
		for i := range inv.Files {
			file := &inv.Files[i]
			for _, dir := range newDirs(previous, file.Path) {
				if !yield(dirHeader(dir), nil) {
					return
				}
			}
			if !yield(fileHeader(file), file) {
				return
			}
			previous = file.Path
		}
	}
}

// newDirs returns the directories above a path, with a slash at the end, that
// are not above the previous one. As the paths are sorted, nothing before that
// one has them either.
func newDirs(previous, path string) []string {
	var dirs []string
	for i := range len(path) {
		if dir := path[:i+1]; path[i] == '/' && !strings.HasPrefix(previous, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// The headers leave the format open: archive/tar then takes USTAR, and PAX
// where a path or a size does not fit. Owner and group are the number 0 without
// a name, since a name would be looked up where the tar is unpacked.

func dirHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: dirMode, ModTime: modTime}
}

func fileHeader(f *File) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: f.Size, Mode: fileMode, ModTime: modTime}
}
