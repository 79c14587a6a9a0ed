// Package imagetest builds images of real and of generated files, for tests,
// the demonstration and measurements.
//
// [Debian] builds releases from the files of Debian packages, with every kind
// of manifest that is met in the field; [Synthetic] generates as many images as
// one wants, the same for the same seed. Either way a [Release] is an OCI image
// layout, which skopeo reads as oci:DIR:REF. [Push] and [Verify] bring it to a
// registry and compare what the registry serves, byte for byte.
//
// The package reads manifests by itself and shares no code with regfs, so that
// a fault there is not repeated in what it is tested with.
package imagetest
