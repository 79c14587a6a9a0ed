package patch

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// Bounds on what a patch makes its reader keep. A release of 10,000 images has
// some 200,000 files.
const (
	maxDocument = 16 << 20
	maxSums     = 4 << 20 // lines
	maxLine     = 4096
)

// A Part is what a file of a patch's documents is.
type Part int

// The parts. NoPart is any other file.
const (
	NoPart Part = iota
	TheDocument
	Requires // a list for [ParseSums]
	Whole    // the same, of all files that the release has
	Release  // the document of a sealed release, of package seal
	Aside    // the script, and what else is for people
)

// PartOf tells what lies at a path, and of which release.
func PartOf(path string) (Part, string) {
	rest, ok := strings.CutPrefix(path, "regfs/")
	release, name, two := strings.Cut(rest, "/")
	if !ok || !two || release == "" || strings.Contains(name, "/") {
		return NoPart, ""
	}
	algorithm, isRequires := strings.CutPrefix(name, requiresName)
	upper, isSums := strings.CutSuffix(name, sumsSuffix)
	switch {
	case name == documentName:
		return TheDocument, release
	case isRequires && digest.Algorithm(algorithm).Available():
		return Requires, release
	case isSums && digest.Algorithm(strings.ToLower(upper)).Available():
		return Whole, release
	case name == sealedName:
		return Release, release
	case name == scriptName, name == removedName:
		return Aside, release
	}
	return NoPart, ""
}

// ParseDocument reads patch.json.
func ParseDocument(r io.Reader) (*Document, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("patch.json: more than %d bytes", maxDocument)
	}
	doc := new(Document)
	if err := json.Unmarshal(data, doc); err != nil {
		return nil, fmt.Errorf("patch.json: %w", err)
	}
	if doc.Version != Version {
		return nil, fmt.Errorf("patch.json: version %d; this regfs reads %d", doc.Version, Version)
	}
	return doc, nil
}

// A Sum is a line of a list of checksums.
type Sum struct {
	Path   string
	Digest digest.Digest
}

// ParseSums reads a list of checksums that are all by one algorithm, that of
// the list's name: each of a blob or a link of a registry's tree.
func ParseSums(name string, r io.Reader, add func(Sum)) error {
	algorithm := listAlgorithm(name)
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, maxLine), maxLine)
	for n := 1; scanner.Scan(); n++ {
		sum, err := parseSum(algorithm, scanner.Text())
		if err == nil && n > maxSums {
			err = errors.New("too many lines")
		}
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		add(sum)
	}
	return scanner.Err()
}

func listAlgorithm(name string) digest.Algorithm {
	name = name[strings.LastIndexByte(name, '/')+1:]
	name = strings.TrimPrefix(strings.TrimSuffix(name, sumsSuffix), requiresName)
	return digest.Algorithm(strings.ToLower(name))
}

func parseSum(algorithm digest.Algorithm, line string) (Sum, error) {
	hex, path, ok := strings.Cut(line, "  ")
	d := digest.NewDigestFromEncoded(algorithm, hex)
	p := layout.Parse(path)
	switch {
	case !ok || d.Validate() != nil:
		return Sum{}, fmt.Errorf("no checksum: %.100q", line)
	case p.Kind != layout.BlobData && !p.Kind.IsLink():
		return Sum{}, fmt.Errorf("no path of a registry's blob or link: %.300q", path)
	case p.Kind == layout.BlobData && p.Digest != d:
		return Sum{}, fmt.Errorf("another digest than the blob's: %.300q", path)
	}
	return Sum{path, d}, nil
}
