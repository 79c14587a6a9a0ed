package index

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestValidRelease(t *testing.T) {
	for _, name := range []string{"v1", "v1.0", "1", "A", "a+b", "2024-01-01_rc.1", "x..y", strings.Repeat("a", maxRelease)} {
		if err := ValidRelease(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", ".a", "-a", "_a", "+a", "a/b", "/a", "a b", "a\x00b", "a\n", "\na", "ä", "a:b", "a\\b", "a*",
		strings.Repeat("a", maxRelease+1),
	} {
		if err := ValidRelease(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The records of a small index, one a line: a change of the format on disk is
// seen in review. The times are as many bytes, and left out.
func TestKeysGolden(t *testing.T) {
	r := newRelease(t)
	db := r.db
	ok(t, db.Create("v1.0"))
	ok(t, r.LinkLayer("library/nginx", dg("own layer")))
	ok(t, r.HideLayer("library/nginx", dg("hidden layer")))
	m := &manifest.Manifest{
		MediaType: "application/vnd.oci.image.manifest.v1+json", ArtifactType: "text/plain", Subject: dg("subject"),
		Refs: []manifest.Ref{
			{Digest: dg("config"), MediaType: "application/vnd.oci.image.config.v1+json", Size: 2, Role: manifest.Config},
			{Digest: dg("layer"), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: 3, Role: manifest.Layer},
			{Digest: dg("foreign"), Size: 4, Role: manifest.Layer, Optional: true},
		},
	}
	index := &manifest.Manifest{MediaType: "application/vnd.oci.image.index.v1+json", Refs: []manifest.Ref{
		{Digest: dg("image"), Size: 5, Role: manifest.Child, Optional: true, Platform: "linux/arm64/v8"},
	}}
	ok(t, r.LinkManifest("library/nginx", dg("index"), Facts{dg("index"): index, dg("image"): m}, dg("foreign")))
	ok(t, r.Tag("library/nginx", "1.24", dg("index")))
	ok(t, r.AddHistory("library/nginx", "1.24", dg("index")))
	ok(t, r.AddBlob(dg("layer")))
	ok(t, r.HideBlob(dg("hidden blob")))
	ok(t, r.AddDir("docker/registry/v2"))
	sha512 := digest.SHA512.FromString("long")
	ok(t, openRelease(t, db, "v1.0").LinkLayer("a", sha512))
	ok(t, r.Sync())

	times := map[byte]int{keyLayer: 1, keyBlob: 1} // where the time begins in the value; else 0
	var b strings.Builder
	ok(t, db.scan(nil, func(key, value []byte) error {
		k := strings.ReplaceAll(string(key), "\x00", " NUL ")
		text := string(value)
		switch {
		case key[0] == keyRelease:
			text = `{"created":TIME}`
			var created time.Time
			if _, err := fmt.Sscanf(string(value), `{"created":%q}`, new(string)); err != nil {
				t.Errorf("%s: %v", value, err)
			}
			_ = created
		case key[0] == keyStore:
			text = "ID"
		case key[0] == keyTally:
			text, _, _ = strings.Cut(text, `,"changes":`)
		case key[0] == keyIn:
			at := times[key[bytes.IndexByte(key, 0)+1]]
			stamp, _, err := decodeTime(value[at:])
			if err != nil || time.Since(stamp) > time.Minute {
				t.Errorf("%q: no time in %x", key, value)
			}
			text = fmt.Sprintf("%x", value[:at]) + " TIME " + string(value[at+8:])
		}
		fmt.Fprintln(&b, strings.TrimRight(k+" = "+strings.TrimSpace(text), " "))
		return nil
	}))
	const golden = "testdata/keys.golden"
	if *update {
		ok(t, os.WriteFile(golden, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	ok(t, err)
	if d := diffText(string(want), b.String()); d != "" {
		t.Errorf("the format on disk is not that of %s; if that is meant, raise the store's format, and run with -update: %s", golden, d)
	}
}

// A large index's facts survive, in the LSM tree: a value log loses them.
func TestLargeFacts(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run(algorithm.String(), func(t *testing.T) {
			r := newRelease(t)
			m := largeIndex(algorithm, 10_000)
			value, err := encodeFacts(m)
			ok(t, err)
			t.Logf("packed: %d bytes", len(value))
			if len(value) >= maxValue {
				t.Errorf("%d bytes do not fit into the LSM tree", len(value))
			}
			ok(t, r.LinkManifest("a", dg("large"), Facts{dg("large"): m}, m.Refs[0].Digest))
			r = reopen(t, r)
			got, err := r.db.Manifest(dg("large"))
			ok(t, err)
			equal(t, "the same", got.Refs[9_999], m.Refs[9_999])
			equal(t, "references", len(got.Refs), 10_000)
			equal(t, "needs", len(r.Needs("a", dg("large"))), 10_001)
			equal(t, "state of a child", r.Blob(m.Refs[5_000].Digest).State, Needed)
			equal(t, "state of the absent one", r.Blob(m.Refs[0].Digest).State, Absent)
		})
	}
}

func largeIndex(algorithm digest.Algorithm, n int) *manifest.Manifest {
	m := &manifest.Manifest{MediaType: "application/vnd.oci.image.index.v1+json"}
	for i := range n {
		m.Refs = append(m.Refs, manifest.Ref{
			Digest: algorithm.FromString(fmt.Sprint(i)), MediaType: "application/vnd.oci.image.manifest.v1+json",
			Size: int64(500 + i*7919%9000), Role: manifest.Child, Optional: true,
			Platform: []string{"linux/amd64", "linux/arm64/v8", "windows/amd64"}[i%3],
		})
	}
	return m
}

// What no index could keep is refused, and nobody else's change with it.
func TestFactsTooLarge(t *testing.T) {
	r := newRelease(t)
	random := rand.New(rand.NewPCG(1, 1))
	m := &manifest.Manifest{}
	for i := range 10_000 {
		noise := make([]byte, 300)
		for j := range noise {
			noise[j] = byte('!' + random.IntN(90))
		}
		m.Refs = append(m.Refs, manifest.Ref{Digest: dg(fmt.Sprint(i)), MediaType: string(noise), Role: manifest.Layer})
	}
	gate := newGate(r.db)
	first, other, large := make(chan error), make(chan error), make(chan error)
	go func() { first <- r.LinkLayer("a", dg("l1")) }()
	<-gate.entered
	go func() { other <- r.LinkLayer("a", dg("l2")) }()
	go func() { large <- r.LinkManifest("a", dg("m"), Facts{dg("m"): m}) }()
	time.Sleep(300 * time.Millisecond) // until both wait for the next commit
	gate.verdict <- nil
	ok(t, <-first)
	go func() {
		for range gate.entered {
			gate.verdict <- nil
		}
	}()
	if err := <-large; err == nil {
		t.Error("taken")
	} else {
		t.Log(err)
	}
	if err := <-other; err != nil {
		t.Errorf("another's change failed with it: %v", err)
	}
	waitWorking(t, r.db)
	if _, there := r.Revision("a", dg("m")); there {
		t.Error("the manifest is linked")
	}
}

// Damaged records are errors, never panics and never silence.
func TestDamagedRecords(t *testing.T) {
	good := encodeMark(own, time.Now())
	for _, c := range []struct{ name, key, value string }{
		{"no kind", "xv1\x00", ""},
		{"unknown kind", "xv1\x00z" + dg("l").String(), string(good)},
		{"too few fields", "xv1\x00l" + dg("l").String(), string(good)},
		{"too many fields", "xv1\x00b" + "a\x00" + dg("l").String(), string(good)},
		{"short time", "xv1\x00ma\x00" + dg("l").String(), "1234567"},
		{"empty mark", "xv1\x00la\x00" + dg("l").String(), ""},
		{"unknown mark", "xv1\x00b" + dg("l").String(), "\x03" + string(good[1:])},
		{"no digest", "xv1\x00bsha256", string(good)},
		{"layer's link of no digest", "xv1\x00la\x00sha256", string(good)},
		{"manifest's link of no digest", "xv1\x00ma\x00x:y", string(good[1:])},
		{"short digest", "xv1\x00bsha256:a", string(good)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelease(t)
			ok(t, r.db.writer.wait(r.db.writer.enqueue(records{put([]byte(c.key), []byte(c.value))})))
			r.Close()
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			if _, err := r.db.Open("v1"); err == nil {
				t.Error("opened")
			} else if !strings.Contains(err.Error(), "v1") {
				t.Error(err)
			}
		})
	}
}
