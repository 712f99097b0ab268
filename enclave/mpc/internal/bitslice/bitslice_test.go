package bitslice

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The definition, bit by bit.
func TestPlanesAndWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.IntRange(1, 5).Draw(t, "groups")
		count := rapid.SampledFrom([]int{1, 2, 7, 8, 20, 63, 64}).Draw(t, "planes")
		stride := groups + rapid.IntRange(0, 3).Draw(t, "gap")
		words := rapid.SliceOfN(rapid.Uint64(), 64*groups, 64*groups).Draw(t, "words")
		dst := make([]uint64, 64*stride)
		Planes(dst, stride, count, words)
		for i, w := range words {
			for b := range count {
				if dst[b*stride+i/64]>>(i%64)&1 != w>>b&1 {
					t.Fatalf("plane %d of word %d is wrong", b, i)
				}
			}
		}
		for b := range count {
			for g := groups; g < stride; g++ {
				if dst[b*stride+g] != 0 {
					t.Fatalf("wrote beyond plane %d", b)
				}
			}
		}
		back := make([]uint64, len(words))
		Words(back, dst, stride, count)
		for i, w := range words {
			if back[i] != w<<(64-count)>>(64-count) {
				t.Fatalf("word %d came back as %x, not %x", i, back[i], w)
			}
		}
	})
}

// The assembly and its twin in Go, on what each sees in use.
func TestAssemblyAgreesWithGo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, groups := range []int{1, 2, 3, 64, 129} {
		for _, mask := range []uint64{0, 1, 1 << 63, ^uint64(0), 0x8000000080000000} {
			words := make([]uint64, 64*groups)
			for i := range words {
				words[i] = rng.Uint64() & mask
			}
			got, want := make([]uint64, 64*groups), make([]uint64, 64*groups)
			Planes(got, groups, 64, words)
			planesGo(want, groups, 64, words)
			if !slices.Equal(got, want) {
				t.Fatalf("%d groups, mask %x: planes differ", groups, mask)
			}
		}
	}
}

func TestAnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "words")
		draw := func(label string) []uint64 { return rapid.SliceOfN(rapid.Uint64(), n, n).Draw(t, label) }
		xa, xb, ya, yb := draw("xa"), draw("xb"), draw("ya"), draw("yb")
		z, twin := make([]uint64, n), make([]uint64, n)
		And(z, xa, xb, ya, yb)
		andGo(twin, xa, xb, ya, yb)
		for i := range z {
			if want := xa[i]&ya[i] ^ xa[i]&yb[i] ^ xb[i]&ya[i]; z[i] != want || twin[i] != want {
				t.Fatalf("word %d is %x, its twin %x, want %x", i, z[i], twin[i], want)
			}
		}
		And(xa, xa, xb, ya, yb)
		if !slices.Equal(xa, z) {
			t.Fatal("in place differs")
		}
	})
}

func TestChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "words")
		var v [7][]uint64
		for i := range v {
			v[i] = rapid.SliceOfN(rapid.Uint64(), n, n).Draw(t, fmt.Sprint("vector", i))
		}
		z, twin, want := make([]uint64, n), make([]uint64, n), make([]uint64, n)
		Choose(z, v[0], v[1], v[2], v[3], v[4], v[5], v[6])
		chooseGo(twin, v[0], v[1], v[2], v[3], v[4], v[5], v[6])
		for i := range want {
			v[3][i], v[4][i] = v[3][i]^v[5][i], v[4][i]^v[6][i]
		}
		And(want, v[1], v[2], v[3], v[4])
		for i := range want {
			want[i] ^= v[0][i]
			v[3][i], v[4][i] = v[3][i]^v[5][i], v[4][i]^v[6][i]
		}
		Choose(v[0], v[0], v[1], v[2], v[3], v[4], v[5], v[6])
		if !slices.Equal(z, want) || !slices.Equal(twin, want) || !slices.Equal(v[0], want) {
			t.Fatalf("is %x, its twin %x, in place %x, want %x", z, twin, v[0], want)
		}
	})
}

func TestPlanesRefusesWhatDoesNotFit(t *testing.T) {
	for _, f := range []func(){
		func() { Planes(make([]uint64, 63), 1, 64, make([]uint64, 64)) },
		func() { Planes(make([]uint64, 64), 1, 64, make([]uint64, 63)) },
		func() { Planes(make([]uint64, 64), 1, 65, make([]uint64, 64)) },
		func() { Words(make([]uint64, 64), make([]uint64, 63), 1, 64) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			f()
		}()
	}
}

func BenchmarkPlanes(b *testing.B) {
	words, dst := make([]uint64, 1<<13), make([]uint64, 1<<13)
	for name, f := range map[string]func([]uint64, int, int, []uint64){"native": planes, "go": planesGo} {
		for _, count := range []int{64, 20} {
			b.Run(fmt.Sprint(name, "/", count), func(b *testing.B) {
				b.SetBytes(8 << 13)
				b.ReportAllocs()
				for b.Loop() {
					f(dst, 1<<7, count, words)
				}
			})
		}
	}
}
