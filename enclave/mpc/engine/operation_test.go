package engine

import (
	"cmp"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sizes are where loops over words, blocks and frames begin and end.
var sizes = []int{0, 1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 511, 513, 1000}

func drawSize(t *rapid.T) int { return rapid.SampledFrom(sizes).Draw(t, "rows") }

// drawWords has extremes, small numbers, repeats and noise.
func drawWords(t *rapid.T, n int, label string) []uint64 {
	one := rapid.OneOf(
		rapid.SampledFrom([]uint64{0, 1, 1 << 31, 1<<31 - 1, 1 << 62, 1<<63 - 1, 1 << 63, ^uint64(0), ^uint64(0) - 1}),
		rapid.Uint64Range(0, 5),
		rapid.Uint64(),
	)
	if rapid.IntRange(0, 4).Draw(t, label+" equal") == 0 {
		return slices.Repeat([]uint64{one.Draw(t, label)}, n)
	}
	return rapid.SliceOfN(one, n, n).Draw(t, label)
}

// drawNumbers are numbers within ±bound.
func drawNumbers(t *rapid.T, n int, bound int64, label string) []uint64 {
	one := rapid.OneOf(rapid.SampledFrom([]int64{-bound, -bound + 1, -1, 0, 1, bound - 1, bound}), rapid.Int64Range(-bound, bound))
	if rapid.IntRange(0, 4).Draw(t, label+" equal") == 0 {
		return slices.Repeat([]uint64{uint64(one.Draw(t, label))}, n)
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(one.Draw(t, label))
	}
	return out
}

func each(n int, f func(i int) uint64) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = f(i)
	}
	return out
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func equalWords(t *rapid.T, what string, got, want []uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: row %d of %d is %d, want %d", what, i, len(got), got[i], want[i])
		}
	}
}

func TestNumbers(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		x, y := drawWords(t, n, "x"), drawWords(t, n, "y")
		c := drawNumbers(t, n, 1, "c")
		for i := range c {
			c[i] &= 1
		}
		xs, ys, cs := deal(x, true), deal(y, true), deal(c, true)
		var mul, lin, sel, in, sum, pub [3]share
		w.do(t, func(p *party) {
			i := p.id
			mul[i] = p.mul(xs[i], ys[i])
			lin[i] = p.linear(7, []int64{-3, 1}, xs[i], ys[i])
			sel[i] = p.selectNumber(cs[i], xs[i], ys[i])
			in[i] = p.inner([]share{xs[i], ys[i], cs[i]}, ys[i])
			sum[i] = total([]share{xs[i], ys[i]})
			pub[i] = p.public(x)
		})
		equalWords(t, "mul", reveal(t, mul, true), each(n, func(i int) uint64 { return x[i] * y[i] }))
		equalWords(t, "linear", reveal(t, lin, true), each(n, func(i int) uint64 { return 7 - 3*x[i] + y[i] }))
		equalWords(t, "select", reveal(t, sel, true), each(n, func(i int) uint64 {
			if c[i] == 1 {
				return x[i]
			}
			return y[i]
		}))
		equalWords(t, "public", reveal(t, pub, true), x)
		want, sums := make([]uint64, 3), make([]uint64, 2)
		for i := range n {
			for k, v := range []uint64{x[i], y[i], c[i]} {
				want[k] += v * y[i]
			}
			sums[0] += x[i]
			sums[1] += y[i]
		}
		equalWords(t, "inner", reveal(t, in, true), want)
		equalWords(t, "total", reveal(t, sum, true), sums)
	})
}

func TestBits(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		x, y := drawWords(t, n, "x"), drawWords(t, n, "y")
		xs, ys := deal(x, false), deal(y, false)
		low := deal(x, true)
		rows := 64*n - rapid.IntRange(0, min(63, 64*n)).Draw(t, "tail")
		var and, or, not, ones, lows [3]share
		w.do(t, func(p *party) {
			i := p.id
			and[i], or[i] = p.and(xs[i], ys[i]), p.or(xs[i], ys[i])
			not[i] = xor(xs[i], newShare(n))
			p.not(not[i])
			ones[i] = p.numbers(xs[i], rows)
			lows[i] = lowBits(low[i])
		})
		equalWords(t, "and", reveal(t, and, false), each(n, func(i int) uint64 { return x[i] & y[i] }))
		equalWords(t, "or", reveal(t, or, false), each(n, func(i int) uint64 { return x[i] | y[i] }))
		equalWords(t, "not", reveal(t, not, false), each(n, func(i int) uint64 { return ^x[i] }))
		equalWords(t, "numbers", reveal(t, ones, true), each(rows, func(i int) uint64 { return x[i/64] >> (i % 64) & 1 }))
		for i, b := range revealBits(t, lows, n) {
			if b != (x[i]&1 == 1) {
				t.Fatalf("lowest bit of row %d is %v", i, b)
			}
		}
	})
}

func TestComparisons(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		bound := rapid.SampledFrom([]int64{1, 2, 3, 100, 1 << 20, 1<<53 - 1, 1<<62 - 1}).Draw(t, "bound")
		x, y := drawNumbers(t, n, bound, "x"), drawNumbers(t, n, bound, "y")
		a, b := drawWords(t, n, "a"), drawWords(t, n, "b")
		xs, ys, as, bs := deal(x, true), deal(y, true), deal(a, false), deal(b, false)
		count := bits.Len64(uint64(2*bound)) + 1 // of a difference
		wide := bits.Len64(uint64(bound)) + 1
		var lt, zero, words, lw, eq [3]share
		w.do(t, func(p *party) {
			i := p.id
			lt[i] = p.lessNumbers(xs[i], ys[i], count)
			zero[i] = p.zero(sub(xs[i], ys[i]), count)
			words[i] = p.word(xs[i], wide)
			lw[i] = p.lessWords(field{as[i], 64}, field{bs[i], 64})
			eq[i] = p.equalWords(field{as[i], 64}, field{bs[i], 64})
		})
		ltb, zb, lwb, eqb := revealBits(t, lt, n), revealBits(t, zero, n), revealBits(t, lw, n), revealBits(t, eq, n)
		ws := reveal(t, words, false)
		for i := range n {
			if ltb[i] != (int64(x[i]) < int64(y[i])) || zb[i] != (x[i] == y[i]) {
				t.Fatalf("row %d: %d < %d is %v, = is %v", i, int64(x[i]), int64(y[i]), ltb[i], zb[i])
			}
			if ws[i] != x[i]+1<<63 {
				t.Fatalf("row %d: word of %d is %x", i, int64(x[i]), ws[i])
			}
			if lwb[i] != (a[i] < b[i]) || eqb[i] != (a[i] == b[i]) {
				t.Fatalf("row %d: words %x < %x is %v, = is %v", i, a[i], b[i], lwb[i], eqb[i])
			}
		}
	})
}

func TestShuffle(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		x, y := drawWords(t, n, "x"), each(n, func(i int) uint64 { return uint64(i) })
		xs, ys := deal(x, true), deal(y, false)
		var px, py, qx, qy [3]share
		w.do(t, func(p *party) {
			s := p.shuffle(n)
			additive := func(c int) bool { return c == 0 }
			out := p.apply(s, []share{xs[p.id], ys[p.id]}, additive)
			px[p.id], py[p.id] = out[0], out[1]
			out = p.undo(s, out, additive)
			qx[p.id], qy[p.id] = out[0], out[1]
		})
		gx, gy := reveal(t, px, true), reveal(t, py, false)
		for i, q := range gy {
			if gx[i] != x[q] {
				t.Fatalf("columns are permuted differently at row %d", i)
			}
		}
		slices.Sort(gy)
		equalWords(t, "shuffled row numbers", gy, y)
		equalWords(t, "undone", reveal(t, qx, true), x)
		equalWords(t, "undone", reveal(t, qy, false), y)
	})
}

func TestSort(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		k1, k2, v := drawWords(t, n, "first key"), drawWords(t, n, "second key"), drawWords(t, n, "payload")
		narrow := rapid.IntRange(1, 64).Draw(t, "bits of the first key")
		for i := range k1 {
			k1[i] &= ^uint64(0) >> (64 - narrow)
		}
		s1, s2, sv := deal(k1, false), deal(k2, false), deal(v, true)
		var out, back [3][]share
		w.do(t, func(p *party) {
			i := p.id
			s := p.sort(p.indexed(field{s1[i], narrow}, field{s2[i], 64}))
			cols := []share{s1[i], s2[i], sv[i]}
			additive := func(c int) bool { return c == 2 }
			out[i] = p.bring(s, cols, additive)
			back[i] = p.back(s, out[i], additive)
		})
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(k1[a], k1[b]), cmp.Compare(k2[a], k2[b])) })
		for c, want := range [][]uint64{k1, k2, v} {
			got := reveal(t, [3]share{out[0][c], out[1][c], out[2][c]}, c == 2)
			equalWords(t, "sorted", got, each(n, func(i int) uint64 { return want[order[i]] }))
			equalWords(t, "returned", reveal(t, [3]share{back[0][c], back[1][c], back[2][c]}, c == 2), want)
		}
	})
}
