package deliver

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// MaxParts is how many parts a stream may have: their numbers have three
// digits, so that a shell lists them in their order.
const MaxParts = 1000

// LeastPart is the size of the smallest part.
const LeastPart = 1 << 20

// sumsSuffix is the name of the file with the parts' checksums. It comes last:
// where it is, all parts are.
const sumsSuffix = ".SHA256SUMS"

// toParts writes NAME.000, NAME.001, ..., each of the same size but the last.
// "cat NAME.[0-9][0-9][0-9]" is the stream.
func toParts(name string, o Options, write func(io.Writer) error) error {
	s := &splitter{name: name, options: o}
	if err := compressed(s, o, write); err != nil {
		return s.giveUp(err)
	}
	if err := s.endPart(); err != nil {
		return s.giveUp(err)
	}
	return s.finish()
}

// A splitter is a writer that begins a new part when one is full. A part that
// is full is closed: it is looked at no more before all are there.
type splitter struct {
	name    string
	options Options
	current *part
	sum     hash.Hash
	at      int64    // in the current part
	done    []string // the names of full parts
	sums    strings.Builder
	total   int64
}

func (s *splitter) Write(data []byte) (n int, err error) {
	for n < len(data) {
		if s.current == nil || s.at == s.options.Split {
			if err := s.next(); err != nil {
				return n, err
			}
		}
		piece := data[n:min(int64(len(data)), int64(n)+s.options.Split-s.at)]
		m, err := s.current.Write(piece)
		s.sum.Write(piece[:m])
		s.at += int64(m)
		s.total += int64(m)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *splitter) next() error {
	if err := s.endPart(); err != nil {
		return err
	}
	if len(s.done) == MaxParts {
		return fmt.Errorf("more than %d parts; make them larger", MaxParts)
	}
	fits := s.options.Fits
	if len(s.done) > 0 {
		fits = nil // it was asked once, for all
	} else if fits != nil {
		fits = func(f *os.File, kept int64) error { return s.options.Fits(f, kept+s.keptElsewhere()) }
	}
	name := fmt.Sprintf("%s.%03d", s.name, len(s.done))
	var err error
	s.current, err = openPart(name, fits)
	s.sum, s.at = sha256.New(), 0
	return err
}

// keptElsewhere is the size of the parts behind the first that an export which
// was killed has left.
func (s *splitter) keptElsewhere() (n int64) {
	for i := 1; i < MaxParts; i++ {
		info, err := os.Lstat(partName(fmt.Sprintf("%s.%03d", s.name, i)))
		if err != nil {
			return n
		}
		n += info.Size()
	}
	return n
}

func (s *splitter) endPart() error {
	if s.current == nil {
		return nil
	}
	err := errors.Join(s.current.sync(), s.current.file.Close())
	fmt.Fprintf(&s.sums, "%x  %s\n", s.sum.Sum(nil), filepath.Base(s.current.name))
	s.done = append(s.done, s.current.name)
	s.current = nil
	return err
}

// finish gives the parts their names, and removes those of an older stream
// that was longer. While it is at work there is no file of checksums.
func (s *splitter) finish() error {
	sums := s.name + sumsSuffix
	err := os.Remove(sums)
	if os.IsNotExist(err) {
		err = nil
	}
	for _, name := range s.done {
		if err == nil {
			err = os.Rename(partName(name), name)
		}
	}
	for _, old := range append(partsOf(s.name), leftOf(s.name)...) {
		if err == nil && !slices.Contains(s.done, old) {
			err = os.Remove(old)
		}
	}
	if err != nil {
		return err
	}
	p, err := openPart(sums, nil)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(p, s.sums.String()); err != nil {
		return p.giveUp(err, Options{})
	}
	return p.finish()
}

// giveUp removes all parts, unless somebody will come back to them.
func (s *splitter) giveUp(err error) error {
	if s.options.Interrupted != nil && s.options.Interrupted(err) && s.total > 0 {
		if s.current != nil {
			err = errors.Join(err, s.current.file.Close())
		}
		return &Kept{err, partName(s.name+".000") + " and on", s.total}
	}
	if s.current != nil {
		err = errors.Join(err, s.current.giveUp(nil, Options{}))
	}
	for _, name := range s.done {
		err = errors.Join(err, os.Remove(partName(name)))
	}
	return err
}

var number = regexp.MustCompile(`^\.[0-9]{3}$`)

// partsOf lists the parts that are there under their names.
func partsOf(name string) (all []string) {
	entries, _ := os.ReadDir(filepath.Dir(name))
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), filepath.Base(name)); ok && number.MatchString(rest) {
			all = append(all, filepath.Join(filepath.Dir(name), e.Name()))
		}
	}
	return all
}

// leftOf lists parts that were begun, and not by us.
func leftOf(name string) (all []string) {
	entries, _ := os.ReadDir(filepath.Dir(name))
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "."+filepath.Base(name))
		rest, isPart := strings.CutSuffix(rest, ".part")
		if ok && isPart && number.MatchString(rest) {
			all = append(all, filepath.Join(filepath.Dir(name), e.Name()))
		}
	}
	return all
}
