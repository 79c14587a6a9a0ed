package archive

import (
	"archive/tar"
	"bytes"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	dirMode  = 0o755
	fileMode = 0o644

	blockSize   = 512           // of a tar: contents are padded to it
	trailerSize = 2 * blockSize // the end of a tar, which is zeros

	// The content of a file of at least alignFrom bytes begins at a multiple of
	// alignment in the tar. That is the block of ext4, XFS and btrfs, and two
	// files can share whole blocks only. An aligned file takes 2.3 KB more on
	// average, at most 4.6 KB. To share one takes as long as to copy 64 KiB; from
	// twice that on the tar grows by 3.5 % at most, and by next to nothing with
	// layers of an ordinary size.
	alignment = 4096
	alignFrom = 128 << 10
)

// ModTime is that of all members. It is fixed, since two exports must have the same bytes. Not
// the epoch: GNU tar warns that it is implausibly old. 1980 is the first year
// that FAT and zip can hold, in which a package may be carried on.
var ModTime = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

// Size returns the size in bytes of the tar that WriteTar writes. It opens no
// file, but encodes each header: call it once.
func (a Archive) Size() int64 {
	at := int64(0)
	for header := range a.entries() {
		// A header that cannot be written is for WriteTar to report.
		data, _ := encodeAt(header, at)
		at += int64(len(data)) + padded(header.Size)
	}
	return at + trailerSize
}

// padded is the room that a content takes.
func padded(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// encodeAt returns a header's bytes, given where in the tar they will stand. A
// large file's is filled up to alignment.
func encodeAt(header *tar.Header, at int64) ([]byte, error) {
	data, err := encodeHeader(header)
	if err != nil || header.Size < alignFrom || gap(at, data) == 0 {
		return data, err
	}
	if data, err = encodeFilled(header, leastFiller); err != nil || gap(at, data) == 0 {
		return data, err
	}
	// Whole blocks more are whole blocks more, whatever other records there are.
	return encodeFilled(header, leastFiller+gap(at, data))
}

// gap is from a header's end to the next boundary.
func gap(at int64, header []byte) int {
	return int(-(at + int64(len(header))) & (alignment - 1))
}

// leastFiller is a record's length that leaves room for others in its block.
// Neither it nor what is whole blocks longer is 100 or 1000: no writer makes
// such a record, as its own length in decimal is a part of it.
const leastFiller = 16

// encodeFilled adds a comment, over which every tar passes, with a record
// ("16 comment=    \n") of size bytes.
func encodeFilled(header *tar.Header, size int) ([]byte, error) {
	value := strings.Repeat(" ", size-len(strconv.Itoa(size)+" comment=\n"))
	filled := *header
	filled.PAXRecords = map[string]string{"comment": value}
	return encodeHeader(&filled)
}

// encodeHeader asks the one who knows: a long path takes further blocks.
func encodeHeader(header *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(header)
	return b.Bytes(), err
}

// entries yields the tar's entries in order: members, and before the first one
// in a directory that directory, with a nil Member.
func (a Archive) entries() iter.Seq2[*tar.Header, *Member] {
	return func(yield func(*tar.Header, *Member) bool) {
		made := make(map[string]bool)
		for i := range a {
			for _, dir := range newDirs(made, a[i].Path) {
				if !yield(dirHeader(dir), nil) {
					return
				}
			}
			if !yield(fileHeader(&a[i]), &a[i]) {
				return
			}
		}
	}
}

// newDirs returns the directories above a path, with a slash at the end, that
// are not made yet, and takes them for made.
func newDirs(made map[string]bool, path string) []string {
	var dirs []string
	for i := strings.LastIndexByte(path, '/'); i > 0 && !made[path[:i+1]]; i = strings.LastIndexByte(path[:i], '/') {
		made[path[:i+1]] = true
		dirs = append(dirs, path[:i+1])
	}
	slices.Reverse(dirs)
	return dirs
}

// The headers leave the format open: archive/tar then takes USTAR, and PAX
// where a path or a size does not fit. Owner and group are the number 0 without
// a name, since a name would be looked up where the tar is unpacked.

func dirHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: dirMode, ModTime: ModTime}
}

func fileHeader(m *Member) *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: m.Path, Size: m.Size, Mode: fileMode, ModTime: ModTime}
	if m.Same != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, m.Same
	}
	return h
}
