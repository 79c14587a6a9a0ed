package layout

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestParseLink(t *testing.T) {
	for content, want := range map[string]digest.Digest{
		string(sha256):                  sha256,
		string(sha256) + "\n":           sha256,
		" \t" + string(sha256) + "\r\n": sha256,
		string(sha512):                  sha512,
	} {
		if got, err := ParseLink([]byte(content)); got != want || err != nil {
			t.Errorf("ParseLink(%q) = %q, %v", content, got, err)
		}
	}
}

func TestParseLinkRefuses(t *testing.T) {
	for content, want := range map[string]error{
		"":                                     digest.ErrDigestInvalidFormat,
		"\x00\x00\x00":                         digest.ErrDigestInvalidFormat, // a file that lost its data in a crash
		hex256:                                 digest.ErrDigestInvalidFormat,
		"sha256:" + hex256[:63]:                digest.ErrDigestInvalidLength,
		"sha256:" + strings.ToUpper(hex256):    digest.ErrDigestInvalidFormat,
		"sha256:../../../../" + hex256[:52]:    digest.ErrDigestInvalidFormat,
		"md5:d41d8cd98f00b204e9800998ecf8427e": digest.ErrDigestUnsupported,
		string(sha256) + "\n" + string(sha256): digest.ErrDigestInvalidLength,
		strings.Repeat("x", 1<<20):             digest.ErrDigestInvalidFormat,
	} {
		d, err := ParseLink([]byte(content))
		if d != "" || !errors.Is(err, want) {
			t.Errorf("ParseLink(%.90q) = %q, %v, want %v", content, d, err, want)
			continue
		}
		if len(err.Error()) > 200 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}
