package index

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// FuzzRecord reads a record of any kind as the index would, whatever a damaged
// disk or a foreign hand has made of it: no panic, no memory beyond what its
// length explains; and what is taken is written again as it was understood.
func FuzzRecord(f *testing.F) {
	for _, r := range exampleRecords(f) {
		f.Add(r.key, r.value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return
		}
		switch key[0] {
		case keyRelease:
			checkReleaseRecord(t, value)
		case keyIn:
			_, record, ok := bytes.Cut(key[1:], []byte{0})
			if ok {
				checkRecord(t, string(record), value)
			}
		case keyFacts:
			checkFacts(t, value)
		case keyEver, keyJournal:
			checkPair(t, key)
		}
	})
}

// exampleRecords are one or more of each kind, as they are written.
func exampleRecords(f testing.TB) []record {
	now := time.Unix(1795305942, 173936397)
	rev := &revision{time: now, absent: []digest.Digest{dg("a"), digest.SHA512.FromString("b")}}
	facts, _ := encodeFacts(largeIndex(digest.SHA256, 3))
	small := pack(f, string(facts))
	return []record{
		put(releaseKey("v1"), []byte(`{"created":"2026-11-22T00:05:41.217628903Z"}`)),
		put(key("v1", keyLayer, "a/b", dg("l").String()), encodeMark(own, now)),
		put(key("v1", keyLayer, "a/b", dg("l").String()), encodeMark(hidden, now)),
		put(key("v1", keyRevision, "a/b", dg("m").String()), encodeRevision(rev)),
		put(key("v1", keyTag, "a/b", "latest"), encodeTag(dg("m"), now)),
		put(key("v1", keyTagIndex, "a/b", "latest", dg("m").String()), encodeTime(now)),
		put(key("v1", keyBlob, dg("l").String()), encodeMark(own, now)),
		put(key("v1", keyDir, "docker/registry/v2/repositories/a"), encodeTime(now)),
		put(factsKey(dg("m")), facts),
		put(factsKey(dg("m")), small),
		put(everKey("a/b", dg("l")), nil),
		put(journalKey(Pair{"a/b", dg("l")}), nil),
	}
}

func checkReleaseRecord(t *testing.T, value []byte) {
	var r, back releaseRecord
	if json.Unmarshal(value, &r) != nil {
		return
	}
	stored, err := json.Marshal(r)
	if err != nil {
		return // a year beyond 9999
	}
	if err := json.Unmarshal(stored, &back); err != nil || !back.Created.Equal(r.Created) {
		t.Fatalf("%v comes back as %v, %v", r, back, err)
	}
}

// checkRecord loads a record into a release, writes down what the release says
// then, and loads that into another one.
func checkRecord(t *testing.T, record string, value []byte) {
	first := emptyRelease()
	if first.loadRecord(record, value) != nil {
		return
	}
	said := recordsOf(first)
	if len(said) != 1 {
		t.Fatalf("record %q has become %d records", record, len(said))
	}
	second := emptyRelease()
	for k, v := range said {
		if err := second.loadRecord(k, []byte(v)); err != nil {
			t.Fatalf("record %q was taken, and %q not: %v", record, k, err)
		}
	}
	if again := recordsOf(second); !maps.Equal(said, again) {
		t.Fatalf("record %q = %x\n     first %q\n      then %q", record, value, said, again)
	}
}

func emptyRelease() *Release {
	r := &Release{Info: Info{Name: "v1"}}
	r.clear()
	return r
}

// recordsOf writes down what a release says, without what follows from it.
func recordsOf(r *Release) map[string]string {
	all := make(map[string]string)
	say := func(kind byte, value []byte, fields ...string) {
		all[string(key(r.Name, kind, fields...)[len(releasePrefix(r.Name)):])] = string(value)
	}
	for name, repo := range r.repos {
		for d, l := range repo.layers {
			say(keyLayer, encodeMark(l.mark, l.time), name, d.String())
		}
		for d, rev := range repo.revisions {
			say(keyRevision, encodeRevision(rev), name, d.String())
		}
		for tag, t := range repo.tags {
			if t.current != "" {
				say(keyTag, encodeTag(t.current, t.time), name, tag)
			}
			for d, at := range t.history {
				say(keyTagIndex, encodeTime(at), name, tag, d.String())
			}
		}
	}
	for d, b := range r.blobs.all {
		say(keyBlob, encodeMark(b.mark, b.time), d.String())
	}
	for p, at := range r.dirs {
		say(keyDir, encodeTime(at), p)
	}
	return all
}

func checkFacts(t *testing.T, value []byte) {
	m, err := decodeFacts(value)
	if err != nil {
		if m != nil || len(err.Error()) > 1000 {
			t.Fatalf("%v and %d bytes of an error", m, len(err.Error()))
		}
		return
	}
	stored, err := encodeFacts(m)
	if err != nil {
		return // it had room once, in some other form
	}
	back, err := decodeFacts(stored)
	if err != nil {
		t.Fatalf("%+v comes back as %v", m, err)
	}
	if again, err := encodeFacts(back); err != nil || !bytes.Equal(stored, again) {
		t.Fatalf("%+v comes back as %+v, %v", m, back, err)
	}
}

func checkPair(t *testing.T, key []byte) {
	p, ok := parsePair(key[1:])
	if !ok {
		return
	}
	for _, again := range [][]byte{everKey(p.Repository, p.Digest), journalKey(p)} {
		if !bytes.Equal(again[1:], key[1:]) {
			t.Fatalf("%q is written %q", key, again)
		}
	}
}

// FuzzReach follows a graph of facts that may have cycles, which digests cannot
// have and a foreign hand can write. Each three bytes are an edge: from, to, and
// what the one is to the other.
func FuzzReach(f *testing.F) {
	f.Add([]byte{0, 0, 4})                                              // to itself
	f.Add([]byte{0, 1, 4, 1, 0, 4})                                     // a cycle of two
	f.Add([]byte{0, 1, 4, 0, 2, 4, 1, 3, 4, 2, 3, 4})                   // a diamond
	f.Add([]byte{0, 1, 4, 1, 2, 4, 2, 3, 4, 3, 4, 4, 4, 5, 4, 5, 6, 4}) // deep
	f.Add([]byte{0, 1, 5, 0, 1, 1, 1, 2, 9, 2, 0, 12})                  // optional, absent, both ways
	f.Fuzz(func(t *testing.T, edges []byte) {
		db, absent := plantFacts(edges)
		r := db.reach(node(0), absent)
		checkReach(t, r)
		for need := range r.present() {
			if need.Absent {
				t.Fatalf("%+v is absent and present", need)
			}
		}
		// It does not depend on when it is asked.
		if again := db.reach(node(0), absent); !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v, and then %+v", r, again)
		}
	})
}

func node(n byte) digest.Digest { return dg("node " + string(rune(n))) }

// plantFacts makes an index of facts alone. Of an edge's third byte the low two
// bits are the role, the next says that it is optional, and the last that it is
// absent from the release.
func plantFacts(edges []byte) (*DB, []digest.Digest) {
	db := new(DB)
	facts := make(map[byte]*manifest.Manifest)
	var absent []digest.Digest
	for ; len(edges) >= 3; edges = edges[3:] {
		from, to, what := edges[0], edges[1], edges[2]
		m := facts[from]
		if m == nil {
			m = &manifest.Manifest{MediaType: "m"}
			facts[from] = m
		}
		role := []manifest.Role{manifest.Child, manifest.Layer, manifest.Config, manifest.Child}[what&3]
		m.Refs = append(m.Refs, manifest.Ref{Digest: node(to), Role: role, Optional: what&4 != 0})
		if what&8 != 0 {
			absent = append(absent, node(to))
		}
	}
	for n := range 256 { // what has no edge is a manifest without references
		m := facts[byte(n)]
		if m == nil {
			m = new(manifest.Manifest)
		}
		db.learnt.Store(node(byte(n)), m)
	}
	return db, absent
}

func checkReach(t *testing.T, r reach) {
	seen := make(map[digest.Digest]bool)
	for i, need := range r.needs {
		if seen[need.Digest] {
			t.Fatalf("%s twice", need.Digest)
		}
		seen[need.Digest] = true
		if i == 0 && (need.Digest != node(0) || need.Absent) {
			t.Fatalf("begins with %+v", need)
		}
	}
	for _, d := range r.unknown {
		if !seen[d] {
			t.Fatalf("%s is unknown, and not needed", d)
		}
	}
}

// Facts that unpack to more than any manifest has are refused before they have
// filled the memory.
func TestFactsBombIsBounded(t *testing.T) {
	bomb := pack(t, `{"type":"`+strings.Repeat("a", 64<<20)+`"}`)
	if len(bomb) >= 4<<20 {
		t.Fatalf("%d bytes are no bomb", len(bomb))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := decodeFacts(bomb)
	runtime.ReadMemStats(&after)
	if m != nil || err == nil || !strings.Contains(err.Error(), "more than 8388608 bytes") {
		t.Errorf("%v, %v", m, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8*maxFacts {
		t.Errorf("%d bytes were allocated for it", grown)
	}
}

func pack(t testing.TB, text string) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{packed})
	w, err := flate.NewWriter(b, flate.BestSpeed)
	ok(t, err)
	_, err = w.Write([]byte(text))
	ok(t, errors.Join(err, w.Close()))
	return b.Bytes()
}
