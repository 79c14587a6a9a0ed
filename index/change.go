package index

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// change runs f, which changes the release's memory and returns the records
// that say the same, and hands them to the writer.
func (r *Release) change(write func(records) *batch, f func(now time.Time) records) (*batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.frozen(); err != nil {
		return nil, err
	}
	return r.take(write, f)
}

// take is change for what a sealed release takes, too. mu is held.
func (r *Release) take(write func(records) *batch, f func(now time.Time) records) (*batch, error) {
	if r.broken != nil {
		return nil, r.broken
	}
	if err := r.db.writer.broken(); err != nil {
		return nil, err
	}
	defer r.db.nextGeneration(r.Name)
	return write(f(time.Now())), nil
}

// durable is a change that its caller waits for, until it is on the disk.
func (r *Release) durable(f func(now time.Time) records) error {
	b, err := r.change(r.db.writer.enqueue, f)
	if err != nil {
		return err
	}
	return r.db.writer.wait(b)
}

// written is a change that its caller waits for until no death of this process
// can lose it. It is on the disk with the next one that is durable, or soon.
func (r *Release) written(f func(now time.Time) records) error {
	b, err := r.change(r.db.writer.now, f)
	if err != nil {
		return err
	}
	return r.db.writer.wait(b)
}

// soon is a change that nobody waits for. If it cannot be written, the log and
// the next Sync say so.
func (r *Release) soon(f func(now time.Time) records) error {
	b, err := r.change(r.db.writer.later, f)
	if err != nil {
		return err
	}
	go func() {
		if err := r.db.writer.wait(b); err != nil {
			r.db.log.Error("a change of the release is lost", "release", r.Name, "err", err)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lost = err
		}
	}()
	return nil
}

// LinkLayer links a layer or a config in a repository. With the link the blob
// is the release's, as if it had been uploaded: a client that mounts it from
// another repository does not upload it. It does not wait for the disk, only
// for the kernel: what a layer is worth, the manifest says.
func (r *Release) LinkLayer(repo string, d digest.Digest) error {
	return r.written(func(now time.Time) records {
		l := r.repository(repo).layer(d)
		l.mark, l.time = own, now
		rs := append(r.db.ever(repo, d), put(key(r.Name, keyLayer, repo, d.String()), encodeMark(own, now)))
		if r.blobs.blob(d).mark == unmarked {
			rs = append(rs, r.markBlob(d, own, now)...)
		}
		return rs
	})
}

// HideLayer takes a layer link out of a repository, wherever it comes from,
// until it is linked again. It does not wait for the disk.
func (r *Release) HideLayer(repo string, d digest.Digest) error {
	return r.soon(func(now time.Time) records {
		l := r.repository(repo).layer(d)
		l.mark, l.time = hidden, now
		return records{put(key(r.Name, keyLayer, repo, d.String()), encodeMark(hidden, now))}
	})
}

// LinkManifest links a manifest in a repository. The facts are what the caller
// learnt of it, and of the manifests below it, that [DB.Manifest] did not know;
// absent is what they name, can do without, and the store has not.
func (r *Release) LinkManifest(repo string, d digest.Digest, facts Facts, absent ...digest.Digest) error {
	encoded, err := facts.encode()
	if err != nil {
		return err
	}
	return r.durable(func(now time.Time) records {
		return append(r.db.remember(facts, encoded), r.linkManifest(repo, d, facts, absent, now)...)
	})
}

// linkManifest counts a revision whose facts are remembered, and returns its
// records.
func (r *Release) linkManifest(repo string, d digest.Digest, facts Facts, absent []digest.Digest, now time.Time) records {
	p := r.repository(repo)
	rev, ok := p.revisions[d]
	if ok {
		r.uncount(p, rev)
	} else {
		rev = new(revision)
		p.revisions[d] = rev
	}
	rev.time, rev.absent = now, absent
	r.count(p, rev, r.db.reach(d, absent))
	rs := records{put(key(r.Name, keyRevision, repo, d.String()), encodeRevision(rev))}
	rs = append(rs, r.show(repo, rev)...)
	rs = append(rs, r.learn(facts)...)
	return append(rs, r.arrive(d, absent)...)
}

// learn counts anew the revisions below which a manifest was unknown, as they
// would be counted when the release is opened the next time.
func (r *Release) learn(facts Facts) records {
	var rs records
	for d := range facts {
		if !r.awaited[d] {
			continue
		}
		for name, p := range r.repos {
			for top, rev := range p.revisions {
				if slices.Contains(rev.reach.unknown, d) {
					r.uncount(p, rev)
					r.count(p, rev, r.db.reach(top, rev.absent))
					rs = append(rs, r.show(name, rev)...)
				}
			}
		}
	}
	return rs
}

// show brings back the layer links that were hidden before a manifest that
// needs them was linked, and notes that the repository has had its layers.
func (r *Release) show(repo string, rev *revision) records {
	var rs records
	for need := range rev.reach.present() {
		if need.Manifest {
			continue
		}
		rs = append(rs, r.db.ever(repo, need.Digest)...)
		if l := r.repos[repo].layer(need.Digest); l.mark == hidden && !l.time.After(rev.time) {
			l.mark = unmarked
			rs = append(rs, del(key(r.Name, keyLayer, repo, need.Digest.String())))
		}
	}
	return rs
}

// arrive lets the revisions that had to do without a blob have it. absent is
// what that blob, if it is a manifest, has to do without itself.
func (r *Release) arrive(d digest.Digest, absent []digest.Digest) records {
	if !r.awaited[d] {
		return nil
	}
	delete(r.awaited, d)
	var rs records
	for name, p := range r.repos {
		for top, rev := range p.revisions {
			if !rev.reach.waits(d) {
				continue
			}
			r.uncount(p, rev)
			rev.absent = without(rev.absent, d, absent)
			r.count(p, rev, r.db.reach(top, rev.absent))
			rs = append(rs, put(key(r.Name, keyRevision, name, top.String()), encodeRevision(rev)))
			rs = append(rs, r.show(name, rev)...)
		}
	}
	return rs
}

// without returns a list less one digest, and with others.
func without(list []digest.Digest, d digest.Digest, more []digest.Digest) []digest.Digest {
	list = append(slices.Clone(list), more...)
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(e digest.Digest) bool { return e == d })
}

// UnlinkManifest removes a manifest's link, and with it what only this
// manifest needed. It does not wait for the disk.
func (r *Release) UnlinkManifest(repo string, d digest.Digest) error {
	return r.soon(func(time.Time) records {
		if p, ok := r.repos[repo]; ok && p.revisions[d] != nil {
			r.uncount(p, p.revisions[d])
			delete(p.revisions, d)
		}
		return records{del(key(r.Name, keyRevision, repo, d.String()))}
	})
}

// Awaits says whether a revision would have more if this blob came. If it is a
// manifest, whoever brings it calls AddFacts before AddBlob.
func (r *Release) Awaits(d digest.Digest) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.awaited[d]
}

// AddFacts enters what the caller learnt of a manifest that came later than
// the links that need it. The arguments are as for LinkManifest.
func (r *Release) AddFacts(d digest.Digest, facts Facts, absent ...digest.Digest) error {
	encoded, err := facts.encode()
	if err != nil {
		return err
	}
	return r.durable(func(time.Time) records {
		rs := r.db.remember(facts, encoded)
		return append(rs, r.arrive(d, absent)...)
	})
}

// encode returns the records that keep facts.
func (f Facts) encode() (map[digest.Digest]record, error) {
	all := make(map[digest.Digest]record, len(f))
	for d, m := range f {
		value, err := encodeFacts(m)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		all[d] = put(factsKey(d), value)
	}
	return all, nil
}

// remember makes facts known before they are on the disk, and returns the
// records of those that were not known. It is called within a change, so that
// a reload after a failed write comes later and forgets them, and so that what
// is known is on the disk already or on its way there before the change.
func (db *DB) remember(facts Facts, encoded map[digest.Digest]record) records {
	var rs records
	for d, m := range facts {
		if !db.KnowsManifest(d) {
			db.learnt.Store(d, m)
			db.answered.Delete(d)
			rs = append(rs, encoded[d])
		}
	}
	return rs
}

// Tag makes a tag point at a manifest.
func (r *Release) Tag(repo, name string, d digest.Digest) error {
	return r.durable(func(now time.Time) records {
		t := r.repository(repo).tag(name)
		t.current, t.time = d, now
		return records{put(key(r.Name, keyTag, repo, name), encodeTag(d, now))}
	})
}

// Untag removes what a tag points at; its history stays until it is removed
// link by link. It does not wait for the disk.
func (r *Release) Untag(repo, name string) error {
	return r.soon(func(time.Time) records {
		r.editTag(repo, name, func(t *tag) { t.current = "" })
		return records{del(key(r.Name, keyTag, repo, name))}
	})
}

// AddHistory notes that a tag points, or once pointed, at a manifest. It does
// not wait for the disk: the tag follows, and is acknowledged.
func (r *Release) AddHistory(repo, name string, d digest.Digest) error {
	return r.soon(func(now time.Time) records {
		r.repository(repo).tag(name).history[d] = now
		return records{put(key(r.Name, keyTagIndex, repo, name, d.String()), encodeTime(now))}
	})
}

// RemoveHistory takes one manifest out of a tag's history. It does not wait
// for the disk.
func (r *Release) RemoveHistory(repo, name string, d digest.Digest) error {
	return r.soon(func(time.Time) records {
		r.editTag(repo, name, func(t *tag) { delete(t.history, d) })
		return records{del(key(r.Name, keyTagIndex, repo, name, d.String()))}
	})
}

// editTag changes a tag if it is there, and forgets it if nothing is left.
func (r *Release) editTag(repo, name string, edit func(*tag)) {
	p, ok := r.repos[repo]
	if !ok || p.tags[name] == nil {
		return
	}
	t := p.tags[name]
	edit(t)
	if t.current == "" && len(t.history) == 0 {
		delete(p.tags, name)
	}
}

// AddBlob notes that a blob was uploaded through this release. It waits for
// nothing: the link that makes the blob count does.
func (r *Release) AddBlob(d digest.Digest) error {
	return r.soon(func(now time.Time) records {
		return append(r.markBlob(d, own, now), r.arrive(d, nil)...)
	})
}

// HideBlob takes a blob out of the release, until it is uploaded again or
// while no linked manifest needs it. It does not wait for the disk.
func (r *Release) HideBlob(d digest.Digest) error {
	return r.soon(func(now time.Time) records { return r.markBlob(d, hidden, now) })
}

func (r *Release) markBlob(d digest.Digest, m mark, now time.Time) records {
	r.blobs.mark(d, m, now)
	return records{put(key(r.Name, keyBlob, d.String()), encodeMark(m, now))}
}

// AddDir notes a directory that somebody made, so that it stays though it is
// empty. It does not wait for the disk.
func (r *Release) AddDir(path string) error {
	return r.soon(func(now time.Time) records {
		r.dirs[path] = now
		return records{put(key(r.Name, keyDir, path), encodeTime(now))}
	})
}

// RemoveDir takes back AddDir. It does not wait for the disk.
func (r *Release) RemoveDir(path string) error {
	return r.soon(func(time.Time) records {
		delete(r.dirs, path)
		return records{del(key(r.Name, keyDir, path))}
	})
}
