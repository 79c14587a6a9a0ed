// Command timing times a push of generated images onto a plain directory,
// kernel overlayfs and a regfs mount, with the same stock registry, and prints
// a Markdown table for docs/performance.md.
//
// Each round pushes to each place in turn, onto an empty one; the order of the
// places turns with the rounds. "Known" is a second push of the same images
// where all their blobs are there: a new release of the same store, an overlay
// over the first push, and the same plain directory again; the latter two
// without _manifests, as a new release has none.
//
// It needs root, registry 3.1 in $REGFS_TOOLS, and the program in $REGFS.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regfs/regfs/imagetest"
)

type options struct {
	rounds, images, layers, layerSize int
	dir                               string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often")
	flag.IntVar(&o.images, "images", 100, "how many images")
	flag.IntVar(&o.layers, "layers", 3, "layers in each")
	flag.IntVar(&o.layerSize, "layer-size", 200_000, "bytes of files in each layer")
	flag.StringVar(&o.dir, "dir", "", "a directory on the disk to measure (default: the temporary directory)")
	flag.Parse()
	if err := measure(o); err != nil {
		fmt.Fprintln(os.Stderr, "timing:", err)
		os.Exit(1)
	}
}

func measure(o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "regfs-timing-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	series, err := imagetest.Synthetic(filepath.Join(dir, "images"), imagetest.Options{
		Images: o.images, LayersPerImage: o.layers, LayerSize: o.layerSize, Seed: 1,
	})
	if err != nil {
		return err
	}
	fresh, known := map[string][]time.Duration{}, map[string][]time.Duration{}
	for round := range o.rounds + 1 {
		for i := range places {
			p := places[(i+round)%len(places)]
			first, second, err := p.round(filepath.Join(dir, fmt.Sprint(p.name, round)), series.Release)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d: %-10s %6.2f s, known %6.2f s\n", round, p.name, first.Seconds(), second.Seconds())
			if round > 0 { // the first warms the machine up
				fresh[p.name] = append(fresh[p.name], first)
				known[p.name] = append(known[p.name], second)
			}
		}
	}
	printTable(o, fresh, known)
	return nil
}

// round pushes a release to a new place of a kind, and once more with all
// blobs known.
func (p place) round(dir string, r imagetest.Release) (first, second time.Duration, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if first, err = p.time(dir, 0, r); err != nil {
		return 0, 0, err
	}
	second, err = p.time(dir, 1, r)
	return first, second, err
}

// time times one push: the n-th to the place.
func (p place) time(dir string, n int, r imagetest.Release) (took time.Duration, err error) {
	root, end, err := p.open(dir, n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	reg, err := startRegistry(root, filepath.Join(dir, fmt.Sprint("registry", n)))
	if err != nil {
		return 0, err
	}
	defer reg.stop()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	begun := time.Now()
	err = imagetest.PushRelease(context.Background(), client, reg.url, r)
	return time.Since(begun), err
}

func printTable(o options, fresh, known map[string][]time.Duration) {
	fmt.Printf("%s. Registry 3.1.2, %d images of %d layers (%s of files each), 4 at a time; %d rounds, the places in turn;\n"+
		"median (least - most), in seconds.\n\n", environment(), o.images, o.layers, bytes(o.layerSize), o.rounds)
	fmt.Println("| storage | push | of ext4 | push, all blobs known | of ext4 |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	base := places[0].name
	for _, p := range places {
		fmt.Printf("| %s | %s | %.2f | %s | %.2f |\n", p.title,
			spread(fresh[p.name]), ratio(fresh[p.name], fresh[base]), spread(known[p.name]), ratio(known[p.name], known[base]))
	}
}

func bytes(n int) string { return fmt.Sprintf("%d kB", n/1000) }

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func ratio(a, b []time.Duration) float64 { return median(a).Seconds() / median(b).Seconds() }

func spread(all []time.Duration) string {
	return fmt.Sprintf("%.2f (%.2f - %.2f)", median(all).Seconds(), slices.Min(all).Seconds(), slices.Max(all).Seconds())
}
