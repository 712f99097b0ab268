package prio3

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Test vectors of draft-irtf-cfrg-vdaf-13 (Prio3Count_0, Prio3Sum_0, Prio3Histogram_0): keys, nonces and coins there count
// up from zero. Input and prep shares are compared by their bytes, or where long by their digest.
func TestDraftVectors(t *testing.T) {
	short := func(b []byte) string {
		if len(b) > 64 {
			return canon.Sum(b).String()[7:]
		}
		return hex.EncodeToString(b)
	}
	for _, c := range []struct {
		m      enclave.Measurement
		x      uint64
		public string
		input  [2]string
		prep   [2]string
		total  [2]string
	}{
		{m: enclave.Measurement{Kind: enclave.MeasureCount}, x: 1,
			input: [2]string{"e369056891a9fd95d44e6fadb3b75e6774b666d312bcc59b57694d189321ffe06f46b37d26db61d056b17152e3726a2e",
				"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"},
			prep: [2]string{"5c6a0685bd0f0aa9b19b8c1c4431ec49eca02338e5e05da8fc91575311627200", "a595f97a41f0f5565abc07086ef01d5b3cb2629a3c534bd4dbd8f5187ad75aad"}},
		{m: enclave.Measurement{Kind: enclave.MeasureSum, Max: 255}, x: 100,
			input: [2]string{"4b98b9b46a33c5a757b67092480ddabf583de8c7b6fedb647b85c03b24225bcb", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"}},
		{m: enclave.Measurement{Kind: enclave.MeasureHistogram, Labels: []string{"a", "b", "c", "d"}}, x: 2,
			public: "064ddc2301a2ff2176338dd52a09fdadd442cddcbe5d10dafe0d92551d81eac7c27dda399f3c8341c7476370573e51b6ebe601061807bb886fc55c2161ce436e",
			input: [2]string{"42ff32cdb47d003bd1649c34e39d5e7558023bccced94e48507547993d2ecea5",
				"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"}},
	} {
		t.Run(c.m.Kind, func(t *testing.T) {
			v, err := compile(c.m, []byte("some application"))
			if err != nil {
				t.Fatal(err)
			}
			var verify [32]byte
			var nonce [16]byte
			coins := make([]byte, v.rand)
			for i := range coins {
				coins[i] = byte(i)
			}
			copy(verify[:], coins)
			copy(nonce[:], coins)
			public, input, err := v.shard([]uint64{c.x}, nonce, coins)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(public); got != c.public || len(public) != v.public {
				t.Errorf("public share %s, want %s of %d bytes", got, c.public, v.public)
			}
			var p [2]*prepared
			for i := range p {
				if c.m.Kind == enclave.MeasureSum && i == 1 {
					c.input[1] = c.input[1][:2*len(input[1])]
				}
				if got := short(input[i]); got != c.input[i] || len(input[i]) != v.input[i] {
					t.Errorf("input share %d is %s, want %s of %d bytes", i, got, c.input[i], v.input[i])
				}
				if p[i], err = v.prepare(verify, nonce, i, public, input[i]); err != nil {
					t.Fatal(err)
				}
				if got := hex.EncodeToString(p[i].share); c.prep[i] != "" && got != c.prep[i] || len(p[i].share) != v.prep {
					t.Errorf("prep share %d is %s, want %s of %d bytes", i, got, c.prep[i], v.prep)
				}
			}
			sum := make([]*big.Int, v.outputs)
			for i := range sum {
				sum[i] = new(big.Int)
			}
			for i := range p {
				out, err := v.finish(p[i], i, p[1-i].share)
				if err != nil {
					t.Fatal(err)
				}
				total := v.newTotal()
				total.add(out)
				raw, err := total.bytes()
				if err != nil {
					t.Fatal(err)
				}
				xs, err := v.integers(raw)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(v.encode(xs), raw) {
					t.Error("integers and encode are not inverse")
				}
				for j, x := range xs {
					sum[j].Add(sum[j], x)
				}
			}
			got, want := int64(0), int64(c.x)
			for j, x := range sum {
				got += v.centred(x).Int64() * int64(max(1, j))
			}
			if got != want {
				t.Errorf("the total is %d, want %d", got, want)
			}
		})
	}
}

// A measurement beyond its bounds cannot be sharded, and one altered after its proof was made is never counted.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		m enclave.Measurement
		x []uint64
	}{
		{enclave.Measurement{Kind: enclave.MeasureCount}, []uint64{2}},
		{enclave.Measurement{Kind: enclave.MeasureCount}, nil},
		{enclave.Measurement{Kind: enclave.MeasureSum, Max: 1000}, []uint64{1001}},
		{enclave.Measurement{Kind: enclave.MeasureHistogram, Labels: []string{"a", "b"}}, []uint64{2}},
		{enclave.Measurement{Kind: enclave.MeasureVector, Max: 7, Labels: []string{"a", "b"}}, []uint64{1, 8}},
		{enclave.Measurement{Kind: enclave.MeasureVector, Max: 7, Labels: []string{"a", "b"}}, []uint64{1}},
	} {
		v, err := compile(c.m, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.shard(c.x, [16]byte{}, make([]byte, v.rand)); !errors.Is(err, errMeasurement) {
			t.Errorf("%s of %v: %v, want %v", c.m.Kind, c.x, err, errMeasurement)
		}
	}
}

func TestAlteredShares(t *testing.T) {
	for _, m := range []enclave.Measurement{{Kind: enclave.MeasureCount}, {Kind: enclave.MeasureSum, Max: 1000},
		{Kind: enclave.MeasureHistogram, Labels: []string{"a", "b", "c"}}, {Kind: enclave.MeasureVector, Max: 15, Labels: []string{"a", "b", "c"}}} {
		v, err := compile(m, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		x := make([]uint64, 1)
		if m.Kind == enclave.MeasureVector {
			x = make([]uint64, 3)
		}
		rapid.Check(t, func(t *rapid.T) {
			coins := rapid.SliceOfN(rapid.Byte(), v.rand, v.rand).Draw(t, "coins")
			who := rapid.IntRange(0, 1).Draw(t, "who")
			public, input, err := v.shard(x, [16]byte{1}, coins)
			if err != nil {
				t.Fatal(err)
			}
			at := rapid.IntRange(0, len(input[who])-1).Draw(t, "at")
			input[who][at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			var p [2]*prepared
			for i := range p {
				if p[i], err = v.prepare([32]byte{2}, [16]byte{1}, i, public, input[i]); err != nil {
					return // an element outside the field, or joint randomness that does not fit
				}
			}
			for i := range p {
				if _, err := v.finish(p[i], i, p[1-i].share); !errors.Is(err, errProof) {
					t.Fatalf("aggregator %d counts an altered report: %v", i, err)
				}
			}
		})
	}
}

func FuzzReport(f *testing.F) {
	task := &Task{vdaf: &vdaf{public: 64, input: [2]int{48, 32}}}
	seed := append([]byte(reportMagic), make([]byte, task.ReportBytes()-len(reportMagic))...)
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := task.parse(data)
		if err != nil {
			return
		}
		again := append([]byte(reportMagic), r.collection[:]...)
		again = append(again, r.id[:]...)
		again = append(again, byte(r.reporter), byte(r.reporter>>8), byte(r.reporter>>16), byte(r.reporter>>24))
		again = append(append(append(append(again, r.public...), r.sealed[0]...), r.sealed[1]...), r.signature...)
		if !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, which is %x in parts", data, again)
		}
	})
}

func BenchmarkPrepare(b *testing.B) {
	labels := make([]string, 18)
	for i := range labels {
		labels[i] = fmt.Sprint(i)
	}
	for _, m := range []enclave.Measurement{{Kind: enclave.MeasureCount}, {Kind: enclave.MeasureSum, Max: 1<<32 - 1},
		{Kind: enclave.MeasureHistogram, Labels: labels}, {Kind: enclave.MeasureVector, Max: 1<<16 - 1, Labels: labels}} {
		b.Run(m.Kind, func(b *testing.B) {
			v, err := compile(m, []byte("x"))
			if err != nil {
				b.Fatal(err)
			}
			x := make([]uint64, 1)
			if m.Kind == enclave.MeasureVector {
				x = make([]uint64, len(labels))
			}
			public, input, err := v.shard(x, [16]byte{}, make([]byte, v.rand))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				var p [2]*prepared
				for i := range p {
					if p[i], err = v.prepare([32]byte{}, [16]byte{}, i, public, input[i]); err != nil {
						b.Fatal(err)
					}
				}
				for i := range p {
					if _, err := v.finish(p[i], i, p[1-i].share); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
