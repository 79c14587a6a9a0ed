package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/regfs/regfs/imagetest"
	"github.com/regfs/regfs/registrytest"
)

// Pushers push images to a registry, four at a time, tag anew what they have
// pushed, and remove some of it.
type pushers struct {
	t      *testing.T
	client *http.Client
	base   string
	dir    string // the images' layout
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	queue   []imagetest.Image
	again   []imagetest.Image // to be pushed once more: removed, or interrupted
	crashed bool              // errors are expected from now on
}

// atOnce is how many clients push.
const atOnce = 4

// startPushers begins with the queue's images. What the pushers do depends on
// the seed, when they do it on the machine.
func startPushers(t *testing.T, r *registrytest.Registry, l *ledger, dir string, queue []imagetest.Image, seed uint64) *pushers {
	ctx, cancel := context.WithCancel(context.Background())
	client := *r.Client()
	next := client.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	client.Transport = &recorder{next, l}
	p := &pushers{t: t, client: &client, base: r.URL(), dir: dir, cancel: cancel, queue: queue}
	for i := range atOnce {
		w := worker{p, i, rand.New(rand.NewPCG(seed, uint64(i))), nil}
		p.group.Go(func() {
			for w.step(ctx) {
			}
		})
	}
	return p
}

// A worker is one client. Only it uses the tags that it has pushed.
type worker struct {
	*pushers
	number int
	random *rand.Rand
	mine   []imagetest.Image
}

// step does one thing; false if it was the last.
func (w *worker) step(ctx context.Context) bool {
	switch n := w.random.IntN(10); {
	case n == 0 && len(w.mine) > 0:
		return w.remove(ctx)
	case n == 1 && len(w.mine) > 0:
		image := w.mine[w.random.IntN(len(w.mine))]
		return w.done(w.push(ctx, image, fmt.Sprintf("rolling/worker-%d", w.number), "latest"))
	}
	image, more := w.take()
	if !more {
		return false
	}
	if !w.done(w.push(ctx, image, image.Repository, image.Tag)) {
		w.later(image)
		return false
	}
	w.mine = append(w.mine, image)
	return true
}

func (w *worker) push(ctx context.Context, image imagetest.Image, repo, tag string) error {
	return imagetest.Push(ctx, w.client, w.base, w.dir, image.Ref(), repo, tag)
}

func (w *worker) remove(ctx context.Context) bool {
	i := w.random.IntN(len(w.mine))
	image := w.mine[i]
	w.mine = slices.Delete(w.mine, i, i+1)
	w.later(image)
	url := fmt.Sprintf("%s/v2/%s/manifests/%s", w.base, image.Repository, image.Digest)
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, url, nil)
	if err != nil {
		return w.done(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return w.done(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("DELETE %s: %s", url, resp.Status)
	}
	return w.done(err)
}

func (p *pushers) take() (imagetest.Image, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return imagetest.Image{}, false
	}
	image := p.queue[0]
	p.queue = p.queue[1:]
	return image, true
}

func (p *pushers) later(image imagetest.Image) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again = append(p.again, image)
}

// done notes how something ended; false if it is time to stop.
func (p *pushers) done(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && !p.crashed {
		p.t.Errorf("before the crash: %v", err)
	}
	return err == nil && !p.crashed
}

// crashing says that errors are expected from now on.
func (p *pushers) crashing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crashed = true
}

// stop ends the pushers and returns what is to be pushed next.
func (p *pushers) stop() []imagetest.Image {
	p.crashing()
	p.cancel()
	p.group.Wait()
	return append(p.again, p.queue...)
}
