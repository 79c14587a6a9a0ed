package cas

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// A small blob that has rotted is refused, and read once only.
func TestOpenProven(t *testing.T) {
	f := setup(t)
	d := f.commit("content")
	read := func(stated int64) error {
		file, err := f.OpenProven(d, stated)
		if err != nil {
			return err
		}
		defer file.Close()
		data, err := io.ReadAll(file)
		f.must(err)
		if string(data) != "content" {
			t.Errorf("read %q", data)
		}
		return nil
	}
	f.must(read(0))
	f.must(read(7))
	f.must(read(5)) // the one who states it is wrong
	before := len(f.proofs.all)
	f.must(read(0))
	if before != 1 || len(f.proofs.all) != 1 {
		t.Errorf("%d, then %d proofs", before, len(f.proofs.all))
	}

	f.must(os.Remove(f.path(blobPath(d))))
	f.write(blobPath(d), "CONTENT")
	var corrupt *CorruptError
	for range 2 {
		if err := read(0); !errors.As(err, &corrupt) || corrupt.Want != d {
			t.Errorf("rotten: %v", err)
		}
	}
	f.must(os.Remove(f.path(blobPath(d))))
	f.write(blobPath(d), "cont")
	var size *SizeError
	if err := read(7); !errors.As(err, &size) || size.Size != 4 || size.Stated != 7 || !errors.As(err, &corrupt) {
		t.Errorf("cut short: %v", err)
	}
	_, err := f.Quarantine(d)
	f.must(err)
	f.commit("content")
	f.must(read(7))
}

// A large one is read only if its size is doubtful.
func TestOpenProvenLarge(t *testing.T) {
	f := setup(t)
	content := strings.Repeat("x", maxProven+1)
	d := f.commit(content)
	f.must(os.Remove(f.path(blobPath(d))))
	f.write(blobPath(d), strings.ToUpper(content))
	file, err := f.OpenProven(d, int64(len(content)))
	f.must(err)
	file.Close()
	if len(f.proofs.all) != 0 {
		t.Error("it was read")
	}
	if _, err := f.OpenProven(d, 10); !errors.As(err, new(*SizeError)) {
		t.Errorf("of a doubtful size: %v", err)
	}
}

func TestProofsAreBounded(t *testing.T) {
	var p proofs
	for i := range maxProofs + 10 {
		p.put(proof{ino: uint64(i)}, nil)
	}
	if len(p.all) > maxProofs {
		t.Errorf("%d proofs", len(p.all))
	}
}

func BenchmarkOpenProven(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	f := &fixture{T: new(testing.T), Store: s, dir: b.TempDir()}
	for name, content := range map[string]string{"4 KB": strings.Repeat("m", 4<<10), "1 MiB": strings.Repeat("m", 1<<20)} {
		d := f.commit(content)
		open := func(b *testing.B, open func() (*os.File, error)) {
			for b.Loop() {
				file, err := open()
				if err != nil {
					b.Fatal(err)
				}
				file.Close()
			}
		}
		b.Run(name+", Open", func(b *testing.B) { open(b, func() (*os.File, error) { return s.Open(d) }) })
		b.Run(name+", again", func(b *testing.B) { open(b, func() (*os.File, error) { return s.OpenProven(d, 0) }) })
		b.Run(name+", first", func(b *testing.B) {
			open(b, func() (*os.File, error) { s.proofs.all = nil; return s.OpenProven(d, 0) })
		})
	}
}
