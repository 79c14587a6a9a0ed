package imagetest

import (
	"fmt"
	"slices"
)

// A recipe says how an image of the Debian releases is made, each package a
// layer.
type recipe struct {
	repository string
	packages   []string // the lowest first
	make       maker    // the kind of image; nil for OCI with gzip layers
	since      int      // the first release that has it
	changes    []change
	tag        string // if set, a tag that moves; otherwise each change has its own
}

// A change puts one more package on top.
type change struct {
	release int
	add     string
}

// A maker writes an image of that kind.
type maker func(b *builder, packages []string) (descriptor, error)

// The lowest layers of nearly all images.
var base = []string{"base-files", "debianutils"}

// recipes are the images of all releases. In release 1 and 2 about one in six
// changes and one is new.
var recipes = []recipe{
	{repository: "library/debian", packages: base},
	{repository: "library/hello", packages: on(base, "hello")},
	{repository: "library/tree", packages: on(base, "tree")},
	{repository: "library/bc", packages: on(base, "bc"), changes: []change{{2, "dc"}}},
	{repository: "library/dash", packages: on(base, "dash")},
	{repository: "library/less", packages: on(base, "less"), changes: []change{{1, "hello"}}, tag: "stable"},
	{repository: "library/mawk", packages: on(base, "mawk")},
	{repository: "library/ed", packages: on(base, "ed"), changes: []change{{1, "less"}, {2, "tree"}}},
	{repository: "net/netcat", packages: on(base, "netbase", "netcat-openbsd")},
	{repository: "tools/bzip2", packages: on(base, "bzip2")},
	{repository: "tools/pv", packages: on(base, "pv")},
	{repository: "tools/time", packages: on(base, "time"), since: 1},
	{repository: "tools/calc", packages: on(base, "dc", "bc"), since: 2},
	{repository: "tools/box", packages: on(base, "hello", "tree", "ed", "less", "time")},
	{repository: "text/jq", packages: on(base, "libonig5", "libjq1", "jq"), make: zstdImage, changes: []change{{1, "less"}}},
	{repository: "text/file", packages: on(base, "libmagic1", "file"), make: zstdImage},
	{repository: "text/mawk", packages: on(base, "mawk"), make: zstdImage},
	{repository: "text/cal", packages: on(base, "ncal"), make: zstdImage, changes: []change{{2, "time"}}},
	{repository: "multi/net", packages: []string{"netbase"}, make: multiPlatform, changes: []change{{2, "media-types"}}},
	{repository: "legacy/dash", packages: on(base, "dash"), make: dockerImage},
	{repository: "legacy/tools", packages: on(base, "bzip2", "pv"), make: dockerImage, changes: []change{{1, "tree"}}},
	{repository: "legacy/net", packages: []string{"netbase", "media-types"}, make: dockerList},
}

// What the recipes do not say: an image that is signed, one that something is
// attached to, and the package that says it.
const (
	signedImage   = "library/hello"
	attachedImage = "library/tree"
	attached      = "tree"
)

func on(base []string, more ...string) []string { return append(slices.Clone(base), more...) }

// at returns the packages and the tag in a release.
func (r recipe) at(release int) (packages []string, tag string) {
	packages = slices.Clone(r.packages)
	changed := 0
	for _, c := range r.changes {
		if c.release <= release {
			packages = append(packages, c.add)
			changed++
		}
	}
	if r.tag != "" {
		return packages, r.tag
	}
	return packages, fmt.Sprintf("1.%d", changed)
}

// allPackages returns the names of all packages that any release needs.
func allPackages() []string {
	var all []string
	for _, r := range recipes {
		packages, _ := r.at(debianReleases - 1)
		all = append(all, packages...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
