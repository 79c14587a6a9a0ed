package index

import (
	"encoding/json"
	"time"
)

// Fork makes an open release that has what another one has now: its manifests
// and tags with their history, and what was removed. What was uploaded, and that
// no manifest needs, stays behind. It costs records, and no blobs.
//
// The records may be too many for one transaction. So the new release's own
// record comes first and says that it is being made: such a release is not
// there, and belongs to nobody. It comes again at the end, and says so no more.
// What was left by one that was killed between the two is removed on the way.
func (r *Release) Fork(name string) error {
	if err := r.Sync(); err != nil {
		return err
	}
	r.db.creating.Lock()
	defer r.db.creating.Unlock()
	rs, err := r.db.vacate(name)
	if err != nil {
		return err
	}
	created := time.Now().UTC()
	making, err := json.Marshal(releaseRecord{Created: created, Making: true})
	if err != nil {
		return err
	}
	made, err := json.Marshal(releaseRecord{Created: created})
	if err != nil {
		return err
	}
	rs = append(records{put(releaseKey(name), making)}, rs...)
	b, err := r.copyTo(name, rs, put(releaseKey(name), made))
	if err != nil {
		return err
	}
	r.db.nextGeneration(name)
	return r.db.writer.wait(b)
}

// copyTo hands to the writer some records, then those of the release under
// another name, and then the last one. It does so under the release's lock, so
// that they come after those of all changes that they have in them, and fail
// with them.
func (r *Release) copyTo(name string, rs records, last record) (*batch, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.broken != nil {
		return nil, r.broken
	}
	if err := r.db.writer.broken(); err != nil {
		return nil, err
	}
	for repo, p := range r.repos {
		rs = append(rs, p.copyTo(name, repo)...)
	}
	for d, b := range r.blobs.all {
		if b.mark == hidden || b.mark == own && b.needs > 0 {
			rs = append(rs, put(key(name, keyBlob, d.String()), encodeMark(b.mark, b.time)))
		}
	}
	for dir, t := range r.dirs {
		rs = append(rs, put(key(name, keyDir, dir), encodeTime(t)))
	}
	return r.db.writer.enqueue(append(rs, last)), nil
}

func (p *repository) copyTo(name, repo string) (rs records) {
	for d, rev := range p.revisions {
		rs = append(rs, put(key(name, keyRevision, repo, d.String()), encodeRevision(rev)))
	}
	for d, l := range p.layers {
		if l.mark == hidden || l.mark == own && l.needs > 0 {
			rs = append(rs, put(key(name, keyLayer, repo, d.String()), encodeMark(l.mark, l.time)))
		}
	}
	for tag, t := range p.tags {
		for d, at := range t.history {
			rs = append(rs, put(key(name, keyTagIndex, repo, tag, d.String()), encodeTime(at)))
		}
		if t.current != "" {
			rs = append(rs, put(key(name, keyTag, repo, tag), encodeTag(t.current, t.time)))
		}
	}
	return rs
}
