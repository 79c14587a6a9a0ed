package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/beneath"
	"github.com/regfs/regfs/layout"
	"github.com/regfs/regfs/patch"
)

// Dir checks a registry's storage directory, the one in which docker/ lies,
// with all processors. Files that come and go meanwhile may be found or not; it
// is for a tree at rest.
func Dir(ctx context.Context, dir string, o Options) (*Report, error) {
	root, err := beneath.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if stat, err := root.Lstat(layout.Root); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("%s: no registry's storage: %s: %w", dir, layout.Root, fs.ErrNotExist)
	}
	c := newChecker(o)
	if err := c.documents(root); err != nil {
		return nil, err
	}
	files := make(chan string, 64)
	walked := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		defer close(files)
		walked <- walk(ctx, root, c, files)
	}()
	eachFile(files, func(name string) {
		if err := c.open(ctx, root, name, o); err != nil {
			cancel(err)
		}
	})
	if err := errors.Join(<-walked, done(ctx)); err != nil {
		return nil, err
	}
	return c.judge(), nil
}

// documents reads those of sealed releases that were brought here, if one of
// them is asked for.
func (c *checker) documents(root *beneath.Dir) error {
	if c.o.Digest == "" {
		return nil
	}
	entries, err := root.ReadDir("regfs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := root.OpenRegular(path.Join("regfs", e.Name(), "release.json"))
		if err != nil {
			continue // what is there is no document, then
		}
		err = c.readDocument(f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// eachFile calls f for all files, as many at a time as there are processors.
func eachFile[T any](files <-chan T, f func(T)) {
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for name := range files {
				f(name)
			}
		})
	}
	wg.Wait()
}

// walk sends the names of all files below docker/registry/v2, uploads left out.
func walk(ctx context.Context, root *beneath.Dir, c *checker, files chan<- string) error {
	return fs.WalkDir(root, layout.Root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case done(ctx) != nil:
			return fs.SkipAll
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "_uploads":
			return fs.SkipDir
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			c.problem(name, "is no file, and no directory")
			return nil
		}
		files <- name
		return nil
	})
}

func (c *checker) open(ctx context.Context, root *beneath.Dir, name string, o Options) error {
	f, err := root.OpenRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		c.problem(name, "%v", err)
		return nil
	}
	defer f.Close()
	err = c.file(name, &counted{ctx, f, o})
	if err != nil && done(ctx) == nil && err != errTooMany { // the disk's: the file is damaged, the others may be whole
		c.problem(name, "%v", err)
		return nil
	}
	return err
}

// Against looks whether a directory has what a patch requires, and adds to the
// patch's report what it has not. It reads each required file.
func Against(ctx context.Context, dir string, patched *Report, o Options) error {
	if patched.Patch == nil {
		return fmt.Errorf("it is no patch: it has no %s", path.Join("regfs", "RELEASE", "patch.json"))
	}
	root, err := beneath.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	sums := make(chan patch.Sum, 64)
	go func() {
		defer close(sums)
		for _, s := range patched.required {
			sums <- s
		}
	}()
	var mu sync.Mutex // guards patched
	eachFile(sums, func(s patch.Sum) {
		if what := compare(ctx, root, s, o); what != "" {
			mu.Lock()
			defer mu.Unlock()
			patched.problem(path.Join(dir, s.Path), "%s", what)
		}
	})
	patched.sort()
	return done(ctx)
}

// compare says what is wrong with a required file.
func compare(ctx context.Context, root *beneath.Dir, s patch.Sum, o Options) string {
	if done(ctx) != nil {
		return ""
	}
	f, err := root.OpenRegular(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "is not there, and the patch requires it"
	}
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	got, err := s.Digest.Algorithm().FromReader(&counted{ctx, f, o})
	switch {
	case done(ctx) != nil:
		return ""
	case err != nil:
		return err.Error()
	case got != s.Digest && layout.Parse(s.Path).Kind == layout.BlobData:
		return fmt.Sprintf("damaged: content has digest %s", got)
	case got != s.Digest:
		return "points at something else than the patch requires"
	}
	return ""
}
