//go:build !race

package mounttest_test

const raceDetector = false
