package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/regfs/regfs/store"
	"github.com/regfs/regfs/tree"
)

// A note is a mount that the server's successor is to restore if the server
// crashes. The file has all of them; it is there while there are any.
//
// Overlays are not in it: the kernel keeps them, and says itself which they are.
type note struct {
	Release       string     `json:"release"`
	Mountpoint    string     `json:"mountpoint"`
	Reuse         tree.Reuse `json:"reuse"`
	UID           uint32     `json:"uid"`
	GID           uint32     `json:"gid"`
	FileMode      uint32     `json:"file_mode"`
	DirMode       uint32     `json:"dir_mode"`
	AllowOther    bool       `json:"allow_other,omitempty"`
	NoPassthrough bool       `json:"no_passthrough,omitempty"`
	Detach        bool       `json:"detach,omitempty"`
}

type notes struct {
	Mounts []note `json:"mounts"`
}

func (n note) request() MountRequest {
	return MountRequest{
		Release: n.Release, Mountpoint: n.Mountpoint, Backend: BackendFuse, Reuse: n.Reuse,
		UID: n.UID, GID: n.GID, FileMode: n.FileMode, DirMode: n.DirMode,
		AllowOther: n.AllowOther, NoPassthrough: n.NoPassthrough, Detach: n.Detach,
	}
}

func noteOf(r MountRequest) note {
	return note{
		Release: r.Release, Mountpoint: r.Mountpoint, Reuse: r.Reuse,
		UID: r.UID, GID: r.GID, FileMode: r.FileMode, DirMode: r.DirMode,
		AllowOther: r.AllowOther, NoPassthrough: r.NoPassthrough, Detach: r.Detach,
	}
}

// The most that is read of the file: a thousand mounts with long paths.
const (
	maxNotes     = 1000
	maxNotesSize = 8 << 20
)

// readNotes reads what a server has had mounted. Whoever could write to the
// file could have anything mounted anywhere: so nobody but the owner may, and
// nothing in it is believed that a mount request could not say.
func readNotes(dir string) ([]note, error) {
	f, err := os.OpenFile(store.Mounts(dir), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s: not a file that only its owner can write to", f.Name())
	}
	var all notes
	if err := json.NewDecoder(io.LimitReader(f, maxNotesSize)).Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if len(all.Mounts) > maxNotes {
		return nil, fmt.Errorf("%s: %d mounts", f.Name(), len(all.Mounts))
	}
	for _, n := range all.Mounts {
		if err := n.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return all.Mounts, nil
}

// check holds a note against what a command could have asked for.
func (n note) check() error {
	if err := n.request().check(); err != nil {
		return err
	}
	if n.Mountpoint == "/" || n.FileMode > 0o777 || n.DirMode > 0o777 {
		return fmt.Errorf("mount point %s, modes %o and %o", n.Mountpoint, n.FileMode, n.DirMode)
	}
	return nil
}

// writeNotes replaces the file in one step, and removes it if there is nothing
// to be noted.
func writeNotes(dir string, all []note) error {
	name := store.Mounts(dir)
	if len(all) == 0 {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.MarshalIndent(notes{all}, "", "  ")
	if err != nil {
		return err
	}
	return store.WriteFile(name, append(text, '\n'))
}
