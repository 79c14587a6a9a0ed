// Package layout is the grammar of a registry's storage tree, version 2: what
// a path means, and which path a meaning has. The normative text is the
// comment on pathFor in distribution's registry/storage/paths.go.
//
// [Parse] never fails and trusts nothing: a path that a stock registry would
// not write itself is [Other]. So every other kind holds names and digests
// that are valid, and a path without "..", empty components or NUL. Nothing is
// promised about what lies at a path: the package does no I/O.
package layout

import "github.com/opencontainers/go-digest"

// Root is the directory in which the tree stands, seen from the registry's
// rootdirectory.
const Root = "docker/registry/v2"

// A Kind is the meaning of a path.
type Kind int

// The kinds of path, each with the fields of [Path] that belong to it.
const (
	// Other is not in the grammar: an ordinary file or directory. Uploads and
	// all that is below _uploads are, too. No fields.
	Other Kind = iota

	Top      // the directory above Root, "". No fields.
	Skeleton // docker, docker/registry, docker/registry/v2: Prefix

	Blobs         // no fields
	BlobAlgorithm // Algorithm
	BlobPrefix    // Algorithm, Prefix
	BlobDir       // Digest
	BlobData      // Digest

	Repositories // no fields
	Repository   // Repository: a repository, or a step towards one

	Layers         // Repository
	LayerAlgorithm // Repository, Algorithm
	LayerDir       // Repository, Digest
	LayerLink      // Repository, Digest

	Manifests         // Repository
	Revisions         // Repository
	RevisionAlgorithm // Repository, Algorithm
	RevisionDir       // Repository, Digest
	RevisionLink      // Repository, Digest

	Tags              // Repository
	TagDir            // Repository, Tag
	TagCurrent        // Repository, Tag
	TagCurrentLink    // Repository, Tag
	TagIndex          // Repository, Tag
	TagIndexAlgorithm // Repository, Tag, Algorithm
	TagIndexDir       // Repository, Tag, Digest
	TagIndexLink      // Repository, Tag, Digest

	// Temp is what a 3.x registry writes and then renames to a BlobData or a
	// link: that file's path and ".<something>.tmp". It has the fields of the
	// file it will become, but does not say which kind of file that is.
	Temp
)

var kindNames = [...]string{
	Other: "Other", Top: "Top", Skeleton: "Skeleton",
	Blobs: "Blobs", BlobAlgorithm: "BlobAlgorithm", BlobPrefix: "BlobPrefix", BlobDir: "BlobDir", BlobData: "BlobData",
	Repositories: "Repositories", Repository: "Repository",
	Layers: "Layers", LayerAlgorithm: "LayerAlgorithm", LayerDir: "LayerDir", LayerLink: "LayerLink",
	Manifests: "Manifests", Revisions: "Revisions", RevisionAlgorithm: "RevisionAlgorithm", RevisionDir: "RevisionDir",
	RevisionLink: "RevisionLink",
	Tags:         "Tags", TagDir: "TagDir", TagCurrent: "TagCurrent", TagCurrentLink: "TagCurrentLink",
	TagIndex: "TagIndex", TagIndexAlgorithm: "TagIndexAlgorithm", TagIndexDir: "TagIndexDir", TagIndexLink: "TagIndexLink",
	Temp: "Temp",
}

// String returns the name of the constant.
func (k Kind) String() string { return kindNames[k] }

// IsDir reports whether the grammar has a directory here. What an Other is
// only the disk knows; it is not one.
func (k Kind) IsDir() bool { return k == Top || len(children[k]) > 0 }

// Structural reports whether k is a directory that a registry expects to stay
// when it is empty. Such are kept with the release; the directory of a single
// link or blob, or a temporary one, lives as long as the mount.
func (k Kind) Structural() bool {
	switch k {
	case Skeleton, Blobs, BlobAlgorithm, Repositories, Repository,
		Layers, LayerAlgorithm, Manifests, Revisions, RevisionAlgorithm, Tags:
		return true
	}
	return false
}

// IsLink reports whether k is a file that holds a digest, see [ParseLink].
func (k Kind) IsLink() bool { return grammar[k].component == "link" }

// A Path is a path's meaning. Fields that do not belong to its kind are empty;
// so two paths with one meaning are equal by ==. A Digest stands for the
// Algorithm and the Prefix above it, which are empty beside it.
type Path struct {
	Kind       Kind
	Repository string
	Algorithm  digest.Algorithm
	Prefix     string // two hex digits of a BlobPrefix; the piece of Root that a Skeleton is
	Digest     digest.Digest
	Tag        string
}

// The constructors below give the paths of files. They check nothing: names
// and digests are valid already, as they come from [Parse], [ParseLink] or a
// check of the caller's.

// BlobDataPath returns the path of a blob's content.
func BlobDataPath(d digest.Digest) string {
	return Path{Kind: BlobData, Digest: d}.String()
}

// LayerLinkPath returns the path of the link that makes a layer or a config
// visible in a repository.
func LayerLinkPath(repository string, d digest.Digest) string {
	return Path{Kind: LayerLink, Repository: repository, Digest: d}.String()
}

// RevisionLinkPath returns the path of the link that makes a manifest visible
// in a repository.
func RevisionLinkPath(repository string, d digest.Digest) string {
	return Path{Kind: RevisionLink, Repository: repository, Digest: d}.String()
}

// TagCurrentLinkPath returns the path of the link that says which manifest a
// tag names.
func TagCurrentLinkPath(repository, tag string) string {
	return Path{Kind: TagCurrentLink, Repository: repository, Tag: tag}.String()
}

// TagIndexLinkPath returns the path of the link that says that a tag names, or
// once named, a manifest.
func TagIndexLinkPath(repository, tag string, d digest.Digest) string {
	return Path{Kind: TagIndexLink, Repository: repository, Tag: tag, Digest: d}.String()
}
