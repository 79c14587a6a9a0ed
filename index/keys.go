package index

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// The keys. A field ends with NUL; no name may hold one. docs/format.md
// specifies keys and values.
//
//	r RELEASE                                  the release itself: JSON
//	x RELEASE NUL l REPO NUL DIGEST            layer link: state, time
//	x RELEASE NUL m REPO NUL DIGEST            manifest (revision link): time, absent digests
//	x RELEASE NUL t REPO NUL TAG               tag: time, digest
//	x RELEASE NUL i REPO NUL TAG NUL DIGEST    tag's history: time
//	x RELEASE NUL b DIGEST                     blob uploaded or hidden: state, time
//	x RELEASE NUL d PATH                       directory made by hand: time
//	f DIGEST                                   facts: what a manifest needs, for all releases
//	e REPO NUL DIGEST                          some release has linked the blob in the repository
//	j                                          a journal is kept
//	j REPO NUL DIGEST                          an e record that came since the journal was last read
//	c RELEASE                                  how many records the release has, by kind: JSON
//	c                                          the same of the index
//	s                                          whose index it is: an ID
const (
	keyRelease = 'r'
	keyIn      = 'x'
	keyFacts   = 'f'
	keyEver    = 'e'
	keyJournal = 'j'
	keyTally   = 'c'
	keyStore   = 's'

	keyLayer    = 'l'
	keyRevision = 'm'
	keyTag      = 't'
	keyTagIndex = 'i'
	keyBlob     = 'b'
	keyDir      = 'd'
)

// maxValue keeps every value in the LSM tree. Badger takes 1 MiB at most; the
// facts of an index of 10,000 children are under it because they are packed.
const maxValue = 1 << 20

// maxFacts bounds facts when they are not packed: what Badger holds could
// unpack to a gigabyte. They are a manifest again, in other words.
const maxFacts = 2 * manifest.MaxSize

// maxRelease is well below a file name's limit: a release has a directory in
// the store.
const maxRelease = 128

var releaseName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)

// ErrName is a release name that is not allowed.
var ErrName = errors.New("bad release name")

// ValidRelease says what is wrong with a release's name, if anything. A name
// is a directory's name in the store and a word on a command line.
func ValidRelease(name string) error {
	if len(name) > maxRelease {
		return fmt.Errorf("%w of %d characters: at most %d are allowed", ErrName, len(name), maxRelease)
	}
	if !releaseName.MatchString(name) {
		return fmt.Errorf("%w %q: use letters, digits, '.', '_', '+' and '-', and begin with a letter or a digit", ErrName, name)
	}
	return nil
}

func releaseKey(release string) []byte { return []byte(string(keyRelease) + release) }

func releasePrefix(release string) []byte { return []byte(string(keyIn) + release + "\x00") }

func key(release string, kind byte, fields ...string) []byte {
	return append(append(releasePrefix(release), kind), strings.Join(fields, "\x00")...)
}

func factsKey(d digest.Digest) []byte { return []byte(string(keyFacts) + d.String()) }

func everKey(repo string, d digest.Digest) []byte {
	return []byte(string(keyEver) + repo + "\x00" + d.String())
}

// A mark is what a release says of a layer link or a blob, beyond what
// follows from its manifests.
type mark byte

const (
	unmarked mark = iota
	own           // linked, or uploaded, through this release
	hidden        // removed by hand, until it is written again
)

func encodeTime(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano()))
}

func encodeMark(m mark, t time.Time) []byte { return append([]byte{byte(m)}, encodeTime(t)...) }

func encodeTag(d digest.Digest, t time.Time) []byte { return append(encodeTime(t), d.String()...) }

// encodeRevision: the digests of what is absent follow the time, each with a
// comma after it.
func encodeRevision(rev *revision) []byte {
	value := encodeTime(rev.time)
	for _, d := range rev.absent {
		value = append(value, d.String()+","...)
	}
	return value
}

func decodeAbsent(value []byte) ([]digest.Digest, error) {
	var absent []digest.Digest
	for text := range strings.SplitSeq(strings.TrimSuffix(string(value), ","), ",") {
		if text == "" {
			continue
		}
		d := digest.Digest(text)
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("absent %.100q: %w", text, err)
		}
		absent = append(absent, d)
	}
	return absent, nil
}

func decodeTime(value []byte) (time.Time, []byte, error) {
	if len(value) < 8 {
		return time.Time{}, nil, fmt.Errorf("record of %d bytes is too short for a time", len(value))
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(value))), value[8:], nil
}

func decodeMark(value []byte) (mark, time.Time, error) {
	if len(value) < 1 || mark(value[0]) != own && mark(value[0]) != hidden {
		return unmarked, time.Time{}, fmt.Errorf("record %x says neither linked nor hidden", value)
	}
	t, _, err := decodeTime(value[1:])
	return mark(value[0]), t, err
}

// packed is the first byte of facts that are compressed; JSON begins with '{'.
const packed = 1

// encodeFacts packs the facts of large indexes, which would not fit otherwise.
// What does not fit even so is refused: with long media types, which nobody
// has but an attacker, facts are nearly as large as the manifest.
func encodeFacts(m *manifest.Manifest) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil || len(plain) < 64<<10 {
		return plain, err
	}
	if len(plain) > maxFacts {
		return nil, fmt.Errorf("%d bytes of references, more than the %d of the largest facts: %w", len(plain), maxFacts, syscall.EINVAL)
	}
	buf := bytes.NewBuffer([]byte{packed})
	w, _ := flate.NewWriter(buf, flate.BestSpeed) // errs on a bad level only
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if buf.Len() >= maxValue {
		return nil, fmt.Errorf("%d bytes of references, packed, do not fit into the index: %w", buf.Len(), syscall.EINVAL)
	}
	return buf.Bytes(), nil
}

func decodeFacts(value []byte) (*manifest.Manifest, error) {
	m := new(manifest.Manifest)
	if err := unmarshalFacts(value, m); err != nil {
		return nil, err
	}
	return m, nil
}

// unmarshalFacts decodes facts, or as much of them as into has.
func unmarshalFacts(value []byte, into any) error {
	value, err := unpackFacts(value)
	if err == nil {
		err = json.Unmarshal(value, into)
	}
	if err != nil {
		return fmt.Errorf("index: facts of a manifest: %w", err)
	}
	return nil
}

func unpackFacts(value []byte) ([]byte, error) {
	if len(value) == 0 || value[0] != packed {
		return value, nil
	}
	plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value[1:])), maxFacts+1))
	if err == nil && len(plain) > maxFacts {
		err = fmt.Errorf("more than %d bytes", maxFacts)
	}
	return plain, err
}
