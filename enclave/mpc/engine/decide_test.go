package engine

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Every number of planes pairs its intervals in its own way. Rows fill a block and a little more; every tenth pair is
// equal, and others differ in few planes.
func TestLessOfEveryWidth(t *testing.T) {
	w := newTrio(t)
	rng := rand.New(rand.NewPCG(5, 6))
	const rows = blockRows + 70
	index := make([]uint32, rows)
	for i := range index {
		index[i] = uint32(i)
	}
	widths := []int{63, 64, 65, 84, 85, 127, 128, 129}
	for width := 1; width <= 34; width++ {
		widths = append(widths, width)
	}
	for _, width := range widths {
		var xs, ys [3]key
		var x, y [][]uint64
		for range (width + 63) / 64 {
			a, b := make([]uint64, rows), make([]uint64, rows)
			for i := range a {
				a[i] = rng.Uint64()
				switch i % 10 {
				case 0:
					b[i] = a[i]
				case 1, 2, 3, 4:
					b[i] = a[i] ^ 1<<rng.IntN(64)
				default:
					b[i] = rng.Uint64()
				}
			}
			x, y = append(x, a), append(y, b)
			as, bs := deal(a, false), deal(b, false)
			for p := range 3 {
				xs[p].words, ys[p].words = append(xs[p].words, as[p]), append(ys[p].words, bs[p])
				xs[p].bits, ys[p].bits = width, width
			}
		}
		var less, distinct [3]share
		w.run(func(p *party) {
			less[p.id] = p.less(rows, width, false, xs[p.id].at(index), ys[p.id].at(index))
			distinct[p.id] = p.less(rows, width, true, xs[p.id].at(index), ys[p.id].at(index))
		})
		mask := ^uint64(0) >> (64*len(x) - width)
		compare := func(i int) int {
			for m := len(x) - 1; m >= 0; m-- {
				a, b := x[m][i], y[m][i]
				if m == len(x)-1 {
					a, b = a&mask, b&mask
				}
				if a != b {
					return slices.Compare([]uint64{a}, []uint64{b})
				}
			}
			return 0
		}
		got, first := revealBits(t, less, rows), revealBits(t, distinct, rows)
		for i := range rows {
			c := compare(i)
			if got[i] != (c < 0) {
				t.Fatalf("%d bits, row %d: less is %v", width, i, got[i])
			}
			if c != 0 && first[i] != (c < 0) {
				t.Fatalf("%d bits, row %d: less of distinct keys is %v", width, i, first[i])
			}
		}
	}
}
