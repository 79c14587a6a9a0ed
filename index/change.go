package index

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// change runs f, which changes the release's memory and returns the records
// that say the same, and queues them.
func (r *Release) change(f func(now time.Time) records) (*batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.db.writer.broken(); err != nil {
		return nil, err
	}
	return r.db.writer.enqueue(f(time.Now())), nil
}

// durable is change, and waits.
func (r *Release) durable(f func(now time.Time) records) error {
	b, err := r.change(f)
	if err != nil {
		return err
	}
	return r.db.writer.wait(b)
}

// soon is change, and does not wait. What fails on the way is logged.
func (r *Release) soon(f func(now time.Time) records) error {
	b, err := r.change(f)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	default:
	}
	go func() {
		if err := r.db.writer.wait(b); err != nil {
			r.db.log.Error("a change of the release is lost", "release", r.Name, "err", err)
		}
	}()
	return nil
}

// LinkLayer links a layer or a config in a repository.
func (r *Release) LinkLayer(repo string, d digest.Digest) error {
	return r.durable(func(now time.Time) records {
		l := r.repository(repo).layer(d)
		l.mark, l.time = own, now
		return records{
			put(key(r.Name, keyLayer, repo, d.String()), encodeMark(own, now)),
			put(everKey(repo, d), nil),
		}
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
// learnt of it, and of the manifests below it, that [DB.Manifest] did not know.
func (r *Release) LinkManifest(repo string, d digest.Digest, facts Facts) error {
	known, err := r.db.learn(facts)
	if err != nil {
		return err
	}
	reach := r.db.reach(d)
	return r.durable(func(now time.Time) records {
		rs := append(known, put(key(r.Name, keyRevision, repo, d.String()), encodeTime(now)))
		p := r.repository(repo)
		rev, ok := p.revisions[d]
		if ok {
			r.uncount(p, rev)
		} else {
			rev = new(revision)
			p.revisions[d] = rev
		}
		rev.time = now
		r.count(p, rev, reach)
		return append(rs, r.show(repo, reach)...)
	})
}

// show brings back the hidden layer links of a manifest that has just been
// linked, and notes that the repository has had its layers.
func (r *Release) show(repo string, reach reach) records {
	var rs records
	for _, need := range reach.needs {
		if need.Manifest {
			continue
		}
		rs = append(rs, put(everKey(repo, need.Digest), nil))
		if l := r.repos[repo].layer(need.Digest); l.mark == hidden {
			l.mark = unmarked
			rs = append(rs, del(key(r.Name, keyLayer, repo, need.Digest.String())))
		}
	}
	return rs
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

// Awaits says whether a revision needs this manifest, of which nothing is
// known. Whoever brings its blob calls AddFacts.
func (r *Release) Awaits(d digest.Digest) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.awaited[d]
}

// AddFacts enters facts that came later than the links to their manifests.
func (r *Release) AddFacts(facts Facts) error {
	rs, err := r.db.learn(facts)
	if err != nil {
		return err
	}
	return r.durable(func(time.Time) records {
		for d := range facts {
			delete(r.awaited, d)
		}
		for name, p := range r.repos {
			for d, rev := range p.revisions {
				if len(rev.reach.unknown) > 0 {
					r.uncount(p, rev)
					r.count(p, rev, r.db.reach(d))
					rs = append(rs, r.show(name, rev.reach)...)
				}
			}
		}
		return rs
	})
}

// learn makes facts known at once, and returns the records that keep them.
func (db *DB) learn(facts Facts) (records, error) {
	var rs records
	for d, m := range facts {
		db.learnt.Store(d, m)
		value, err := encodeFacts(m)
		if err != nil {
			return nil, err
		}
		rs = append(rs, put(factsKey(d), value))
	}
	return rs, nil
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

// AddHistory notes that a tag points, or once pointed, at a manifest.
func (r *Release) AddHistory(repo, name string, d digest.Digest) error {
	return r.durable(func(now time.Time) records {
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

// AddBlob notes that a blob was uploaded through this release. It does not
// wait for the disk: the link that makes the blob count does.
func (r *Release) AddBlob(d digest.Digest) error { return r.markBlob(d, own) }

// HideBlob takes a blob out of the release, until it is uploaded again or
// while no linked manifest needs it. It does not wait for the disk.
func (r *Release) HideBlob(d digest.Digest) error { return r.markBlob(d, hidden) }

func (r *Release) markBlob(d digest.Digest, m mark) error {
	return r.soon(func(now time.Time) records {
		r.blobs.mark(d, m, now)
		return records{put(key(r.Name, keyBlob, d.String()), encodeMark(m, now))}
	})
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
