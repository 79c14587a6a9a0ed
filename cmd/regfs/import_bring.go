package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/schollz/progressbar/v3"

	"github.com/regfs/regfs/control"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
	"github.com/regfs/regfs/source"
)

// A bringing is a source on its way in.
type bringing struct {
	*importer
	src     *source.Source
	session *control.Import
	ctx     context.Context
	bar     *progressbar.ProgressBar

	mu      sync.Mutex // guards what follows, and the importer's result
	state   []imageState
	users   map[digest.Digest][]int // images that wait for a blob
	sizes   map[digest.Digest]int64 // of all blobs
	fresh   map[digest.Digest]bool  // those that the store had not
	copied  int                     // blobs
	ready   []int
	entered int
}

// An imageState is how far an image has come.
type imageState struct {
	waits    int  // for so many blobs
	finished bool // entered or refused
}

func newBringing(im *importer, src *source.Source) *bringing {
	return &bringing{importer: im, src: src, state: make([]imageState, len(src.Images)),
		sizes: make(map[digest.Digest]int64), fresh: make(map[digest.Digest]bool)}
}

// progress counts what has been done for good.
func (b *bringing) progress() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.copied + b.entered
}

// plan finds out what is to be copied, and leaves out images that cannot be
// made whole.
func (b *bringing) plan(have func([]digest.Digest) (map[digest.Digest]int64, error)) error {
	_, _, err := b.missing(have)
	if err != nil {
		return err
	}
	for i := range b.src.Images {
		if !b.state[i].finished {
			b.finish(i, "")
		}
	}
	return nil
}

// missing returns the blobs that are to be copied, and their size together.
func (b *bringing) missing(have func([]digest.Digest) (map[digest.Digest]int64, error)) (want []digest.Digest, total int64, err error) {
	sizes, err := have(b.needed())
	if err != nil {
		return nil, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users = make(map[digest.Digest][]int)
	for i, image := range b.src.Images {
		if b.state[i].finished || b.lacks(i, sizes) {
			continue
		}
		b.state[i].waits = 0
		for _, blob := range image.Blobs {
			if size, there := sizes[blob.Digest]; there && (blob.Size < 0 || size == blob.Size) {
				b.sizes[blob.Digest] = size
				continue
			}
			if b.users[blob.Digest] == nil {
				want = append(want, blob.Digest)
				total += blob.Size
			}
			b.sizes[blob.Digest], b.fresh[blob.Digest] = blob.Size, true
			b.users[blob.Digest] = append(b.users[blob.Digest], i)
			b.state[i].waits++
		}
		if b.state[i].waits == 0 {
			b.ready = append(b.ready, i)
		}
	}
	return want, total, nil
}

// lacks refuses an image of which something is nowhere to be had. mu is held.
func (b *bringing) lacks(i int, sizes map[digest.Digest]int64) bool {
	for _, blob := range b.src.Images[i].Blobs {
		if _, there := sizes[blob.Digest]; !there && blob.Size < 0 {
			b.finish(i, fmt.Sprintf("blob %s is neither in the source nor in the store", blob.Digest))
			return true
		}
	}
	return false
}

// needed are the blobs of all images that are not done with.
func (b *bringing) needed() []digest.Digest {
	var all []digest.Digest
	seen := make(map[digest.Digest]bool)
	for i, image := range b.src.Images {
		for _, blob := range image.Blobs {
			if !seen[blob.Digest] && !b.state[i].finished {
				seen[blob.Digest] = true
				all = append(all, blob.Digest)
			}
		}
	}
	return all
}

func (b *bringing) run(ctx context.Context, session *control.Import) error {
	b.ctx, b.session, b.ready = ctx, session, nil
	want, total, err := b.missing(func(all []digest.Digest) (map[digest.Digest]int64, error) { return session.Have(ctx, all) })
	if err != nil {
		return err
	}
	if err := b.checkSpace(want, total); err != nil {
		return err
	}
	b.bar = newProgress(total, b.result.Release)
	defer b.bar.Close()
	failed, err := b.src.Copy(ctx, want, max(2, runtime.GOMAXPROCS(0)), b)
	if err != nil {
		return err
	}
	for d, err := range failed {
		b.refuseUsers(d, err)
	}
	if err := b.enter(1); err != nil {
		return err
	}
	return b.enterHistory()
}

// checkSpace says before anything is copied that there is no room for it,
// unless the store's disk shares the blocks of the source.
func (b *bringing) checkSpace(want []digest.Digest, total int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(b.dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: b.dir, Err: err}
	}
	free := int64(st.Bavail)*st.Bsize - index.MinFree
	if total <= free || len(want) == 0 {
		return nil
	}
	probe, err := os.CreateTemp(b.path(""), "probe")
	if err != nil {
		return err
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	if b.src.Shares(b.ctx, want[len(want)-1], probe) {
		return nil
	}
	return fmt.Errorf("import: %s needed in %s, %s free: %w",
		humanize.Bytes(uint64(total)), b.dir, humanize.Bytes(uint64(max(free, 0))), syscall.ENOSPC)
}

func (b *bringing) path(name string) string { return filepath.Join(b.dir, b.session.Dir, name) }

var _ source.Taker = (*bringing)(nil)

// Take writes a blob to where the server takes it from.
func (b *bringing) Take(d digest.Digest, fill source.Fill) error {
	f, err := os.OpenFile(b.path(d.Encoded()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return control.ErrLeaving // the directory goes with the server
	}
	if err != nil {
		return err
	}
	err = fill(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (b *bringing) Commit(d digest.Digest) error {
	err := b.session.Blob(b.ctx, d.Encoded(), d)
	if errors.Is(err, control.ErrCorrupt) {
		return fmt.Errorf("%w: %w", err, source.ErrContent)
	}
	if err != nil {
		return err
	}
	b.arrived(d)
	return b.enter(imagesAtOnce)
}

// arrived notes a blob for those who wait for it.
func (b *bringing) arrived(d digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.copied++
	for _, i := range b.users[d] {
		if b.state[i].waits--; b.state[i].waits == 0 && !b.state[i].finished {
			b.ready = append(b.ready, i)
		}
	}
	b.bar.Add64(b.sizes[d])
}

func (b *bringing) refuseUsers(d digest.Digest, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.users[d] {
		if !b.state[i].finished {
			b.finish(i, fmt.Sprintf("blob %s: %s", d, contentError(err)))
		}
	}
}

// contentError is an error of a blob without what only the program understands.
func contentError(err error) string {
	var remote *control.Error
	if errors.As(err, &remote) {
		return trimCause(remote.Message, control.ErrCorrupt)
	}
	return trimCause(err.Error(), source.ErrContent)
}

// imagesAtOnce is how many images are entered with one sync of the disk.
const imagesAtOnce = 64

// enter enters the images that are ready, if there are as many.
func (b *bringing) enter(least int) error {
	for {
		batch := b.batch(least)
		if len(batch) == 0 {
			return nil
		}
		images := make([]intake.Image, len(batch))
		for n, i := range batch {
			images[n] = b.image(i)
		}
		reasons, err := b.session.Images(b.ctx, images)
		if err != nil {
			return err
		}
		b.mu.Lock()
		for n, i := range batch {
			b.entered++
			b.finish(i, reasons[n])
		}
		b.mu.Unlock()
	}
}

func (b *bringing) batch(least int) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) < least {
		return nil
	}
	n := min(len(b.ready), imagesAtOnce)
	batch := b.ready[:n:n]
	b.ready = b.ready[n:]
	return batch
}

func (b *bringing) image(i int) intake.Image {
	image := b.src.Images[i]
	in := intake.Image{Repository: image.Repository, Manifests: image.Manifests, Present: image.Present}
	for _, tag := range image.Tags {
		in.Tags = append(in.Tags, index.TagLink{Tag: tag, Digest: image.Digest})
	}
	return in
}

// enterHistory enters at which other manifests tags once pointed, when those
// are in.
func (b *bringing) enterHistory() error {
	var all []intake.Image
	for i, image := range b.src.Images {
		if len(image.History) == 0 || !b.state[i].finished {
			continue
		}
		in := intake.Image{Repository: image.Repository}
		for _, link := range image.History {
			in.History = append(in.History, index.TagLink(link))
		}
		all = append(all, in)
	}
	for len(all) > 0 {
		n := min(len(all), imagesAtOnce)
		if _, err := b.session.Images(b.ctx, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// finish notes that an image is in, or why not. mu is held.
func (b *bringing) finish(i int, refused string) {
	b.state[i].finished = true
	image := b.src.Images[i]
	if refused != "" {
		b.result.refuse(b.src, image.Name(), refused)
		return
	}
	b.result.add(b.src, image, b.sizes, b.fresh)
}
