// Package control is the one process that owns an open store, and the socket
// by which commands reach it.
//
// A [Server] has the store open, serves its mounts, and answers requests: HTTP
// with JSON over a Unix socket in the store's directory. A [Client] sends
// them. Where no server runs, [Dial] opens the store in the caller's own
// process and sends the requests to itself, so that a command works in one way
// only.
//
// Only the owner of the server's process, and root, may use the socket: its
// mode says so, and the server asks the kernel who calls.
package control

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/tree"
)

// Release is one release, as GET /v1/releases lists it.
type Release struct {
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Mountpoint string    `json:"mountpoint,omitempty"`
	// Sealed is the digest of its document, if it is sealed.
	Sealed digest.Digest `json:"sealed,omitempty"`
}

// A Backend is what mounts a release.
type Backend string

// The backends. Auto takes FUSE, and the kernel's overlayfs where FUSE is not
// to be had.
const (
	BackendAuto    Backend = "auto"
	BackendFuse    Backend = "fuse"
	BackendOverlay Backend = "overlay"
)

// MountRequest asks for a mount: POST /v1/mounts. The answer is a [Mount], and
// then nothing until the mount has ended and the server has let go of it; with
// the connection's end, the mount ends.
type MountRequest struct {
	Release       string     `json:"release"`
	Mountpoint    string     `json:"mountpoint"` // absolute and clean
	Namespace     string     `json:"namespace"`  // the caller's mount namespace
	Backend       Backend    `json:"backend"`
	Reuse         tree.Reuse `json:"reuse"`
	UID           uint32     `json:"uid"`
	GID           uint32     `json:"gid"`
	FileMode      uint32     `json:"file_mode"`
	DirMode       uint32     `json:"dir_mode"`
	AllowOther    bool       `json:"allow_other"`
	NoPassthrough bool       `json:"no_passthrough"`
	Detach        bool       `json:"detach"` // the mount outlives the connection
	Create        bool       `json:"create"` // the release is made if there is none
}

// check holds a request against what a command sends. Paths are made of what
// it says, by a process that may be root's.
func (req MountRequest) check() error {
	if err := index.ValidRelease(req.Release); err != nil {
		return err
	}
	if at := req.Mountpoint; !filepath.IsAbs(at) || filepath.Clean(at) != at || strings.ContainsRune(at, 0) {
		return fmt.Errorf("mount %s: the mount point %.300q is no absolute and clean path: %w", req.Release, at, ErrUsage)
	}
	switch req.Backend {
	case "", BackendAuto, BackendFuse, BackendOverlay:
	default:
		return fmt.Errorf("mount %s: backend %.100q: use auto, fuse or overlay: %w", req.Release, req.Backend, ErrUsage)
	}
	switch req.Reuse {
	case tree.ReuseStore, tree.ReuseRepository, tree.ReuseNone:
		return nil
	}
	return fmt.Errorf("mount %s: reuse %.100q: use store, repository or none: %w", req.Release, req.Reuse, ErrUsage)
}

// Mount is one release that is mounted.
type Mount struct {
	Release    string     `json:"release"`
	Mountpoint string     `json:"mountpoint"`
	Reuse      tree.Reuse `json:"reuse"`
	Since      time.Time  `json:"since"`
	// Backend is what mounts it, and Fallback why that is not FUSE, if FUSE was
	// tried.
	Backend  Backend `json:"backend"`
	Fallback string  `json:"fallback_reason,omitempty"`
	// ReadOnly: the release is sealed.
	ReadOnly bool `json:"read_only,omitempty"`
	// Passthrough says whether reads and writes go to the store's files
	// without a way through the server, and Reason why not.
	Passthrough bool   `json:"passthrough"`
	Reason      string `json:"passthrough_reason,omitempty"`
	PID         int    `json:"pid"` // the server's
	// Supervisor is the process that starts the server again after a crash.
	Supervisor int `json:"supervisor_pid,omitempty"`
	// Requests are what the kernel has asked of the mount so far, by opcode.
	Requests map[string]uint64 `json:"requests,omitempty"`
}

// Status is what GET /v1/status tells.
type Status struct {
	Store    string  `json:"store"`
	Format   int     `json:"format"`
	Server   int     `json:"server_pid"` // 0 if the command has the store open itself
	Releases int     `json:"releases"`
	Mounts   []Mount `json:"mounts"`
	// Supervisor is the process that starts the server again after a crash, 0 if
	// there is none. Dead are the mounts that a server which died has left and
	// nobody has restored.
	Supervisor int    `json:"supervisor_pid,omitempty"`
	Dead       []Lost `json:"dead,omitempty"`
	// Bytes of the disk that the store lies on.
	DiskSize uint64 `json:"disk_size"`
	DiskFree uint64 `json:"disk_free"`
	// Syncs is how often the server has waited for the disk since it began.
	Syncs uint64 `json:"syncs"`
}

// unmountRequest is the body of POST /v1/umount.
type unmountRequest struct {
	Mountpoint string `json:"mountpoint"`
	Force      bool   `json:"force"`
}

// createRequest is the body of POST /v1/releases.
type createRequest struct {
	Name string `json:"name"`
}

// removeRequest is the body of DELETE /v1/releases/NAME.
type removeRequest struct {
	DryRun bool `json:"dry_run"`
}

// An Error is an error that has come over the socket. It is the kind of error
// that it was on the other side, see errors.Is.
type Error struct {
	Message string `json:"error"`
	Kind    string `json:"kind,omitempty"`
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error {
	for _, k := range kinds {
		if k.name == e.Kind {
			return k.err
		}
	}
	return nil
}

// The kinds of error that are this package's own.
var (
	// ErrUsage is an error in what was asked for.
	ErrUsage = errors.New("usage")
	// ErrLeaving: the server is about to exit. Dial again.
	ErrLeaving = errors.New("the server is leaving")
	// ErrDoubt: the index contradicts itself or the store, and nothing is removed.
	ErrDoubt = errors.New("the index is in doubt")
	// ErrCorrupt: content is not what its digest says.
	ErrCorrupt = errors.New("damaged content")
	// ErrRefused: files that a registry wrote are not what their names say.
	ErrRefused = errors.New("some files were refused")
	// ErrIncomplete: a release lacks something that its images need, or is not
	// what was sealed.
	ErrIncomplete = errors.New("the release is not whole")
)

// kinds are the errors that keep their kind on the way over the socket. Of an
// error that is of several kinds the first counts: what was asked for, before
// what was found.
var kinds = []struct {
	name string
	err  error
}{
	{"usage", ErrUsage},
	{"name", index.ErrName},
	{"leaving", ErrLeaving},
	{"refused", ErrRefused},
	{"doubt", ErrDoubt},
	{"damaged", index.ErrDamaged},
	{"corrupt", ErrCorrupt},
	{"incomplete", ErrIncomplete},
	{"sealed", syscall.EROFS},
	{"busy", syscall.EBUSY},
	{"exist", fs.ErrExist},
	{"not-exist", fs.ErrNotExist},
}

func newError(err error) *Error {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return &Error{Message: err.Error(), Kind: k.name}
		}
	}
	return &Error{Message: err.Error()}
}
