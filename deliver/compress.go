package deliver

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// A Compression is a format of compressed streams.
type Compression string

// The compressions.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// Set makes a Compression a flag.
func (c *Compression) Set(text string) error {
	switch Compression(text) {
	case None, Gzip, Zstd:
		*c = Compression(text)
		return nil
	}
	return fmt.Errorf("no compression; there are gzip and zstd")
}

func (c *Compression) String() string { return string(*c) }

// Type is what help calls the flag's value.
func (c *Compression) Type() string { return "gzip|zstd" }

// chunkSize is how much is compressed at a time, each for itself: a gzip member
// or a zstd frame. Formats and all their programs allow for several in a row. So
// the bytes do not depend on who compresses how many at once. 4 MiB cost under
// one percent of the size, and are the memory that a processor needs.
const chunkSize = 4 << 20

// maxWorkers bounds that memory, on machines with many processors, to 100 MiB.
const maxWorkers = 8

// frames is a writer that compresses, on all processors, and writes in order.
type frames struct {
	w        io.Writer
	compress func(to, chunk []byte) []byte
	chunk    []byte
	spare    sync.Pool        // of buffers, for chunks and what becomes of them
	queue    chan chan []byte // what is being compressed, in order
	written  chan struct{}    // closed when all of the queue is

	mu  sync.Mutex // guards err
	err error      // of w
}

func newFrames(w io.Writer, c Compression) *frames {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	f := &frames{w: w, compress: compressor(c, workers), queue: make(chan chan []byte, workers), written: make(chan struct{})}
	go f.writeAll()
	return f
}

// writeAll writes what was compressed, until the queue is closed.
func (f *frames) writeAll() {
	defer close(f.written)
	for result := range f.queue {
		data := <-result
		if f.failed() == nil {
			_, err := f.w.Write(data)
			f.fail(err)
		}
		f.spare.Put(&data)
	}
}

func (f *frames) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *frames) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *frames) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := f.failed(); err != nil {
			return n, err
		}
		if f.chunk == nil {
			f.chunk = f.buffer()
		}
		m := min(len(p)-n, chunkSize-len(f.chunk))
		f.chunk = append(f.chunk, p[n:n+m]...)
		n += m
		if len(f.chunk) == chunkSize {
			f.send()
		}
	}
	return n, nil
}

// send gives the chunk to a processor; it waits while all are busy.
func (f *frames) send() {
	chunk := f.chunk
	f.chunk = nil
	result := make(chan []byte, 1)
	f.queue <- result
	go func() {
		result <- f.compress(f.buffer(), chunk)
		f.spare.Put(&chunk)
	}()
}

// buffer has room for a chunk, and for one that cannot be compressed and gets
// headers.
func (f *frames) buffer() []byte {
	if b, ok := f.spare.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, chunkSize+chunkSize/1024)
}

// Close ends the stream; whole says that nothing is missing of it.
func (f *frames) Close(whole bool) error {
	if whole && len(f.chunk) > 0 {
		f.send()
	}
	close(f.queue)
	<-f.written
	return f.failed()
}

// compressor returns a function that may be called by so many at once. Neither
// times nor names get into what it returns.
func compressor(c Compression, workers int) func(to, chunk []byte) []byte {
	if c == Zstd {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(workers),
			zstd.WithWindowSize(chunkSize), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
		if err != nil {
			panic(err) // the options are constant
		}
		return func(to, chunk []byte) []byte { return e.EncodeAll(chunk, to) }
	}
	writers := sync.Pool{New: func() any { return gzip.NewWriter(nil) }} // level 6
	return func(to, chunk []byte) []byte {
		b := bytes.NewBuffer(to)
		w := writers.Get().(*gzip.Writer)
		defer writers.Put(w)
		w.Reset(b)
		// Into memory it cannot fail.
		w.Write(chunk)
		w.Close()
		return b.Bytes()
	}
}
