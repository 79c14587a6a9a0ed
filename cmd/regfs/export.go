package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/regfs/regfs/archive"
	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/deliver"
	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/formats"
	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/store"
)

type exportFlags struct {
	output                string
	force, verify, dryRun bool
	json                  bool
	bases, worksOnAny     []string
	baseInventory         string
	images                string
	platforms             []string
	noReferrers           bool
	format, dir, host     string
	compression           deliver.Compression
	split                 string
	partSize              int64 // what split says
}

func (c *command) exportCmd() *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:   "export RELEASE -o FILE",
		Short: "Write a release, or what a customer lacks of it, as a tar of a registry's storage directory",
		Long: `Export writes exactly what the manifests of a release need, as a tar that
unpacks to a stock registry's storage directory. It works while the release is
mounted and the registry runs. The same release always gives the same bytes.

With --base, --base-inventory or --works-on-any the tar is a patch: it has only
what the customer lacks, and unpacks over his storage directory, under a running
registry. Blobs come first and each tag last, so that what breaks off half-way
leaves no tag to an image that is not there. The patch lists what it requires;
the script in it, and "regfs verify --against DIR", refuse a wrong base before
anything is written. A patch only adds: tags that are no longer in the release
stay, and are listed in regfs/RELEASE/removed-tags.

--images takes only what a list names, one reference a line; signatures and
other referrers travel with their image. --platform takes of an index only some
platforms: the index itself stays as it is, with its digest.

A tar appears under its name when it is whole. If the export is killed or
interrupted, the same command goes on where it was. With --split there are
FILE.000, FILE.001 and so on, and last FILE.SHA256SUMS; cat joins them.

--format makes another form of it: an OCI image layout, an archive for docker
load, or the directories of skopeo. --dir writes a tree instead of a tar; where
the file system can, it shares the store's blocks and takes no space.

A blob that the release needs and the store has not is an error, and no tar is
left. Layers that may not be distributed, and platforms that were left out of an
index, are noted when they are absent.`,
		Example: `  regfs export v1.1 -o v1.1.tar
  regfs export v1.1 --base v1.0 -o v1.1-over-v1.0.tar
  regfs export v1.1 --base v1.0 -n           # how large it would be, and why
  regfs export v1.1 --compress zstd --split 4GB -o v1.1.tar.zst
  cat v1.1.tar.zst.[0-9]* | tar --zstd -xf - -C /var/lib/registry
  regfs export v1.1 --format docker-archive --platform linux/amd64 -o - | docker load
  regfs export v1.1 --format dir --dir images && skopeo sync --all --scoped --src dir --dest docker images harbor.example.com/team
  regfs export v1.1 --images core.list --platform linux/amd64 -o core.tar
  tar -xf v1.1.tar -C /var/lib/registry      # on the customer's side
  tar -xOf v1.1-over-v1.0.tar regfs/v1.1/apply.sh | sh -s v1.1-over-v1.0.tar /var/lib/registry`,
		Args: exactly("RELEASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			return c.export(cmd.Context(), args[0], flags)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&flags.output, "output", "o", "", "the file to write, or - for standard output")
	f.BoolVarP(&flags.force, "force", "f", false, "overwrite the file if it exists")
	f.BoolVar(&flags.verify, "verify", false, "check the digest of each blob while it is read")
	f.BoolVarP(&flags.dryRun, "dry-run", "n", false, "say what would be written, and write nothing")
	f.BoolVar(&flags.json, "json", false, "with --dry-run, print the plan as JSON")
	f.StringVar(&flags.dir, "dir", "", "write a tree into this new or empty directory, and no tar")
	f.Var(&flags.compression, "compress", "compress the tar, with all processors")
	f.StringVar(&flags.split, "split", "", "write parts of this size, such as 4GB or 650MiB: FILE.000, FILE.001, ...")
	flags.addContents(f)
	return cmd
}

// addContents adds the flags that say what an export consists of.
func (flags *exportFlags) addContents(f *pflag.FlagSet) {
	f.StringArrayVar(&flags.bases, "base", nil, "a patch for who has this release; repeat it for who has several")
	f.StringVar(&flags.baseInventory, "base-inventory", "", "a patch for who has the blobs listed in this file, or - for standard input")
	f.StringSliceVar(&flags.worksOnAny, "works-on-any", nil, "a patch for who has any one of these releases")
	f.StringVar(&flags.images, "images", "", "only the images listed in this file, or - for standard input")
	f.StringSliceVar(&flags.platforms, "platform", nil, "of an index only this platform, as os/arch[/variant]; may be repeated")
	f.BoolVar(&flags.noReferrers, "no-referrers", false, "leave out signatures, attestations and other referrers of images")
	f.StringVar(&flags.format, "format", string(formats.Registry), "the form: "+formatNames())
	f.StringVar(&flags.host, "registry", "", "put this host before the names of images (formats oci and docker-archive)")
}

func formatNames() string {
	var names []string
	for _, f := range formats.All {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// check finds what does not go together.
func (f *exportFlags) check(cmd *cobra.Command) error {
	err := f.checkSplit()
	switch {
	case err != nil:
	case f.dir != "" && (f.compression != deliver.None || f.split != ""):
		err = errors.New("export: a tree is neither compressed nor split")
	case f.output == "" && f.dir == "" && !f.dryRun:
		err = errors.New("export: --output or --dir is missing; \"-o -\" is standard output")
	case f.output != "" && f.dir != "":
		err = errors.New("export: either --output or --dir")
	case !slices.Contains(formats.All, formats.Format(f.format)):
		err = fmt.Errorf("export: there is no format %q; there are %s", f.format, formatNames())
	case f.isPatch() && formats.Format(f.format) != formats.Registry:
		err = errors.New("export: a patch is of the format registry")
	case len(f.worksOnAny) > 0 && len(f.bases) > 0:
		err = errors.New("export: --base is for who has all of the releases, --works-on-any for who has one of them")
	case f.json && !f.dryRun:
		err = errors.New("export: --json is for --dry-run")
	case f.images == "-" && f.baseInventory == "-":
		err = errors.New("export: standard input cannot be both --images and --base-inventory")
	}
	for _, p := range f.platforms {
		err = errors.Join(err, export.ParsePlatform(p))
	}
	if err != nil {
		return usage(cmd, err)
	}
	return checkOutput(*f)
}

func (f *exportFlags) checkSplit() error {
	if f.split == "" {
		return nil
	}
	size, err := humanize.ParseBytes(f.split)
	switch {
	case err != nil || size > math.MaxInt64:
		return fmt.Errorf("export: --split %q is no size; one is 4GB or 650MiB", f.split)
	case size < deliver.LeastPart:
		return fmt.Errorf("export: --split %s: a part has at least %s", f.split, humanize.IBytes(deliver.LeastPart))
	}
	f.partSize = int64(size)
	return nil
}

// selection reads which part of the release is wanted.
func (f exportFlags) selection() (export.Selection, error) {
	s := export.Selection{Platforms: f.platforms, NoReferrers: f.noReferrers}
	if f.images == "" {
		return s, nil
	}
	var err error
	if s.Images, err = readImages(f.images); err != nil {
		return s, fmt.Errorf("export: images: %w", err)
	}
	return s, nil
}

// readImages reads a list of images. An empty one is an error: whoever asks for
// nothing has another file in mind.
func readImages(name string) ([]imagelist.Reference, error) {
	list, err := openInput(name)
	if err != nil {
		return nil, err
	}
	defer list.Close()
	images, err := imagelist.Read(name, list)
	if err == nil && len(images) == 0 {
		err = fmt.Errorf("%s: no image in it", name)
	}
	return images, err
}

func (f exportFlags) isPatch() bool {
	return len(f.bases) > 0 || len(f.worksOnAny) > 0 || f.baseInventory != ""
}

func (c *command) export(ctx context.Context, release string, flags exportFlags) error {
	selection, err := flags.selection()
	if err != nil {
		return err
	}
	if err := store.Check(c.dir); err != nil {
		return err
	}
	// Nobody removes the blobs while they are read, from before they are listed.
	hold, err := store.NewHold(c.dir, "being exported: "+release)
	if err != nil {
		return err
	}
	defer hold.Close()
	inv, err := c.inventory(ctx, release, selection)
	if err != nil {
		return err
	}
	if err := hold.Only(blobsOf(inv)); err != nil {
		return err
	}
	for _, note := range inv.Notes {
		fmt.Fprintln(stderr, "note:", note)
	}
	if err := inv.Err(); err != nil {
		return err
	}
	p, err := c.parcel(ctx, inv, flags)
	if err != nil {
		return err
	}
	size := p.files.Size()
	if flags.dryRun {
		return p.tell(size, flags)
	}
	return c.write(ctx, p, size, flags)
}

func blobsOf(inv *export.Inventory) []digest.Digest {
	var all []digest.Digest
	for _, f := range inv.Files {
		if f.Blob != "" {
			all = append(all, f.Blob)
		}
	}
	return all
}

// A parcel is what an export writes.
type parcel struct {
	name  string
	inv   *export.Inventory // whose images need the blobs
	patch *export.Patch     // nil if it is none
	files archive.Archive
}

func (p *parcel) contents() string {
	blobs := 0
	for _, f := range p.inv.Files {
		if f.Blob != "" {
			blobs++
		}
	}
	return fmt.Sprintf("%d blobs and %d links", blobs, len(p.inv.Files)-blobs)
}

// parcel decides what goes into the export.
func (c *command) parcel(ctx context.Context, inv *export.Inventory, flags exportFlags) (*parcel, error) {
	if !flags.isPatch() {
		files, err := c.members(ctx, inv, flags)
		return &parcel{name: inv.Release, inv: inv, files: files}, err
	}
	base, name, err := c.base(ctx, inv, flags)
	if err != nil {
		return nil, err
	}
	patch := inv.Over(base)
	if gone := patch.Removed(); len(gone) > 0 {
		fmt.Fprintf(stderr, "note: a patch only adds: %s of the base stay, which %s has not; they are listed in regfs/%s/removed-tags\n",
			count(len(gone), "tag"), inv.Release, inv.Release)
	}
	files, err := patch.Archive()
	return &parcel{inv.Release + " over " + name, &patch.Inventory, patch, files}, err
}

// members puts the release into its form.
func (c *command) members(ctx context.Context, inv *export.Inventory, flags exportFlags) (archive.Archive, error) {
	blobs, err := cas.Open(c.dir)
	if err != nil {
		return nil, err
	}
	defer blobs.Close()
	o := formats.Options{Host: flags.host}
	if flags.format == string(formats.DockerArchive) {
		bar := newProgress(-1, "measuring layers")
		defer bar.Close()
		o.Progress = func(n int64) { bar.Add64(n) }
	}
	files, notes, err := formats.Format(flags.format).Members(ctx, inv, blobs, o)
	for _, note := range notes {
		fmt.Fprintln(stderr, "note:", note)
	}
	return files, inv.Blame(err)
}

// base reads what the customer has.
func (c *command) base(ctx context.Context, inv *export.Inventory, flags exportFlags) (base *export.Base, name string, err error) {
	var all []*export.Inventory
	names := append(flags.bases, flags.worksOnAny...)
	for _, release := range names {
		had, err := c.inventory(ctx, release, export.Selection{})
		if err == nil {
			err = had.Err() // who has the release has not got it from here
		}
		if err != nil {
			return nil, "", fmt.Errorf("base %s: %w", release, err)
		}
		all = append(all, had)
	}
	name = strings.Join(names, " and ")
	if len(flags.worksOnAny) > 0 {
		base, name = export.BaseOfAny(all...), "any of "+strings.Join(names, ", ")
	} else {
		base = export.BaseOfAll(all...)
	}
	if flags.baseInventory == "" {
		return base, name, nil
	}
	f, err := openInput(flags.baseInventory)
	if err != nil {
		return nil, "", fmt.Errorf("base inventory: %w", err)
	}
	defer f.Close()
	damaged, err := base.AddDigests(inv, flags.baseInventory, f)
	for _, d := range damaged {
		fmt.Fprintf(stderr, "note: blob %s is damaged at the customer's, and sent again\n", d)
	}
	return base, strings.TrimPrefix(name+" and "+flags.baseInventory, " and "), err
}

// openInput opens a file to read, or standard input.
func openInput(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(name)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (c *command) write(ctx context.Context, p *parcel, size int64, flags exportFlags) error {
	blobs, err := cas.Open(c.dir)
	if err != nil {
		return err
	}
	defer blobs.Close()
	if flags.dir != "" {
		return p.writeTree(ctx, blobs, flags)
	}
	if flags.partSize > 0 && size/flags.partSize >= deliver.MaxParts && flags.compression == deliver.None {
		return fmt.Errorf("export: %s in parts of %s are more than %d: %w", humanize.Bytes(uint64(size)), flags.split, deliver.MaxParts, errUsage{})
	}
	begun := time.Now()
	o := deliver.Options{
		Compression: flags.compression, Split: flags.partSize, Force: flags.force,
		Fits:        func(f *os.File, kept int64) error { return p.fits(f, size, kept, blobs, flags) },
		Interrupted: func(err error) bool { return ctx.Err() != nil && errors.Is(err, context.Canceled) },
	}
	err = deliver.To(flags.output, o, func(w io.Writer) error {
		bar := newProgress(size, p.inv.Release)
		defer bar.Close()
		return p.inv.Blame(p.files.WriteTar(ctx, w, blobs, archive.Options{
			Verify:   flags.verify,
			Progress: func(n int64) { bar.Add64(n) },
		}))
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s: %s, %s in %s\n", flags.output, p.contents(), humanize.Bytes(uint64(size)), time.Since(begun).Round(time.Millisecond))
	return nil
}

func (c *command) inventory(ctx context.Context, release string, part export.Selection) (inv *export.Inventory, err error) {
	err = c.with(ctx, func(client *control.Client) error {
		inv, err = client.Inventory(ctx, release, part)
		return err
	})
	return inv, err
}
