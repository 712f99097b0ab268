package engine

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// drawKeys repeat a lot.
func drawKeys(t *rapid.T, n int, label string) []uint64 {
	if rapid.IntRange(0, 4).Draw(t, label+" equal") == 0 {
		return make([]uint64, n)
	}
	few := rapid.Uint64Range(1, uint64(n)+1).Draw(t, label+" values")
	return each(n, func(int) uint64 { return rapid.Uint64Range(0, few).Draw(t, label) * 0x9E3779B97F4A7C15 })
}

func drawFlags(t *rapid.T, n int, label string) []uint64 {
	most := rapid.SampledFrom([]uint64{0, 1, 1, 1}).Draw(t, label+" most")
	return each(n, func(int) uint64 { return rapid.Uint64Range(0, most).Draw(t, label) })
}

func TestScan(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		same := drawFlags(t, n, "same")
		x, y := drawWords(t, n, "x"), drawWords(t, n, "y")
		ss, xs, ys := deal(same, true), deal(x, true), deal(y, true)
		var gx, gy [3]share
		w.do(t, func(p *party) {
			out := p.scan(ss[p.id], []share{xs[p.id], ys[p.id]})
			gx[p.id], gy[p.id] = out[0], out[1]
		})
		for i := 1; i < n; i++ {
			x[i] += same[i] * x[i-1]
			y[i] += same[i] * y[i-1]
		}
		equalWords(t, "x", reveal(t, gx, true), x)
		equalWords(t, "y", reveal(t, gy, true), y)
	})
}

func TestJoin(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n, m := drawSize(t), drawSize(t)
		on := each(n, func(i int) uint64 { return uint64(i*i) * 0x9E3779B97F4A7C15 }) // distinct
		by := drawKeys(t, m, "by")
		if n > 0 {
			for i := range by { // half of them hit
				if rapid.Bool().Draw(t, "hit") {
					by[i] = on[rapid.IntRange(0, n-1).Draw(t, "row")]
				}
			}
		}
		second := rapid.Bool().Draw(t, "two key columns")
		where, value := drawFlags(t, n, "where"), drawWords(t, n, "value")
		filtered := rapid.Bool().Draw(t, "filtered")
		so, sb, sw, sv := deal(on, false), deal(by, false), deal(where, true), deal(value, true)
		zn, zm := deal(make([]uint64, n), false), deal(make([]uint64, m), false)
		var matched, got [3]share
		w.do(t, func(p *party) {
			i := p.id
			fo, fb := []field{{so[i], 64}}, []field{{sb[i], 64}}
			if second {
				fo, fb = append(fo, field{zn[i], 3}), append(fb, field{zm[i], 3})
			}
			f := &sw[i]
			if !filtered {
				f = nil
			}
			var values []share
			matched[i], values = p.join(fo, fb, f, []share{sv[i]})
			got[i] = values[0]
		})
		row := map[uint64]int{}
		for i, k := range on {
			row[k] = i
		}
		hits, values := make([]uint64, m), make([]uint64, m)
		for i, k := range by {
			if r, ok := row[k]; ok {
				values[i] = value[r]
				hits[i] = 1
				if filtered {
					hits[i] = where[r]
				}
			}
		}
		equalWords(t, "matched", reveal(t, matched, true), hits)
		equalWords(t, "values", reveal(t, got, true), values)
	})
}

func TestGroup(t *testing.T) {
	w := newTrio(t)
	rapid.Check(t, func(t *rapid.T) {
		n := drawSize(t)
		k1, k2 := drawKeys(t, n, "k1"), each(n, func(int) uint64 { return rapid.Uint64Range(0, 2).Draw(t, "k2") })
		where, value := drawFlags(t, n, "where"), drawWords(t, n, "value")
		filtered := rapid.Bool().Draw(t, "filtered")
		s1, s2, sw, sv := deal(k1, false), deal(k2, false), deal(where, true), deal(value, true)
		var one, count, sum, flag [3]share
		w.do(t, func(p *party) {
			i := p.id
			by := []field{{s1[i], 64}, {s2[i], 2}}
			f := &sw[i]
			if !filtered {
				f = nil
			}
			var sums []share
			one[i], sums = p.group(by, f, []share{sv[i]})
			count[i], sum[i] = sums[0], sums[1]
			flag[i] = p.distinct(by, f)
		})
		type total struct{ count, sum uint64 }
		want := map[string]total{}
		for i := range n {
			if !filtered || where[i] == 1 {
				k := fmt.Sprint(k1[i], k2[i])
				v := want[k]
				want[k] = total{v.count + 1, v.sum + value[i]}
			}
		}
		ones, counts, sums := reveal(t, one, true), reveal(t, count, true), reveal(t, sum, true)
		equalWords(t, "distinct", reveal(t, flag, true), ones)
		for i := range n {
			k := fmt.Sprint(k1[i], k2[i])
			if ones[i] == 0 {
				if counts[i] != 0 || sums[i] != 0 {
					t.Fatalf("row %d is not its key's row and has %d, %d", i, counts[i], sums[i])
				}
				continue
			}
			if (total{counts[i], sums[i]}) != want[k] || ones[i] != 1 {
				t.Fatalf("row %d: key %s has %d rows, sum %d, want %v", i, k, counts[i], sums[i], want[k])
			}
			delete(want, k)
		}
		if len(want) > 0 {
			t.Fatalf("no row for keys %v", want)
		}
	})
}
