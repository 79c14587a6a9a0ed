package seal

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const image = "application/vnd.oci.image.manifest.v1+json"

func dg(name string) digest.Digest { return digest.FromString(name) }

func names() []Name {
	absent := []digest.Digest{dg("x"), dg("y")}
	slices.Sort(absent)
	return []Name{
		{"library/app", "1.0", dg("a"), image, 402, nil},
		{"library/app", "latest", dg("a"), image, 402, nil},
		{"localhost:5000/app", "", dg("b"), "application/vnd.docker.distribution.manifest.list.v2+json", 1234, absent},
		{"other", "1.0", dg("a"), image, 402, absent},
	}
}

// The worked example of docs/format.md.
func TestGolden(t *testing.T) {
	data, err := Encode([]Name{
		{"library/nginx", "1.24", "sha256:8455559100000000000000000000000000000000000000000000000000000000", MediaType, 612,
			[]digest.Digest{"sha256:ddf7ff5e00000000000000000000000000000000000000000000000000000000"}},
		{"library/nginx", "", "sha256:9c610ffb00000000000000000000000000000000000000000000000000000000", image, 402, nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",` +
		`"artifactType":"application/vnd.regfs.release.v1+json","manifests":[` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"digest":"sha256:9c610ffb00000000000000000000000000000000000000000000000000000000","size":402,` +
		`"annotations":{"vnd.regfs.repository":"library/nginx"}},` +
		`{"mediaType":"application/vnd.oci.image.index.v1+json",` +
		`"digest":"sha256:8455559100000000000000000000000000000000000000000000000000000000","size":612,` +
		`"annotations":{"vnd.regfs.absent":"sha256:ddf7ff5e00000000000000000000000000000000000000000000000000000000",` +
		`"vnd.regfs.repository":"library/nginx","vnd.regfs.tag":"1.24"}}]}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}

// Whatever the order of the names, the bytes are the same, and come back.
func TestRoundTrip(t *testing.T) {
	want := names()
	data, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	shuffled := []Name{want[2], want[0], want[3], want[1]}
	again, err := Encode(shuffled)
	if err != nil || string(again) != string(data) {
		t.Errorf("in another order: %v\n%s\n%s", err, again, data)
	}
	if shuffled[0].Repository != want[2].Repository {
		t.Error("the caller's list was sorted")
	}
	got, err := Decode(data)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("back: %v\n%v", err, got)
	}
	empty, err := Encode(nil)
	if err != nil || !strings.HasSuffix(string(empty), `"manifests":[]}`) {
		t.Errorf("of nothing: %s, %v", empty, err)
	}
	if got, err := Decode(empty); err != nil || len(got) != 0 {
		t.Errorf("nothing back: %v, %v", got, err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for what, change := range map[string]func([]Name) []Name{
		"no repository's name":             func(n []Name) []Name { n[0].Repository = "../up"; return n },
		"no repository":                    func(n []Name) []Name { n[0].Repository = ""; return n },
		"no tag's name":                    func(n []Name) []Name { n[0].Tag = "a/b"; return n },
		"invalid checksum digest":          func(n []Name) []Name { n[0].Digest = "sha256:12"; return n },
		"bad media type":                   func(n []Name) []Name { n[0].MediaType = `a/"b`; return n },
		"a manifest of 0 bytes":            func(n []Name) []Name { n[0].Size = 0; return n },
		"another size or type":             func(n []Name) []Name { n[0].Size++; return n },
		"given twice":                      func(n []Name) []Name { return append(n, n[0]) },
		"twice":                            func(n []Name) []Name { n[1].Tag, n[1].Digest = "1.0", dg("c"); return n },
		"without a tag, too":               func(n []Name) []Name { n[0].Tag = ""; return n },
		"other blobs under another name":   func(n []Name) []Name { n[0].Absent = []digest.Digest{dg("z")}; return n },
		"absent blobs are not in order":    func(n []Name) []Name { slices.Reverse(n[3].Absent); return n },
		"invalid checksum digest format":   func(n []Name) []Name { n[3].Absent[0] = "x"; return n },
		"at most 100000 may be":            func(n []Name) []Name { n[0].Absent = make([]digest.Digest, MaxAbsent+1); return n },
		"names; at most 200000 are allowe": func([]Name) []Name { return make([]Name, MaxNames+1) },
	} {
		all := names()
		all[2].Absent, all[3].Absent = slices.Clone(all[2].Absent), slices.Clone(all[3].Absent)
		if _, err := Encode(change(all)); err == nil || !strings.Contains(err.Error(), what) && what != "no repository" && what != "twice" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// For one content there is one document.
func TestDecodeIsStrict(t *testing.T) {
	data, err := Encode(names())
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for what, garbled := range map[string]string{
		"nothing":        "",
		"no JSON":        text[1:],
		"cut short":      text[:len(text)-2],
		"white space":    " " + text,
		"a newline":      text + "\n",
		"another type":   strings.Replace(text, "vnd.regfs.release", "vnd.regfs.other", 1),
		"another order":  strings.Replace(text, `"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",`, `"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,`, 1),
		"a key more":     strings.Replace(text, `"schemaVersion":2`, `"schemaVersion":2,"subject":null`, 1),
		"a key twice":    strings.Replace(text, `"schemaVersion":2`, `"schemaVersion":2,"schemaVersion":2`, 1),
		"a name twice":   strings.Replace(text, `"vnd.regfs.tag":"1.0"`, `"vnd.regfs.tag":"2.0","vnd.regfs.tag":"1.0"`, 1),
		"a bad name":     strings.Replace(text, "library/app", "library/../app", 1),
		"an escape":      strings.Replace(text, "latest", `l\u0061test`, 1),
		"no order":       strings.Replace(text, `"vnd.regfs.tag":"1.0"`, `"vnd.regfs.tag":"zz"`, 1),
		"a float":        strings.Replace(text, `"size":402`, `"size":402.0`, 1),
		"null manifests": `{"schemaVersion":2,"mediaType":"` + MediaType + `","artifactType":"` + ArtifactType + `","manifests":null}`,
	} {
		if garbled == text {
			t.Fatalf("%s: not changed", what)
		}
		if _, err := Decode([]byte(garbled)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil {
		t.Error("a large one is taken")
	}
}

func FuzzDecode(f *testing.F) {
	data, err := Encode(names())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	empty, _ := Encode(nil)
	f.Add(empty)
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(names)
		if err != nil || string(again) != string(data) {
			t.Errorf("%v: %s, and not %s", err, again, data)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	var all []Name
	for i := range 300 {
		all = append(all, Name{fmt.Sprint("product/app", i%100), fmt.Sprint("1.", i), dg(fmt.Sprint(i)), image, 2000, nil})
	}
	data, err := Encode(all)
	if err != nil {
		b.Fatal(err)
	}
	b.Run(fmt.Sprintf("encode %d bytes", len(data)), func(b *testing.B) {
		for b.Loop() {
			Encode(all)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			Decode(data)
		}
	})
}
