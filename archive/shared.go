package archive

import (
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Shared returns how many bytes of the tar will take no space in a file, as it
// shares them with the store: 0 where the file system cannot. The file is new
// and empty. Whether two files can share, only the kernel knows, so it is
// tried; what comes of it is taken back.
func (a Archive) Shared(file *os.File, blobs Opener) int64 {
	var first *Member
	total := int64(0)
	for i, f := range a {
		if f.Blob == "" || f.Unpacked != "" || f.Size < alignFrom {
			continue
		}
		if first == nil {
			first = &a[i]
		}
		total += f.Size - f.Size%alignment
	}
	if first == nil || !shares(file, first, blobs) {
		return 0
	}
	return total
}

// Packed is about how many bytes the tar has when it is compressed: blobs are
// compressed already, in images. What they are unpacked to counts as much as
// they.
func (a Archive) Packed(blobs Opener) (n int64) {
	for _, m := range a {
		size := m.Size
		if m.Unpacked != "" {
			size = min(size, sizeOf(blobs, m.Blob))
		}
		n += size
	}
	return n
}

// sizeOf is 0 for a blob that cannot be opened, which whoever reads it says.
func sizeOf(blobs Opener, d digest.Digest) int64 {
	f, err := blobs.Open(d)
	if err != nil {
		return 0
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// shares clones a block. An error is no news: the tar will be written by
// another way, or it will not, and WriteTar says why.
func shares(file *os.File, f *Member, blobs Opener) bool {
	blob, err := blobs.Open(f.Blob)
	if err != nil {
		return false
	}
	defer blob.Close()
	if !canClone(int(file.Fd())) {
		return false
	}
	err = unix.IoctlFileCloneRange(int(file.Fd()), &unix.FileCloneRange{Src_fd: int64(blob.Fd()), Src_length: alignment})
	return file.Truncate(0) == nil && err == nil
}
