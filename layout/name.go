package layout

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	maxRepository = 255 // distribution/reference: RepositoryNameTotalLengthMax
	maxTag        = 128 // distribution/reference: TagRegexp
	maxName       = 255 // Linux: NAME_MAX
)

// ValidRepository reports whether name is a repository's, or the beginning of
// one's, by the grammar of distribution/reference, which is what a registry
// lets in: components joined by slashes, at most 255 bytes, where a component is
//
//	[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*
//
// and the first may be a host, as it is where images are mirrored under their
// full names: dots and capitals, and perhaps a port. An IPv6 address is not
// taken for one.
func ValidRepository(name string) bool {
	if len(name) > maxRepository {
		return false
	}
	first, rest, more := strings.Cut(name, "/")
	if !validPath(first) && !validHost(first) {
		return false
	}
	return !more || validPath(rest)
}

// validPath reports whether name is components joined by slashes.
func validPath(name string) bool {
	// A slash may stand where a separator may: between two words.
	for {
		word := wordLen(name)
		if word == 0 || word == len(name) {
			return word > 0
		}
		name = name[word:]
		separator := separatorLen(name)
		if separator == 0 {
			return false
		}
		name = name[separator:]
	}
}

// validHost reports whether name is labels joined by dots, where a label is
// [a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?, and perhaps :[0-9]+ after them.
func validHost(name string) bool {
	host, port, hasPort := strings.Cut(name, ":")
	if hasPort && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return true
}

// wordLen returns how much of the beginning of s is [a-z0-9]+.
func wordLen(s string) int {
	n := 0
	for n < len(s) && (isLower(s[n]) || isDigit(s[n])) {
		n++
	}
	return n
}

// separatorLen returns how much of the beginning of s is /|[._]|__|[-]+.
func separatorLen(s string) int {
	switch s[0] {
	case '/', '.':
		return 1
	case '_':
		return min(runLen(s), 2)
	case '-':
		return runLen(s)
	}
	return 0
}

// runLen returns how often the first byte of s stands there in a row.
func runLen(s string) int {
	n := 1
	for n < len(s) && s[n] == s[0] {
		n++
	}
	return n
}

// ValidTag reports whether tag is one: [\w][\w.-]{0,127}, as in
// distribution/reference.
func ValidTag(tag string) bool {
	if tag == "" || len(tag) > maxTag || tag[0] == '.' || tag[0] == '-' {
		return false
	}
	for i := range len(tag) {
		if !isTagByte(tag[i]) {
			return false
		}
	}
	return true
}

func isTagByte(c byte) bool {
	return isLower(c) || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_' || c == '.' || c == '-'
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// ImageName is how users know an image: by its tag, or by its digest if it has
// none.
func ImageName(repository, tag string, d digest.Digest) string {
	if tag == "" {
		return repository + "@" + d.String()
	}
	return repository + ":" + tag
}
