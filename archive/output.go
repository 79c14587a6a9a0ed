package archive

import (
	"context"
	"errors"
	"hash"
	"io"
	"os"
	"syscall"
)

const bufferSize = 1 << 20 // as one read of a disk is

// An output is a tar on its way to where it goes. What is small is gathered in
// a buffer: headers, links, small blobs, and the ends of large ones.
type output struct {
	w      io.Writer
	tell   func(bytes int64)
	buffer []byte // written to w when it is full
	at     int64  // where in the tar the next byte goes, the buffer's counted

	// What follows is there if w is a file, or has become one: the ways into it
	// that were not refused so far, the best first.
	later plainer
	conn  syscall.RawConn
	ways  []way
}

func newOutput(w io.Writer, tell func(int64)) *output { return newOutputWith(w, tell, nil) }

// newOutputWith takes the buffer of an output that is done, if there is one.
func newOutputWith(w io.Writer, tell func(int64), buffer []byte) *output {
	if buffer == nil {
		buffer = make([]byte, 0, bufferSize)
	}
	o := &output{w: w, tell: tell, buffer: buffer}
	if file, ok := w.(*os.File); ok {
		o.conn, o.ways = waysInto(file)
	}
	o.later, _ = w.(plainer)
	o.becomePlain()
	return o
}

// A plainer is a writer that has its own business with what is written first,
// and becomes a file then, which is to be written from where it stands.
type plainer interface{ Plain() *os.File }

// becomePlain finds the ways into such a file; the buffer is empty.
func (o *output) becomePlain() {
	if o.later == nil {
		return
	}
	if file := o.later.Plain(); file != nil {
		o.conn, o.ways = waysInto(file)
		o.later = nil
	}
}

func (o *output) Write(p []byte) (int, error) {
	for written := 0; written < len(p); {
		if len(o.buffer) == cap(o.buffer) {
			if err := o.flush(); err != nil {
				return written, err
			}
		}
		n := min(len(p)-written, cap(o.buffer)-len(o.buffer))
		o.buffer = append(o.buffer, p[written:written+n]...)
		o.at += int64(n)
		written += n
	}
	return len(p), nil
}

func (o *output) writeText(text string) error {
	_, err := io.WriteString(o, text)
	return err
}

var zeros [blockSize]byte

// pad ends a content.
func (o *output) pad() error {
	_, err := o.Write(zeros[:padded(o.at)-o.at])
	return err
}

func (o *output) flush() error {
	if len(o.buffer) == 0 {
		return nil
	}
	n, err := o.w.Write(o.buffer)
	o.buffer = o.buffer[:0]
	o.report(int64(n))
	if err == nil {
		o.becomePlain()
	}
	return err
}

func (o *output) report(n int64) {
	if o.tell != nil && n > 0 {
		o.tell(n)
	}
}

// copy writes exactly size bytes of a blob, and gives them to sum, if there is
// one.
func (o *output) copy(ctx context.Context, blob *os.File, size int64, sum hash.Hash) error {
	for from := int64(0); from < size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := o.copySome(blob, from, size-from, sum)
		if errors.Is(err, io.EOF) {
			return &SizeError{Want: size, Got: from + n}
		}
		if err != nil {
			return err
		}
		from += n
	}
	return nil
}

// copySome copies some bytes, up to a number: by the best way that is open, or
// through the buffer. The ways are for blobs that are aligned.
func (o *output) copySome(blob *os.File, from, left int64, sum hash.Hash) (int64, error) {
	for len(o.ways) > 0 && left >= alignment && from+left >= alignFrom {
		n, err := o.move(blob, from, left)
		if n == 0 && refused(err) {
			o.ways = o.ways[1:]
			continue
		}
		if err == nil && sum != nil {
			_, err = io.Copy(sum, io.NewSectionReader(blob, from, n))
		}
		return n, err
	}
	return o.read(blob, from, left, sum)
}

// move takes the best way.
func (o *output) move(blob *os.File, from, left int64) (n int64, err error) {
	if err := o.flush(); err != nil {
		return 0, err
	}
	n, err = o.ways[0].move(o.conn, blob, from, left)
	o.at += n
	o.report(n)
	return n, err
}

// read reads what the buffer has room for.
func (o *output) read(blob *os.File, from, left int64, sum hash.Hash) (int64, error) {
	if len(o.buffer) == cap(o.buffer) {
		if err := o.flush(); err != nil {
			return 0, err
		}
	}
	room := o.buffer[len(o.buffer):cap(o.buffer)]
	room = room[:min(int64(len(room)), left)]
	n, err := blob.ReadAt(room, from)
	if err == nil && sum != nil {
		sum.Write(room)
	}
	o.buffer = o.buffer[:len(o.buffer)+n]
	o.at += int64(n)
	return int64(n), err
}
