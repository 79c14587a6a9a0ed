package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A session is workloads that are measured together, since one needs what the
// other has made.
type session struct {
	name      string
	workloads []string
	regfs     bool // it is regfs that is compared, with what is no subject
	run       func(*bench, context.Context) error
}

var sessions = []session{
	{"storage", []string{"push", "known", "pull", "list", "catalog", "read", "write"}, false, (*bench).storage},
	{"history", []string{"release"}, false, (*bench).history},
	{"assembly", []string{"assemble"}, false, (*bench).assembly},
	{"export", []string{"export"}, true, (*bench).exports},
	{"clones", []string{"clone"}, true, (*bench).clones},
	{"scale", []string{"scale"}, true, (*bench).scale},
}

// Workloads are the names by which workloads are chosen.
func Workloads() (names []string) {
	for _, s := range sessions {
		names = append(names, s.workloads...)
	}
	return names
}

// Subjects are the names by which subjects are chosen.
func Subjects() (names []string) {
	for _, s := range subjects {
		names = append(names, s.name)
	}
	return names
}

// ErrUsage is an error in what was asked for.
var ErrUsage = errors.New("usage")

// check finds out before any work what stands in its way.
func (o Options) check() error {
	if err := known("workload", o.Workloads, Workloads()); err != nil {
		return err
	}
	if err := known("subject", o.Subjects, Subjects()); err != nil {
		return err
	}
	if o.Rounds < 1 || o.Sizes.Images < 1 || o.Sizes.Releases < 1 {
		return fmt.Errorf("bench: rounds, images and releases are at least 1: %w", ErrUsage)
	}
	if _, err := exec.LookPath(o.Registry); err != nil {
		return fmt.Errorf("bench: no stock registry: %w; give one with --registry, or in $REGFS_TOOLS or $PATH; \"make tools\" builds registry 3.1.2 into .cache/tools", err)
	}
	return nil
}

func known(what string, names, all []string) error {
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("bench: no %s %q; there are %s: %w", what, name, strings.Join(all, ", "), ErrUsage)
		}
	}
	return nil
}

// wants says whether any of the workloads is to be measured.
func (b *bench) wants(workloads ...string) bool {
	return len(b.Workloads) == 0 || slices.ContainsFunc(workloads, func(w string) bool {
		return slices.Contains(b.Workloads, w)
	})
}

// among returns those of the subjects that take part.
func (b *bench) among(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return len(b.Subjects) > 0 && !slices.Contains(b.Subjects, name) || b.report.left(name)
	})
}

// leaveOut notes which subjects cannot take part here, and why.
func (b *bench) leaveOut(ctx context.Context) {
	if os.Geteuid() != 0 {
		b.without("overlayfs", "only root mounts it")
		b.without("pipeline", "only root mounts its overlay")
		b.without("overlay", "only root mounts it")
	} else if ok, err := b.knowsBackends(ctx); err != nil || !ok {
		b.without("overlay", "this regfs has no mount --backend overlay")
	}
}

// without leaves a subject out, which the report says.
func (b *bench) without(name, why string) {
	b.report.Without = append(b.report.Without, Absence{Subject: name, Why: why})
	b.logf("without %s: %s", name, why)
}
