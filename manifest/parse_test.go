package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	dockerImage  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	dockerLayer  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	ociImage     = "application/vnd.oci.image.manifest.v1+json"
	ociIndex     = "application/vnd.oci.image.index.v1+json"
	ociConfig    = "application/vnd.oci.image.config.v1+json"
	ociLayer     = "application/vnd.oci.image.layer.v1.tar+gzip"
	ociEmpty     = "application/vnd.oci.empty.v1+json"
)

// of gives the digests in testdata: each is that of a short name.
func of(name string) digest.Digest { return digest.FromString(name) }

// One manifest or more of every kind: testdata/<name>.json.
var examples = map[string]Manifest{
	"docker-schema2": {MediaType: dockerImage, Refs: []Ref{
		{Digest: of("config"), MediaType: dockerConfig, Size: 7023, Role: Config},
		{Digest: of("base"), MediaType: dockerLayer, Size: 29126278, Role: Layer},
		{Digest: of("etc"), MediaType: dockerLayer, Size: 893, Role: Layer},
		{Digest: of("empty"), MediaType: dockerLayer, Size: 32, Role: Layer}, // twice in the file
		{Digest: of("app"), MediaType: dockerLayer, Size: 1204, Role: Layer},
	}},
	"docker-schema2-windows": {MediaType: dockerImage, Refs: []Ref{
		{Digest: of("winconfig"), MediaType: dockerConfig, Size: 2103, Role: Config},
		{Digest: of("nanoserver"), MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Size: 101145811, Role: Layer, Optional: true},
		{Digest: of("app"), MediaType: dockerLayer, Size: 1204, Role: Layer},
	}},
	"docker-list": {MediaType: "application/vnd.docker.distribution.manifest.list.v2+json", Refs: []Ref{
		{Digest: of("amd64"), MediaType: dockerImage, Size: 1357, Role: Child, Optional: true, Platform: "linux/amd64"},
		{Digest: of("armv7"), MediaType: dockerImage, Size: 1357, Role: Child, Optional: true, Platform: "linux/arm/v7"},
		{Digest: of("windows"), MediaType: dockerImage, Size: 1357, Role: Child, Optional: true, Platform: "windows/amd64"},
		{Digest: of("old"), MediaType: typeSchema1, Size: 2894, Role: Child, Optional: true},
	}},
	"oci-image": {MediaType: ociImage, Refs: []Ref{
		{Digest: of("config"), MediaType: ociConfig, Size: 7023, Role: Config},
		{Digest: of("base"), MediaType: ociLayer, Size: 29126278, Role: Layer},
		{Digest: digest.SHA512.FromString("app"), MediaType: "application/vnd.oci.image.layer.v1.tar+zstd", Size: 1204, Role: Layer},
		{Digest: of("licensed"), MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Size: 32654, Role: Layer, Optional: true},
	}},
	"oci-image-untyped": {MediaType: ociImage, Refs: []Ref{
		{Digest: of("config"), MediaType: ociConfig, Size: 7023, Role: Config},
		{Digest: of("base"), MediaType: ociLayer, Size: 29126278, Role: Layer},
	}},
	"oci-index": {MediaType: ociIndex, ArtifactType: "application/vnd.example.bundle+json", Subject: of("subject"), Refs: []Ref{
		{Digest: of("amd64"), MediaType: ociImage, Size: 1357, Role: Child, Optional: true, Platform: "linux/amd64"},
		{Digest: of("arm64"), MediaType: ociImage, Size: 1357, Role: Child, Optional: true, Platform: "linux/arm64/v8"},
		{Digest: of("attestation"), MediaType: ociImage, Size: 840, Role: Child, Optional: true, Platform: "unknown/unknown"},
		{Digest: of("nested"), MediaType: ociIndex, Size: 429, Role: Child, Optional: true},
	}},
	"oci-index-untyped": {MediaType: ociIndex},
	"oci-index-buildkit-cache": {MediaType: ociIndex, Refs: []Ref{
		{Digest: of("base"), MediaType: ociLayer, Size: 29126278, Role: Layer, Optional: true},
		{Digest: of("cacheconfig"), MediaType: "application/vnd.buildkit.cacheconfig.v0", Size: 1694, Role: Layer, Optional: true},
	}},
	"oci-signature": {MediaType: ociImage, ArtifactType: "application/vnd.dev.cosign.artifact.sig.v1+json", Subject: of("subject"), Refs: []Ref{
		{Digest: of("{}"), MediaType: ociEmpty, Size: 2, Role: Config, Optional: true},
		{Digest: of("payload"), MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Size: 233, Role: Layer},
	}},
	// Its layer is the empty config again, this time without data: needed.
	"oci-empty": {MediaType: ociImage, ArtifactType: "application/vnd.example+type", Refs: []Ref{
		{Digest: of("{}"), MediaType: ociEmpty, Size: 2, Role: Config},
	}},
	"oci-artifact": {MediaType: typeArtifact, ArtifactType: "application/vnd.example.sbom.v1", Subject: of("subject"), Refs: []Ref{
		{Digest: of("sbom"), MediaType: "application/spdx+json", Size: 123456, Role: Layer},
	}},
	"schema1": {MediaType: typeSchema1, Refs: []Ref{
		{Digest: of("empty"), MediaType: typeSchema1Layer, Role: Layer}, // twice in the file
		{Digest: of("base"), MediaType: typeSchema1Layer, Role: Layer},
	}},
	"schema1-signed": {MediaType: typeSchema1Signed, Refs: []Ref{
		{Digest: of("empty"), MediaType: typeSchema1Layer, Role: Layer},
		{Digest: of("base"), MediaType: typeSchema1Layer, Role: Layer},
	}},
}

func example(t testing.TB, name string) []byte {
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse(t *testing.T) {
	for name, want := range examples {
		got, err := Parse(example(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, *got, want)
		}
	}
}

// The JSON form is on disk: this test fails before old stores do.
func TestStoredForm(t *testing.T) {
	m, err := Parse(example(t, "oci-index"))
	if err != nil {
		t.Fatal(err)
	}
	m.Refs = m.Refs[:1]
	got, err := json.Marshal(m)
	want := `{"type":"` + ociIndex + `","artifact":"application/vnd.example.bundle+json","subject":"` + string(of("subject")) +
		`","refs":[{"digest":"` + string(of("amd64")) + `","type":"` + ociImage + `","size":1357,"role":"child","optional":true,"platform":"linux/amd64"}]}`
	if string(got) != want || err != nil {
		t.Errorf("\n got %s, %v\nwant %s", got, err, want)
	}
}

func TestStoredFormRoundTrip(t *testing.T) {
	for name, want := range examples {
		stored, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Manifest
		if err := json.Unmarshal(stored, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// descriptor returns one with extra fields, each with its leading comma.
func descriptor(d digest.Digest, extra string) string {
	return `{"mediaType":"` + ociLayer + `","digest":"` + string(d) + `","size":3` + extra + `}`
}

func image(layers ...string) string {
	return `{"schemaVersion":2,"config":` + descriptor(of("config"), "") + `,"layers":[` + strings.Join(layers, ",") + `]}`
}

func TestOptional(t *testing.T) {
	abc := of("abc")
	for name, test := range map[string]struct {
		layers []string
		want   bool
	}{
		"plain":          {[]string{descriptor(abc, "")}, false},
		"no urls":        {[]string{descriptor(abc, `,"urls":[]`)}, false},
		"urls":           {[]string{descriptor(abc, `,"urls":["https://example.com/abc"]`)}, true},
		"data":           {[]string{descriptor(abc, `,"data":"YWJj"`)}, true},
		"false data":     {[]string{descriptor(abc, `,"data":"YWJk"`)}, false},
		"optional twice": {[]string{descriptor(abc, `,"urls":["x"]`), descriptor(abc, `,"data":"YWJj"`)}, true},
		"needed later":   {[]string{descriptor(abc, `,"urls":["x"]`), descriptor(abc, "")}, false},
		"needed before":  {[]string{descriptor(abc, ""), descriptor(abc, `,"urls":["x"]`)}, false},
	} {
		m, err := Parse([]byte(image(test.layers...)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(m.Refs) != 2 || m.Refs[1].Optional != test.want {
			t.Errorf("%s: %+v", name, m.Refs)
		}
	}
}

// A registry ignores what it does not know in Docker's manifests; so a broken
// subject there must not hide what the manifest needs.
func TestSubjectIsOCI(t *testing.T) {
	data := strings.Replace(image(), "{", `{"mediaType":"`+dockerImage+`","artifactType":"x","subject":{"digest":"x"},`, 1)
	m, err := Parse([]byte(data))
	if err != nil || m.Subject != "" || m.ArtifactType != "" {
		t.Errorf("%+v, %v", m, err)
	}
}

func many(n int, element string) string {
	return strings.TrimSuffix(strings.Repeat(element+",", n), ",")
}

func TestRefuses(t *testing.T) {
	base := descriptor(of("base"), "")
	for name, test := range map[string]struct{ data, want string }{
		"nothing":             {"", "unexpected end of JSON input"},
		"text":                {"<html>", "invalid character"},
		"cut short":           {image(base)[:100], "unexpected end of JSON input"},
		"two":                 {image(base) + image(base), "invalid character"},
		"null":                {"null", "unknown shape"},
		"array":               {"[]", "cannot unmarshal array"},
		"empty object":        {"{}", "unknown shape"},
		"a config":            {`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}`, "unknown shape"},
		"null lists":          {`{"schemaVersion":2,"layers":null,"manifests":null}`, "unknown shape"},
		"unknown type":        {`{"mediaType":"application/x","layers":[]}`, `unknown media type "application/x"`},
		"type of a layer":     {`{"mediaType":"` + ociLayer + `","layers":[]}`, "unknown media type"},
		"type with parameter": {`{"mediaType":"` + ociImage + `; charset=utf-8","layers":[]}`, "unknown media type"},
		"number for a type":   {`{"mediaType":2}`, "cannot unmarshal number"},
		"object for a list":   {`{"manifests":{}}`, "cannot unmarshal object"},
		"image and index":     {strings.Replace(image(base), "{", `{"manifests":[`+base+`],`, 1), "found manifest"},
		"index as image":      {`{"mediaType":"` + ociImage + `","manifests":[` + base + `]}`, "found index"},
		"no config":           {`{"layers":[` + base + `]}`, `config "": invalid checksum digest format`},
		"no digest":           {image(`{}`), `layer "": invalid checksum digest format`},
		"short digest":        {image(`{"digest":"sha256:00"}`), `layer "sha256:00": invalid checksum digest length`},
		"path for a digest":   {image(`{"digest":"sha256:../../etc/passwd"}`), "invalid checksum digest"},
		"upper case":          {image(`{"digest":"sha256:` + strings.Repeat("AB", 32) + `"}`), "invalid checksum digest format"},
		"unknown algorithm":   {image(`{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}`), "unsupported digest algorithm"},
		"negative size":       {image(`{"digest":"` + string(of("base")) + `","size":-1}`), "size -1"},
		"huge size":           {image(`{"digest":"` + string(of("base")) + `","size":1e30}`), "cannot unmarshal number"},
		"bad data":            {image(descriptor(of("base"), `,"data":"*"`)), "illegal base64"},
		"bad subject":         {strings.Replace(image(base), "{", `{"subject":{"digest":"x"},`, 1), `subject "x": invalid`},
		"schema 1, empty":     {`{"schemaVersion":1}`, "schema 1 without fsLayers"},
		"schema 1, digest":    {`{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}`, `layer "x": invalid`},
		"artifact, digest":    {`{"blobs":[{"digest":"x"}]}`, `layer "x": invalid`},
		"too large":           {strings.Repeat(" ", MaxSize) + "x", "4194305 bytes"},
		"too many layers":     {image(many(10_001, base)), "more than 10000 references"},
		"config makes 10,001": {image(many(10_000, base)), "more than 10000 references"},
		"many empty objects":  {image(many(1_000_000, "{}")), "more than 10000 references"},
		"many nulls":          {`{"manifests":[` + many(800_000, "null") + `]}`, "more than 10000 references"},
		"many old layers":     {`{"fsLayers":[` + many(100_000, "{}") + `]}`, "more than 10000 references"},
		"many blobs":          {`{"blobs":[` + many(100_000, "{}") + `]}`, "more than 10000 references"},
		"deep":                {`{"layers":` + strings.Repeat("[", 1<<20), "exceeded max depth"},
	} {
		m, err := Parse([]byte(test.data))
		if m != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", name, m, err, test.want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "parse manifest: ") || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Commas elsewhere than between references do not count.
func TestCommasAreNotReferences(t *testing.T) {
	annotations := `,"annotations":{"a":"` + strings.Repeat(`\",[{`, 9_999) + `","b":"` + strings.Repeat(",", 9_999) + `"}`
	m, err := Parse([]byte(image(descriptor(of("base"), annotations), descriptor(of("app"), ""))))
	if err != nil || len(m.Refs) != 3 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestLargestAllowed(t *testing.T) {
	m, err := Parse([]byte(image(many(MaxRefs-1, descriptor(of("base"), "")))))
	if err != nil || len(m.Refs) != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	for name := range examples {
		f.Add(example(f, name))
	}
	f.Add([]byte(image(descriptor(of("abc"), `,"urls":["x"]`), descriptor(of("abc"), `,"data":"YWJj"`))))
	f.Add([]byte(`{"manifests":[],"layers":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			if m != nil {
				t.Fatalf("both a manifest and %v", err)
			}
			return
		}
		if parserOf(m.MediaType) == nil || len(m.Refs) > MaxRefs {
			t.Fatalf("%+v", m)
		}
		seen := map[digest.Digest]bool{}
		for _, r := range m.Refs {
			if r.Digest.Validate() != nil || seen[r.Digest] || r.Size < 0 {
				t.Fatalf("%+v", r)
			}
			seen[r.Digest] = true
		}
		checkStored(t, m)
	})
}

// checkStored takes a manifest through the form in which the index keeps it.
func checkStored(t *testing.T, m *Manifest) {
	stored, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	back := new(Manifest)
	if err := json.Unmarshal(stored, back); err != nil || !reflect.DeepEqual(m, back) {
		t.Fatalf("%+v comes back as %+v, %v", m, back, err)
	}
}

// layers returns an image of n layers, as a build tool writes it.
func layers(n int) []byte {
	list := make([]string, n)
	for i := range list {
		list[i] = descriptor(of(strings.Repeat("x", i)), "")
	}
	var indented strings.Builder
	encoder := json.NewEncoder(&indented)
	encoder.SetIndent("", "   ")
	if err := encoder.Encode(json.RawMessage(image(list...))); err != nil {
		panic(err)
	}
	return []byte(indented.String())
}

func BenchmarkParse(b *testing.B) {
	for name, data := range map[string][]byte{
		"10-layers": layers(10),
		"8-KiB":     layers(40),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(data); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(data)), "bytes")
		})
	}
}
