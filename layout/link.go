package layout

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ParseLink returns the digest that a link file holds. White space around it
// is let pass, since an editor or a shell script leaves a newline; a registry
// itself writes none.
func ParseLink(content []byte) (digest.Digest, error) {
	d, err := digest.Parse(strings.TrimSpace(string(content)))
	if err != nil {
		return "", fmt.Errorf("parse link %s: %w", excerpt(content), err)
	}
	return d, nil
}

// excerpt quotes the beginning of a file that may be anything of any length.
func excerpt(content []byte) string {
	const enough = 80 // a whole sha256 digest, with its algorithm
	if len(content) > enough {
		return fmt.Sprintf("%q...", content[:enough])
	}
	return fmt.Sprintf("%q", content)
}
