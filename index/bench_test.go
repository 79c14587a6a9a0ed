package index

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/manifest"
)

// The index of a team: 100 releases of 300 images of 10 layers, of which a
// tenth is new in each release, in 100 repositories. It is written without
// sync, which is not what is measured.
const (
	benchReleases = 100
	benchImages   = 300
	benchLayers   = 10
)

func fillBench(b *testing.B, dir string) {
	b.Helper()
	db := openDB(b, dir)
	random := rand.New(rand.NewPCG(1, 2))
	generation := make([]int, benchImages)
	for rel := range benchReleases {
		name := fmt.Sprintf("v1.%d", rel)
		ok(b, db.Create(name))
		r := openRelease(b, db, name)
		var rs records
		db.writer.commit = func(more records) error { rs = append(rs, more...); return nil }
		for i := range benchImages {
			if rel > 0 && random.IntN(10) == 0 {
				generation[i]++
			}
			repo := fmt.Sprintf("product/group%d/app%d", i%10, i%100)
			tag := fmt.Sprintf("1.%d.%d", i/100, generation[i])
			d := dg(fmt.Sprint("m", i, generation[i]))
			m := benchImage(i, generation[i])
			ok(b, r.LinkManifest(repo, d, Facts{d: m}))
			ok(b, r.Tag(repo, tag, d))
			ok(b, r.AddHistory(repo, tag, d))
		}
		ok(b, r.Sync())
		ok(b, db.writer.write(rs))
		db.writer.commit = db.writer.write
		r.Close()
	}
	ok(b, db.Close())
}

func benchImage(i, generation int) *manifest.Manifest {
	m := &manifest.Manifest{MediaType: "application/vnd.oci.image.manifest.v1+json"}
	m.Refs = append(m.Refs, manifest.Ref{
		Digest: dg(fmt.Sprint("c", i, generation)), MediaType: "application/vnd.oci.image.config.v1+json", Size: 4000, Role: manifest.Config,
	})
	for l := range benchLayers {
		name := fmt.Sprint("base", i%5, l) // five bases of five layers
		if l >= 5 {
			name = fmt.Sprint("own", i, l)
		}
		if l == benchLayers-1 {
			name = fmt.Sprint("own", i, l, generation)
		}
		m.Refs = append(m.Refs, manifest.Ref{
			Digest: dg(name), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: int64(1000 * l), Role: manifest.Layer,
		})
	}
	return m
}

func BenchmarkIndex(b *testing.B) {
	dir := b.TempDir()
	fillBench(b, dir)
	records, size := 0, int64(0)
	db := openDB(b, dir)
	ok(b, db.scan(nil, func(key, value []byte) error { records++; size += int64(len(key) + len(value)); return nil }))
	b.Logf("%d records of %d bytes on average; %d MiB on disk", records, size/int64(records), diskUse(b, dir)>>20)
	ok(b, db.Close())

	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			db := openDB(b, dir)
			b.StopTimer()
			ok(b, db.Close())
			b.StartTimer()
		}
	})

	db = openDB(b, dir)
	b.Run("release", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			openRelease(b, db, fmt.Sprintf("v1.%d", i%benchReleases)).Close()
		}
	})
	before := heap()
	r := openRelease(b, db, "v1.99")
	b.Logf("a release in memory: %d KiB", (heap()-before)>>10)
	repo := r.Repositories()[7]
	d := r.Revisions(repo)[0].Digest
	layer := r.Needs(repo, d)[3].Digest
	b.Run("lookup layer", func(b *testing.B) {
		for b.Loop() {
			if r.Layer(repo, layer).State != Needed {
				b.Fatal("not needed")
			}
		}
	})
	b.Run("lookup blob", func(b *testing.B) {
		for b.Loop() {
			r.Blob(layer)
		}
	})
	b.Run("ever linked", func(b *testing.B) {
		for b.Loop() {
			if !db.EverLinked(repo, layer) {
				b.Fatal("never linked")
			}
		}
	})
	b.Run("never linked", func(b *testing.B) {
		for b.Loop() {
			if db.EverLinked("no/such", layer) {
				b.Fatal("linked")
			}
		}
	})
	b.Run("list layers", func(b *testing.B) {
		for b.Loop() {
			r.Layers(repo)
		}
	})
	b.Run("list repositories", func(b *testing.B) {
		for b.Loop() {
			r.Repositories()
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			ok(b, db.Verify(b.Context()))
		}
	})
	b.Run("list all blobs", func(b *testing.B) {
		for b.Loop() {
			for _, prefix := range r.BlobPrefixes(digest.SHA256) {
				r.Blobs(digest.SHA256, prefix)
			}
		}
	})
	facts := Facts{d: benchImage(7, 0)}
	b.Run("link manifest, alone", func(b *testing.B) {
		for b.Loop() {
			ok(b, r.LinkManifest(repo, d, facts))
		}
	})
	b.Run("link manifest, 64 callers", func(b *testing.B) {
		b.SetParallelism(64 / runtime.GOMAXPROCS(0))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := r.LinkManifest(repo, d, facts); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// diskUse counts what is allocated: Badger lays out large, sparse files.
func diskUse(b *testing.B, dir string) (bytes int64) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	ok(b, err)
	for _, name := range files {
		info, err := os.Stat(name)
		ok(b, err)
		bytes += blocks(info) * 512
	}
	return bytes
}

func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks }
