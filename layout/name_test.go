package layout

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// The grammar as distribution/reference writes it.
var (
	component  = `[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*`
	label      = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	host       = label + `(?:\.` + label + `)*(?::[0-9]+)?`
	repository = regexp.MustCompile(`^(?:` + component + `|` + host + `)(?:/` + component + `)*$`)
	tag        = regexp.MustCompile(`^[\w][\w.-]{0,127}$`)
)

func TestNamesAgainstRegexps(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		name := randomName(random)
		if got, want := ValidRepository(name), repository.MatchString(name); got != want {
			t.Fatalf("ValidRepository(%q) = %v", name, got)
		}
		if got, want := ValidTag(name), tag.MatchString(name); got != want {
			t.Fatalf("ValidTag(%q) = %v", name, got)
		}
	}
}

// randomName leans towards valid names: most of its bytes are words'.
func randomName(random *rand.Rand) string {
	const alphabet = "aaaazzz0009__--..//AZ[`{@::\n\x00\xc3"
	name := make([]byte, random.IntN(10))
	for i := range name {
		name[i] = alphabet[random.IntN(len(alphabet))]
	}
	return string(name)
}

func TestNameLengths(t *testing.T) {
	for name, want := range map[string]bool{
		strings.Repeat("a", 255):         true,
		strings.Repeat("a", 256):         false,
		strings.Repeat("a/", 127) + "a":  true,
		strings.Repeat("a/", 127) + "aa": false,
	} {
		if got := ValidRepository(name); got != want {
			t.Errorf("ValidRepository of %d bytes = %v", len(name), got)
		}
	}
	if !ValidTag(strings.Repeat("x", 128)) || ValidTag(strings.Repeat("x", 129)) {
		t.Error("a tag has at most 128 bytes")
	}
}
