// Package manifest says what a manifest needs: bytes to references.
//
// It understands what stock registries hold, of today and of ten years ago:
// Docker's schema 2, manifest list and schema 1, OCI's image manifest, index
// and the artifact manifest of the 1.1 release candidates. The type is found
// as a registry finds it, see [Parse].
//
// What [Parse] returns is what the manifest states, with digests that are well
// formed and of a known algorithm. Nothing is promised about the things
// referred to: neither that they exist nor that their sizes and types are as
// stated. The package does no I/O.
package manifest

import "github.com/opencontainers/go-digest"

// Bounds on what a client may make a server read and keep.
const (
	// MaxSize is the size of the largest manifest that a registry takes:
	// maxManifestBodySize in distribution's registry/handlers/manifests.go.
	MaxSize = 4 << 20

	// MaxRefs bounds the references of one manifest. It is a bound of ours:
	// Docker's overlay2 driver stops at 128 layers, so images are far below.
	MaxRefs = 10_000
)

// A Role is what a manifest refers to something as.
type Role string

// The roles: a repository holds a Config and a Layer by a layer link, a Child
// by a revision link.
const (
	Config Role = "config"
	Layer  Role = "layer" // any blob but the config
	Child  Role = "child" // a manifest
)

// A Ref is one thing that a manifest needs.
type Ref struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"type,omitempty"`
	Size      int64         `json:"size,omitempty"` // bytes, as stated; schema 1 states none
	Role      Role          `json:"role"`

	// Optional things may be absent from a release that is complete: layers to
	// be had elsewhere or not to be distributed, content that the manifest
	// embeds, and whatever an index lists, since an index may be sparse.
	Optional bool `json:"optional,omitempty"`

	// Platform is os/architecture[/variant] of an index's child, if given.
	Platform string `json:"platform,omitempty"`
}

// A Manifest is what is to be known of a manifest without reading it again.
// Its JSON form is stored in the index; keys are never given a new meaning.
type Manifest struct {
	// MediaType is never empty: where the manifest does not state its type, it
	// is the one that its shape implies.
	MediaType    string `json:"type"`
	ArtifactType string `json:"artifact,omitempty"`

	// Subject is the manifest that an OCI manifest says something about. It is
	// pointed at, not needed, and may well be absent.
	Subject digest.Digest `json:"subject,omitempty"`

	// Refs has each digest once, in the manifest's order, the config first.
	Refs []Ref `json:"refs,omitempty"`
}
