package index

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// An Entry is an image on its way into a release, with all that a push would
// write one link after the other.
type Entry struct {
	repo      string
	facts     Facts
	encoded   map[digest.Digest]record
	manifests []entered
	tags      []TagLink
	history   []TagLink
	known     bool
}

type entered struct {
	digest digest.Digest
	absent []digest.Digest
}

// A TagLink is a tag and a manifest that it names.
type TagLink struct {
	Tag    string        `json:"tag"`
	Digest digest.Digest `json:"digest"`
}

// NewEntry returns an entry without manifests.
func NewEntry(repo string) *Entry {
	return &Entry{repo: repo, facts: make(Facts), encoded: make(map[digest.Digest]record)}
}

// Manifest adds a manifest that is to be linked; those that it needs come
// before it. The arguments are as for [Release.LinkManifest]. If there is an
// error, nothing was added.
func (e *Entry) Manifest(d digest.Digest, facts Facts, absent ...digest.Digest) error {
	encoded, err := facts.encode()
	if err != nil {
		return err
	}
	for d, m := range facts {
		e.facts[d], e.encoded[d] = m, encoded[d]
	}
	e.manifests = append(e.manifests, entered{d, absent})
	return nil
}

// Tag adds a tag that is to point at a linked manifest.
func (e *Entry) Tag(link TagLink) { e.tags = append(e.tags, link) }

// Known says that some release has these manifests linked in the repository,
// with all that they need. So it is on record that the repository has had it.
func (e *Entry) Known() { e.known = true }

// History adds a linked manifest at which a tag once pointed.
func (e *Entry) History(link TagLink) { e.history = append(e.history, link) }

// Enter brings images into the release, in one change and with one sync of the
// disk. Their records are written in the order of a push: what a manifest needs
// before it, tags last. So if the power fails half-way, a tag that is there has
// its manifest. A release that was only begun is made by it, see [DB.Begin].
func (r *Release) Enter(entries []*Entry) error {
	if r.begun {
		return r.make(entries)
	}
	return r.durable(func(now time.Time) records { return r.enter(entries, now) })
}

func (r *Release) enter(entries []*Entry, now time.Time) records {
	var rs, tags records
	for _, e := range entries {
		rs = append(rs, r.db.remember(e.facts, e.encoded)...)
		for _, m := range e.manifests {
			rs = append(rs, r.markBlob(m.digest, own, now)...)
			link := r.linkManifest(e.repo, m.digest, e.facts, m.absent, now)
			if e.known {
				link = slices.DeleteFunc(link, record.isEver)
			}
			rs = append(rs, link...)
			rs = append(rs, r.unhide(e.repo, m.digest, now)...)
		}
		tags = append(tags, r.enterTags(e, now)...)
	}
	return append(rs, tags...)
}

// isEver says whether a record is one of a repository that has had a blob.
func (r record) isEver() bool { return r.key[0] == keyEver }

// unhide takes back that blobs were removed which a manifest needs, as their
// upload would.
func (r *Release) unhide(repo string, d digest.Digest, now time.Time) records {
	var rs records
	for need := range r.repos[repo].revisions[d].reach.present() {
		if r.blobs.blob(need.Digest).mark == hidden {
			rs = append(rs, r.markBlob(need.Digest, own, now)...)
		}
	}
	return rs
}

func (r *Release) enterTags(e *Entry, now time.Time) records {
	var rs records
	p := r.repository(e.repo)
	for _, link := range slices.Concat(e.history, e.tags) {
		p.tag(link.Tag).history[link.Digest] = now
		rs = append(rs, put(key(r.Name, keyTagIndex, e.repo, link.Tag, link.Digest.String()), encodeTime(now)))
	}
	for _, link := range e.tags {
		t := p.tag(link.Tag)
		t.current, t.time = link.Digest, now
		rs = append(rs, put(key(r.Name, keyTag, e.repo, link.Tag), encodeTag(link.Digest, now)))
	}
	return rs
}
