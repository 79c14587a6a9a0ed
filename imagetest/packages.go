package imagetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// debs is a directory of Debian packages, name_version_arch.deb.
type debs string

// openDebs returns the directory with all the packages in it, downloading
// those that are missing. An empty dir is $REGFS_CACHE/debs or .cache/debs of
// the module.
func openDebs(dir string, names []string) (debs, error) {
	if dir == "" {
		dir = filepath.Join(cacheDir(), "debs")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	d := debs(dir)
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return d.path(name) != "" })
	if len(missing) == 0 {
		return d, nil
	}
	return d, d.download(missing)
}

func cacheDir() string {
	if dir := os.Getenv("REGFS_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		return ".cache"
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return filepath.Join(dir, ".cache")
}

// path returns a package's file, empty if it is not there.
func (d debs) path(name string) string {
	found, err := filepath.Glob(filepath.Join(string(d), name+"_*.deb"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// download fetches packages by the system's lists, and by fresh ones if these
// are missing or too old to be true. The files come into place by rename, so
// that several test processes may share a directory.
func (d debs) download(names []string) error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(string(d), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	get := append([]string{"download"}, names...)
	if err := aptGet(dir, get...); err != nil {
		if err := aptGetAfresh(dir, get...); err != nil {
			return fmt.Errorf("packages for images: %w\n"+
				"This needs apt-get (Debian 12) and its mirror. Without them, "+
				"put the .deb files of %s into %s", err, strings.Join(names, " "), string(d))
		}
	}
	return d.take(dir)
}

// take moves the downloaded packages in.
func (d debs) take(dir string) error {
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if err := os.Rename(path, filepath.Join(string(d), filepath.Base(path))); err != nil {
			return err
		}
	}
	return nil
}

// aptGetAfresh runs apt-get with package lists of its own, made for it under
// dir: no root is needed, and the system's lists stay as they are.
func aptGetAfresh(dir string, args ...string) error {
	lists := filepath.Join(dir, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return err
	}
	private := []string{"-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache=" + dir}
	if err := aptGet(dir, append(private, "update")...); err != nil {
		return err
	}
	return aptGet(dir, append(private, args...)...)
}

// aptGet runs apt-get in dir. As root it stays root: the user that it changes
// to otherwise cannot write there.
func aptGet(dir string, args ...string) error {
	cmd := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get: %w\n%s", err, out)
	}
	return nil
}

// files returns a package's files as a tar.
func (d debs) files(name string) ([]byte, error) {
	return d.dpkgDeb("--fsys-tarfile", name)
}

// control returns what a package says of itself.
func (d debs) control(name string) ([]byte, error) {
	return d.dpkgDeb("--field", name)
}

func (d debs) dpkgDeb(action, name string) ([]byte, error) {
	path := d.path(name)
	if path == "" {
		return nil, fmt.Errorf("package %s is not in %s", name, string(d))
	}
	var complaint strings.Builder
	cmd := exec.Command("dpkg-deb", action, path)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb %s %s: %w\n%s", action, path, err, &complaint)
	}
	return out, nil
}
