// Package registrytest runs stock registries and clients for tests: package
// registry, with what belongs to a test around it.
//
// [Start] runs a registry over a directory and ends it with the test;
// [Registry.API] speaks the distribution protocol to it in plain HTTP, step by
// step; [Skopeo] and [Crane] run the clients. The package knows nothing of
// regfs: the same test runs over a plain directory, an overlay and a mount.
//
// The programs come from scripts/install-deps and scripts/build-tools. Where
// one is missing a test is skipped, or fails if REGFS_REQUIRE_TOOLS=1 is set.
package registrytest

// A TB is what this package needs of a [testing.TB]: an interface of our own,
// so that a demonstration can use the package without package testing.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}
