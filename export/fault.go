package export

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A message names this much and counts the rest: one base layer that is lost
// is needed by every image there is.
const (
	maxBlobsNamed  = 10
	maxImagesNamed = 5
)

// Missing is a blob that the release needs and the store has not.
type Missing struct {
	Digest digest.Digest `json:"digest"`
	Images []string      `json:"images"` // all that need it, sorted
}

// Damage is a blob that is there and cannot be what the release needs.
type Damage struct {
	Digest  digest.Digest `json:"digest"`
	Problem string        `json:"problem"`
	Images  []string      `json:"images"` // all that need it, sorted
	// Unreadable says that it is the file which cannot be read.
	Unreadable bool `json:"unreadable,omitempty"`
}

// A MissingError says that a release is incomplete. Its message is bounded,
// the list is not.
type MissingError struct {
	Release string
	Missing []Missing
}

func (e *MissingError) Error() string {
	return message(e.Release, e.Missing, func(m Missing) string {
		return blame(m.Digest, "not in the store", m.Images)
	})
}

// A DamagedError says that a release's blobs are not what its manifests say.
// Its message is bounded, the list is not.
type DamagedError struct {
	Release string
	Damaged []Damage
}

func (e *DamagedError) Error() string {
	return message(e.Release, e.Damaged, func(d Damage) string {
		return blame(d.Digest, d.Problem, d.Images)
	})
}

func message[T any](release string, faults []T, describe func(T) string) string {
	var parts []string
	for _, fault := range faults[:min(len(faults), maxBlobsNamed)] {
		parts = append(parts, describe(fault))
	}
	if more := len(faults) - maxBlobsNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more blobs", more))
	}
	return "export " + release + ": " + strings.Join(parts, "; ")
}

func blame(d digest.Digest, problem string, images []string) string {
	return fmt.Sprintf("blob %s: %s, needed by %s", d, problem, enumerate(images))
}

func enumerate(images []string) string {
	if more := len(images) - maxImagesNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(images[:maxImagesNamed], ", "), more)
	}
	return strings.Join(images, ", ")
}
