package mounttest

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout"
)

// A registry does with files what a stock registry does, call by call.
type registry struct {
	root string // the registry's rootdirectory
	// put writes a small file, as 2.8 or as 3.x does.
	put func(path string, content []byte) error
}

func registry2(root string) registry { return registry{root, putInPlace} }
func registry3(root string) registry { return registry{root, putByRename} }

// putInPlace is how 2.8 writes blobs of manifests, and links.
func putInPlace(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// putByRename is how 3.x does.
func putByRename(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	temp := path + "." + newUUID() + ".tmp"
	if err := writeSynced(temp, content); err != nil {
		os.Remove(temp)
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (r registry) path(p string) string { return filepath.Join(r.root, p) }

func (r registry) blob(d digest.Digest) string { return r.path(layout.BlobDataPath(d)) }

func (r registry) layer(repo string, d digest.Digest) string {
	return r.path(layout.LayerLinkPath(repo, d))
}

func (r registry) revision(repo string, d digest.Digest) string {
	return r.path(layout.RevisionLinkPath(repo, d))
}

func (r registry) current(repo, tag string) string {
	return r.path(layout.TagCurrentLinkPath(repo, tag))
}

func (r registry) history(repo, tag string, d digest.Digest) string {
	return r.path(layout.TagIndexLinkPath(repo, tag, d))
}

func (r registry) repository(repo string) string {
	return r.path(layout.Root + "/repositories/" + repo)
}

// An upload is one in progress.
type upload struct {
	registry
	repo, dir string
	written   int64
}

func (r registry) newUpload(repo string) (*upload, error) {
	u := &upload{registry: r, repo: repo}
	u.dir = filepath.Join(r.repository(repo), "_uploads", newUUID())
	started := time.Now().UTC().Format(time.RFC3339)
	if err := r.put(filepath.Join(u.dir, "startedat"), []byte(started)); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *upload) data() string { return filepath.Join(u.dir, "data") }

func (u *upload) hashstate(offset string) string {
	return filepath.Join(u.dir, "hashstates", "sha256", offset)
}

// write appends as one PATCH does: the file is opened anew, and the state of
// the hash is kept for the next.
func (u *upload) write(chunk []byte) error {
	if err := os.MkdirAll(u.dir, 0o777); err != nil {
		return err
	}
	f, err := os.OpenFile(u.data(), os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil && end != u.written {
		err = errors.New("upload is not as long as what was written to it")
	}
	if err == nil {
		_, err = f.Write(chunk)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	u.written += int64(len(chunk))
	return u.put(u.hashstate(digest.FromBytes(chunk).Encoded()[:6]), []byte("state"))
}

// commit makes the upload a blob, links it, and clears up.
func (u *upload) commit(d digest.Digest) error {
	if err := u.move(d); err != nil {
		return err
	}
	if err := u.put(u.layer(u.repo, d), []byte(d)); err != nil {
		return err
	}
	return u.cancel()
}

func (u *upload) move(d digest.Digest) error {
	if err := os.MkdirAll(filepath.Dir(u.blob(d)), 0o777); err != nil {
		return err
	}
	return os.Rename(u.data(), u.blob(d))
}

func (u *upload) cancel() error { return os.RemoveAll(u.dir) }

// push uploads a layer or a config.
func (r registry) push(repo string, content []byte) error {
	u, err := r.newUpload(repo)
	if err != nil {
		return err
	}
	half := len(content) / 2
	if err := u.write(content[:half]); err != nil {
		return err
	}
	if err := u.write(content[half:]); err != nil {
		return err
	}
	return u.commit(digest.FromBytes(content))
}

// pushManifest writes a manifest and its link, and the tag's if there is one.
func (r registry) pushManifest(repo, tag string, content []byte) error {
	d := digest.FromBytes(content)
	if err := r.put(r.blob(d), content); err != nil {
		return err
	}
	if err := r.put(r.revision(repo, d), []byte(d)); err != nil || tag == "" {
		return err
	}
	return r.tag(repo, tag, d)
}

func (r registry) tag(repo, tag string, d digest.Digest) error {
	if err := r.put(r.current(repo, tag), []byte(d)); err != nil {
		return err
	}
	return r.put(r.history(repo, tag, d), []byte(d))
}

func (r registry) untag(repo, tag string) error {
	return os.RemoveAll(filepath.Dir(filepath.Dir(r.current(repo, tag))))
}

// deleteManifest is what DELETE of a manifest does: its link goes, and the
// tags that point to it.
func (r registry) deleteManifest(repo string, d digest.Digest, tags ...string) error {
	err := os.RemoveAll(filepath.Dir(r.revision(repo, d)))
	for _, tag := range tags {
		err = errors.Join(err, r.untag(repo, tag))
	}
	return err
}

func (r registry) deleteLayer(repo string, d digest.Digest) error {
	return os.RemoveAll(filepath.Dir(r.layer(repo, d)))
}

// deleteBlob is what the registry's garbage collection does.
func (r registry) deleteBlob(d digest.Digest) error {
	return os.RemoveAll(filepath.Dir(r.blob(d)))
}
