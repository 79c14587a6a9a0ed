// Package deliver brings a stream of bytes to where it goes: into a file, or
// parts of one, or down a pipe; compressed or as it is.
//
// Promised: what has a name is whole and on the disk. Until then it lies beside
// it as .NAME.part. Of an export that fails nothing is left. One that was
// killed or interrupted leaves its .part files, and the next one to the same
// name goes on where they end: they are compared, byte for byte, with what
// would be written, and from the first difference on written anew. So nothing
// need be known of who left them, or how much of them a power failure has spared.
//
// The bytes that arrive depend on the stream only: not on the machine, nor on
// how many processors compress it. What is compressed may be otherwise by
// another version of this program.
package deliver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options say how a stream is delivered.
type Options struct {
	Compression Compression
	Split       int64 // the size of a part; 0: one file
	Force       bool  // over what is there

	// Fits, if given, is asked before anything is written whether there is room
	// where the file is; of kept bytes it is known that they are there already.
	Fits func(f *os.File, kept int64) error

	// Interrupted says of an error that somebody has stopped the work: what is
	// there is kept for the next time.
	Interrupted func(error) bool
}

// A Kept says that .part files were kept, and how many bytes they have.
type Kept struct {
	Err   error
	Name  string
	Bytes int64
}

func (e *Kept) Error() string {
	return fmt.Sprintf("%v; %d bytes are kept in %s, and the same command goes on from there", e.Err, e.Bytes, e.Name)
}

func (e *Kept) Unwrap() error { return e.Err }

// Check finds out, before any work, what stands in the way of an output. "-"
// is standard output.
func Check(name string, o Options) error {
	if name == "-" {
		if o.Split > 0 {
			return errors.New("parts need a name: standard output is one stream")
		}
		return nil
	}
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory; name a file in it: %w", name, unix.EISDIR)
	case err == nil && !info.Mode().IsRegular() && o.Split > 0:
		return fmt.Errorf("%s is no file, and cannot have parts", name)
	case err == nil && info.Mode().IsRegular() && !o.Force && o.Split == 0:
		return exists(name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Stat(filepath.Dir(name)); err != nil {
		return err
	}
	if o.Split > 0 && !o.Force {
		if old := partsOf(name); len(old) > 0 {
			return exists(old[0])
		}
	}
	return nil
}

func exists(name string) error {
	return fmt.Errorf("%s exists; use --force to overwrite it: %w", name, fs.ErrExist)
}

// To lets write fill the output of that name. A writer that is given an
// [*os.File], or something with a method Plain that returns one in the end,
// may write to the file in other ways.
func To(name string, o Options, write func(io.Writer) error) error {
	if name == "-" {
		return compressed(os.Stdout, o, write)
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return toDevice(name, o, write)
	}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target // a link to the file stays one
	}
	if o.Split > 0 {
		return toParts(name, o, write)
	}
	f, err := openPart(name, o.Fits)
	if err != nil {
		return err
	}
	if err := compressed(f, o, write); err != nil {
		return f.giveUp(err, o)
	}
	return f.finish()
}

// toDevice writes to what is no file: a pipe, /dev/null.
func toDevice(name string, o Options, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(compressed(f, o, write), f.Close())
}

// compressed lets write fill w, through the compression that is asked for.
func compressed(w io.Writer, o Options, write func(io.Writer) error) error {
	if o.Compression == None {
		return write(w)
	}
	frames := newFrames(w, o.Compression)
	err := write(frames)
	return errors.Join(err, frames.Close(err == nil))
}
