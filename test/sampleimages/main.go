// Command sampleimages generates the images of the demonstration: two
// releases, v1.0 and v1.1, each an OCI image layout in a directory of its name,
// with an images.list beside it. One image in ten is new in v1.1.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/regfs/regfs/imagetest"
)

func main() {
	images := flag.Int("images", 30, "how many")
	size := flag.Int("layer-size", 500_000, "bytes of files in each layer")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: sampleimages [flags] DIR"); flag.PrintDefaults() }
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := generate(flag.Arg(0), imagetest.Options{Images: *images, LayerSize: *size}); err != nil {
		fmt.Fprintln(os.Stderr, "sampleimages:", err)
		os.Exit(1)
	}
}

func generate(dir string, o imagetest.Options) error {
	series, err := imagetest.Synthetic(dir, o)
	if err != nil {
		return err
	}
	if err := writeList(dir, "v1.0", series.Release); err != nil {
		return err
	}
	next, err := series.Next(0.1)
	if err != nil {
		return err
	}
	return writeList(dir, "v1.1", next)
}

// writeList writes DIR/NAME.list, an image a line, and sees to it that the
// layout is DIR/NAME.
func writeList(dir, name string, r imagetest.Release) error {
	var list strings.Builder
	for _, image := range r.Images {
		list.WriteString(image.Ref() + "\n")
	}
	if want := filepath.Join(dir, name); r.Dir != want {
		return fmt.Errorf("layout %s, want %s", r.Dir, want)
	}
	return os.WriteFile(filepath.Join(dir, name+".list"), []byte(list.String()), 0o644)
}
