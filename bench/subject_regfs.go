package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/regfs/regfs/imagetest"
)

// A regfs subject is one store of regfs, driven as users drive it. Each
// release is a new one of the store.
type regfs struct {
	bench   *bench
	dir     string
	backend string // fuse or overlay
	n       int
	release string
	mounted string
	site    *site
}

func openFuse(ctx context.Context, b *bench, dir string) (subject, error) {
	return openRegfs(ctx, b, dir, "fuse")
}

func openOverlay(ctx context.Context, b *bench, dir string) (subject, error) {
	return openRegfs(ctx, b, dir, "overlay")
}

func openRegfs(ctx context.Context, b *bench, dir, backend string) (*regfs, error) {
	r := &regfs{bench: b, dir: dir, backend: backend}
	return r, r.run(ctx, "init")
}

// store is where the blobs of all releases are.
func (r *regfs) store() string { return filepath.Join(r.dir, "store") }

func (r *regfs) args(args []string) []string { return append([]string{"--store", r.store()}, args...) }

func (r *regfs) run(ctx context.Context, args ...string) error {
	return run(ctx, nil, r.bench.Program, r.args(args)...)
}

func (r *regfs) prepare(ctx context.Context) (string, error) {
	r.n++
	r.release = fmt.Sprint("v1.", r.n)
	dirs, err := makeDirs(r.dir, fmt.Sprint("mnt", r.n))
	if err != nil {
		return "", err
	}
	mount := []string{"mount", r.release, dirs[0], "--create", "--detach"}
	if r.bench.backends {
		mount = append(mount, "--backend", r.backend)
	}
	// Not interrupted: who does not hear of a mount does not end it.
	if err := r.run(context.WithoutCancel(ctx), mount...); err != nil {
		return "", err
	}
	r.mounted = dirs[0]
	return r.mounted, ctx.Err()
}

func (r *regfs) steps(release imagetest.Release, tar string) []step {
	steps := []step{
		{"prepare", func(ctx context.Context) error {
			_, err := r.prepare(ctx)
			return err
		}},
		{"start", func(ctx context.Context) (err error) { r.site, err = r.bench.serve(ctx, r.mounted); return err }},
		{"push", func(ctx context.Context) error { return r.bench.client.push(ctx, r.site.server.URL, release) }},
	}
	if r.backend == "overlay" { // the store has what was pushed when the mount has ended
		steps = append(steps, step{"umount", r.leave})
	}
	return append(steps, step{"export", func(ctx context.Context) error { return r.export(ctx, tar) }})
}

// export writes the release that was mounted last.
func (r *regfs) export(ctx context.Context, tar string) error {
	return r.run(ctx, "export", r.release, "--output", tar)
}

func (r *regfs) leave(ctx context.Context) error {
	err := r.site.Close()
	if r.mounted == "" {
		return err
	}
	if err := errors.Join(err, r.run(ctx, "umount", r.mounted)); err != nil {
		return err
	}
	r.mounted = ""
	return nil
}

// A status is what "regfs status --json" tells and matters here. Counts are
// absent from an older regfs.
type status struct {
	Server int `json:"server_pid"`
	Mounts []struct {
		Requests map[string]int64 `json:"requests"` // by opcode
	} `json:"mounts"`
	Syncs *int64 `json:"syncs"` // of the server
}

func (r *regfs) status(ctx context.Context) (s status, err error) {
	text, err := output(ctx, r.bench.Program, r.args([]string{"status", "--json"})...)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("regfs status: %w", err)
	}
	return s, nil
}

// counts returns how many FUSE requests of each kind the mount has had, and
// how often its server has waited for the disk; nil and -1 if this regfs does
// not count them.
func (r *regfs) counts(ctx context.Context) (requests map[string]int64, syncs int64, err error) {
	s, err := r.status(ctx)
	if err != nil || len(s.Mounts) != 1 {
		return nil, -1, err
	}
	syncs = -1
	if s.Syncs != nil {
		syncs = *s.Syncs
	}
	return s.Mounts[0].Requests, syncs, nil
}

// knowsBackends asks the running program whether it can mount by overlayfs.
func (b *bench) knowsBackends(ctx context.Context) (bool, error) {
	help, err := output(ctx, b.Program, "mount", "--help")
	b.backends = strings.Contains(help, "--backend")
	return b.backends, err
}

// describe returns what the program says of itself.
func describe(ctx context.Context, program string, args ...string) string {
	text, err := output(ctx, program, args...)
	if err != nil {
		return "unknown version"
	}
	return strings.TrimSpace(text)
}
