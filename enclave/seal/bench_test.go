package seal_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/water/generator"
)

// Sealing end to end, from the bytes of a CSV file of eight columns to durable blobs: with a single vector, where
// reading the text is all, and with as many as the water example's rows layout.
func BenchmarkSealCSV(b *testing.B) {
	const rows = 1 << 20
	var source bytes.Buffer
	if err := generator.Write(&source, rows, 1); err != nil {
		b.Fatal(err)
	}
	data, err := examples.Files.ReadFile("water/schema.json")
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		vectors    int
		indicators [][]string
		measures   []string
	}{{1, nil, nil}, {2, nil, []string{"m3"}}, {20, [][]string{{"town"}}, []string{"m3"}}} {
		b.Run(fmt.Sprintf("vectors=%d", c.vectors), func(b *testing.B) {
			sc, err := schema.Parse(data)
			if err != nil {
				b.Fatal(err)
			}
			sc.Sealing.Layouts = []schema.Layout{{Name: "rows", Kind: enclave.Rows, Indicators: c.indicators, Measures: c.measures}}
			params, err := he.Compile(sc.Params())
			if err != nil {
				b.Fatal(err)
			}
			key, err := he.GenerateKey(params)
			if err != nil {
				b.Fatal(err)
			}
			blobs, err := store.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var heap uint64
			var size int64
			for b.Loop() {
				in, err := table.NewCSV(bytes.NewReader(source.Bytes()), table.Options{})
				if err != nil {
					b.Fatal(err)
				}
				next := int64(0)
				res, err := seal.Seal(b.Context(), seal.Config{Table: in, Schema: sc, Key: key, Params: params, Blobs: blobs, Workers: runtime.GOMAXPROCS(0),
					Progress: func(n int64) {
						if n >= next { // now and then: it stops the world
							next += rows / 8
							var m runtime.MemStats
							runtime.ReadMemStats(&m)
							heap = max(heap, m.HeapAlloc)
						}
					}})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				size = 0
				for _, v := range res.Layouts[0].Vectors {
					size += v.Bytes
					if err := blobs.Delete(v.Blob); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			perSecond := float64(rows) * float64(b.N) / b.Elapsed().Seconds() / 1e6
			b.ReportMetric(perSecond, "Mrows/s")
			b.ReportMetric(perSecond*float64(c.vectors), "Mvalues/s")
			b.ReportMetric(float64(size)/rows/float64(c.vectors), "B/row/vector")
			b.ReportMetric((float64(heap)-float64(source.Len()))/1e6, "MB-heap") // beside the file, which is in memory here
		})
	}
}
