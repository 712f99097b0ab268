package ring

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// extreme favours words at the edges of halves, where carries are lost first.
var extreme = rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 63, ^uint64(0), (1<<32 - 1) << 32}))

func vectors(t *rapid.T, n, count int) [][]uint64 {
	out := make([][]uint64, count)
	for i := range out {
		out[i] = rapid.SliceOfN(extreme, n, n).Draw(t, fmt.Sprint("vector", i))
	}
	return out
}

// The routines in use and their twins in Go, against the definition.
func TestDot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := vectors(t, rapid.IntRange(0, 70).Draw(t, "words"), 2)
		var want uint64
		for i, x := range v[0] {
			want += x * v[1][i]
		}
		if got, twin := Dot(v[0], v[1]), dotGo(v[0], v[1]); got != want || twin != want {
			t.Fatalf("sum is %x, its twin %x, want %x", got, twin, want)
		}
	})
}

func newKey(t interface{ Fatal(...any) }, raw []byte) *Key {
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Streams may be in step or not, and at half a block.
func TestProduct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "words")
		v := vectors(t, n, 4)
		var streams, twins [2]*Stream
		var masks [2][]uint64
		step := rapid.SampledFrom([]int{0, 1, 2, 31, 32}).Draw(t, "drawn")
		for i := range streams {
			key := newKey(t, rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key"))
			drawn := step
			if i == 1 && rapid.Bool().Draw(t, "apart") {
				drawn = 2
			}
			masks[i] = make([]uint64, n)
			s := key.Stream([8]byte{1, 2, 3, 4})
			s.Fill(make([]uint64, drawn))
			before := *s
			s.Fill(masks[i])
			streams[i], twins[i] = &before, &Stream{}
			*twins[i] = before
		}
		after := [2]Stream{*streams[0], *streams[1]}
		z, twin := make([]uint64, n), make([]uint64, n)
		Product(z, v[0], v[1], v[2], v[3], streams[0], streams[1])
		productGo(twin, v[0], v[1], v[2], v[3], twins[0], twins[1])
		for i := range z {
			if want := v[0][i]*v[2][i] + v[0][i]*v[3][i] + v[1][i]*v[2][i] + masks[0][i] - masks[1][i]; z[i] != want || twin[i] != want {
				t.Fatalf("word %d is %x, its twin %x, want %x", i, z[i], twin[i], want)
			}
		}
		for i := range streams {
			var next, want [3]uint64
			streams[i].Fill(next[:])
			twins[i].Fill(want[:])
			if next != want {
				t.Fatalf("stream %d goes on with %x, its twin with %x", i, next, want)
			}
		}
		Product(v[0], v[0], v[1], v[2], v[3], &after[0], &after[1])
		if !slices.Equal(v[0], z) {
			t.Fatal("in place differs")
		}
	})
}

func TestNH(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := vectors(t, rapid.IntRange(0, 70).Draw(t, "words"), 2)
		hi, lo := NH(v[0], v[1])
		want := new(big.Int)
		for i := 0; i < len(v[0]); i += 2 {
			second := v[0][0] ^ oddWord
			if i+1 < len(v[0]) {
				second = v[0][i+1] + v[1][i+1]
			}
			x, y := new(big.Int).SetUint64(v[0][i]+v[1][i]), new(big.Int).SetUint64(second)
			want.Add(want, x.Mul(x, y))
		}
		got := new(big.Int).SetUint64(hi)
		got.Lsh(got, 64).Add(got, new(big.Int).SetUint64(lo))
		if want.Mod(want, new(big.Int).Lsh(big.NewInt(1), 128)).Cmp(got) != 0 {
			t.Fatalf("is %x, want %x", got, want)
		}
	})
}

func BenchmarkKernels(b *testing.B) {
	const n = 1024
	rng := rand.New(rand.NewPCG(1, 2))
	var v [5][]uint64
	for i := range v {
		v[i] = make([]uint64, n)
		for k := range v[i] {
			v[i][k] = rng.Uint64()
		}
	}
	key := newKey(b, make([]byte, 16))
	var sink uint64
	for _, k := range []struct {
		name string
		f    func()
	}{
		{"dot/native", func() { sink += Dot(v[0], v[1]) }},
		{"dot/go", func() { sink += dotGo(v[0], v[1]) }},
		{"product/native", func() {
			Product(v[0], v[1], v[2], v[3], v[4], key.Stream([8]byte{}), key.Stream([8]byte{}))
		}},
		{"product/go", func() {
			productGo(v[0], v[1], v[2], v[3], v[4], key.Stream([8]byte{}), key.Stream([8]byte{}))
		}},
		{"keystream/native", func() { keystream(v[0], key, [8]byte{}, 0) }},
		{"keystream/go", func() { keystreamGo(v[0], key, [8]byte{}, 0) }},
		{"nh", func() { h, _ := NH(v[0], v[1]); sink += h }},
	} {
		b.Run(k.name, func(b *testing.B) {
			b.SetBytes(8 * n)
			for b.Loop() {
				k.f()
			}
		})
	}
}
