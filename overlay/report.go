package overlay

import (
	"sync"
	"time"
)

// A Report is what a Sync or a Finish has brought into the store and the index.
type Report struct {
	Blobs   int       `json:"blobs"` // entered
	Bytes   int64     `json:"bytes"`
	Links   int       `json:"links"`   // entered, of all kinds
	Removed int       `json:"removed"` // links and blobs that the release does not have any more
	Refused []Refusal `json:"refused"` // what could not be taken
}

// A Refusal is a file that is not what its name says. It is in no release.
type Refusal struct {
	Path   string `json:"path"` // in the mount; after a Finish, below the release's directory of refused files
	Reason string `json:"reason"`
	time   time.Time
}

// refusals may be added to from many goroutines.
type refusals struct {
	mu  sync.Mutex
	all []Refusal
}

func (r *refusals) add(one Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}
