package he

import (
	"context"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"testing"

	"github.com/tuneinsight/lattigo/v6/core/rlwe"
	"github.com/tuneinsight/lattigo/v6/schemes/bgv"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
)

func BenchmarkSealRows(b *testing.B) {
	for _, name := range sets() {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, name, enclave.Rows)
			s, err := NewSealer(f.key, [32]byte{1})
			if err != nil {
				b.Fatal(err)
			}
			values := make([]int64, f.p.N())
			for i := range values {
				values[i] = int64(i) - 77
			}
			out := make([]uint64, f.p.Words())
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				if err := s.Slots(i, values, out); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(f.p.N())*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
			b.ReportMetric(float64(f.p.ChunkBytes())/float64(f.p.N()), "B/row")
		})
	}
}

// grouped prepares rows × groups one-hot indicators and one value vector. A few different chunks are sealed and
// repeated: the kernel's time does not depend on the values.
func grouped(b *testing.B, rows, groups int) (*fixture, []enclave.Term, fixedPanels) {
	f := newFixture(b, enclave.DefaultParams, enclave.Rows)
	chunks := rows / f.p.N()
	rng := mrand.New(mrand.NewPCG(4, 4))
	inputs := fixedPanels{}
	vector := func(name string, max int64) int {
		values := make([]int64, 2*f.p.N())
		for i := range values {
			values[i] = rng.Int64N(max)
		}
		v := f.seal(name, values)
		small, err := f.panelBytes(f.layout.Vectors[v].Blob)
		if err != nil {
			b.Fatal(err)
		}
		const pair = 2 * 2 * evaluator.Tile * 8 // two chunks of a tile
		big := make([]byte, f.p.PanelBytes(int64(chunks)))
		for at := 0; at < len(big); at += pair {
			copy(big[at:], small[at/(pair*chunks/2)*pair:][:pair])
		}
		panel, err := evaluator.OpenPanel(f.p.Params, big)
		if err != nil {
			b.Fatal(err)
		}
		inputs[f.layout.Vectors[v].Blob] = panel
		f.layout.Vectors[v].Chunks = int64(chunks)
		return v
	}
	x := vector("s:x", 1<<12)
	var terms []enclave.Term
	for g := range groups {
		terms = append(terms, enclave.Term{Cell: g, A: []int{vector(fmt.Sprint("i:g:", g), 2)}, B: []int{x}})
	}
	return f, terms, inputs
}

type fixedPanels map[enclave.Digest]*evaluator.Panel

func (m fixedPanels) Panel(d enclave.Digest) (*evaluator.Panel, error) { return m[d], nil }
func (m fixedPanels) Blob(d enclave.Digest) (*evaluator.Blob, error)   { return nil, enclave.ErrNotFound }

// One million rows in 18 groups, as in the table, on one core and on both.
func BenchmarkGroupedSum1Mx18(b *testing.B) {
	f, terms, in := grouped(b, 1<<20, 18)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("kernel/workers=%d", workers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := evaluator.Evaluate(context.Background(), f.p.Params, &f.layout, terms, in, workers, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("lattigo-MulRelin-Add-InnerSum", func(b *testing.B) { naiveLattigo(b, 1, 18, 64) })
}

// naiveLattigo is the program one would write first: multiply and relinearise every chunk, add, rotate-and-add. It
// runs chunks of one group and reports the time of groups × all chunks, of which InnerSum is once per group.
func naiveLattigo(b *testing.B, measured, groups, chunks int) {
	set, err := enclave.LookupParams(enclave.DefaultParams)
	if err != nil {
		b.Fatal(err)
	}
	params, err := bgv.NewParametersFromLiteral(bgv.ParametersLiteral{LogN: set.LogN, Q: set.Q, LogP: []int{55}, PlaintextModulus: set.T})
	if err != nil {
		b.Fatal(err)
	}
	kg := rlwe.NewKeyGenerator(params)
	sk := kg.GenSecretKeyNew()
	keys := rlwe.NewMemEvaluationKeySet(kg.GenRelinearizationKeyNew(sk), kg.GenGaloisKeysNew(params.GaloisElementsForInnerSum(1, params.MaxSlots()), sk)...)
	ev, enc, ecd := bgv.NewEvaluator(params, keys), rlwe.NewEncryptor(params, sk), bgv.NewEncoder(params)
	pt := bgv.NewPlaintext(params, params.MaxLevel())
	if err := ecd.Encode(make([]uint64, params.MaxSlots()), pt); err != nil {
		b.Fatal(err)
	}
	x, err := enc.EncryptNew(pt)
	if err != nil {
		b.Fatal(err)
	}
	y, err := enc.EncryptNew(pt)
	if err != nil {
		b.Fatal(err)
	}
	const part = 4
	b.ReportAllocs()
	var multiply, sum float64
	for b.Loop() {
		acc := bgv.NewCiphertext(params, 1, params.MaxLevel())
		start := b.Elapsed()
		for range part * measured {
			z, err := ev.MulRelinNew(x, y)
			if err != nil {
				b.Fatal(err)
			}
			if err := ev.Add(acc, z, acc); err != nil {
				b.Fatal(err)
			}
		}
		middle := b.Elapsed()
		if err := ev.InnerSum(acc, 1, params.MaxSlots(), acc); err != nil {
			b.Fatal(err)
		}
		multiply += (middle - start).Seconds()
		sum += (b.Elapsed() - middle).Seconds()
	}
	whole := (multiply*float64(chunks)/part + sum) * float64(groups) / float64(b.N)
	b.ReportMetric(whole, "s/query(extrapolated)")
}

func BenchmarkCube8192Cells(b *testing.B) {
	f := newFixture(b, enclave.DefaultParams, enclave.Cube)
	cells := make([]int64, 8192)
	v := f.seal("n", cells)
	blob, err := f.Blob(f.layout.Vectors[v].Blob)
	if err != nil {
		b.Fatal(err)
	}
	in := fixedBlobs{f.layout.Vectors[v].Blob: blob}
	for _, groups := range []int{1, 18, 216, 8192} {
		var terms []enclave.Term
		for g := range groups {
			var set []int64
			for k := g; k < len(cells); k += groups {
				set = append(set, int64(k))
			}
			terms = append(terms, enclave.Term{Cell: g, Vector: v, Cells: set})
		}
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := evaluator.Evaluate(context.Background(), f.p.Params, &f.layout, terms, in, 1, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type fixedBlobs map[enclave.Digest]*evaluator.Blob

func (m fixedBlobs) Blob(d enclave.Digest) (*evaluator.Blob, error) { return m[d], nil }
func (m fixedBlobs) Panel(d enclave.Digest) (*evaluator.Panel, error) {
	return nil, enclave.ErrNotFound
}

// Opening 216 cells by two custodians: each computes the shares of the two pieces that it holds.
func BenchmarkOpen216(b *testing.B) {
	for _, layout := range []string{enclave.Cube, enclave.Rows} {
		b.Run(layout, func(b *testing.B) {
			f := newFixture(b, enclave.DefaultParams, layout)
			v := f.seal("n", make([]int64, 8192))
			var terms []enclave.Term
			for g := range 216 {
				if layout == enclave.Cube {
					terms = append(terms, enclave.Term{Vector: v, Cells: []int64{int64(g), int64(g + 216), 8000}})
				} else {
					terms = append(terms, enclave.Term{A: []int{v}, B: []int{v}})
				}
			}
			if layout == enclave.Rows {
				terms = terms[:1]
			}
			cts := f.evaluate(terms, 2)
			for len(cts) < 216 {
				cts = append(cts, cts[0])
			}
			pieces, err := f.key.Split(3)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, held := range [][]int{{0, 1}, {1, 2}} {
					for _, i := range held {
						o := NewOpener(pieces[i])
						for c := range cts {
							if _, err := o.Share(&cts[c], new(big.Int), new(big.Int)); err != nil {
								b.Fatal(err)
							}
						}
					}
				}
			}
		})
	}
}
