package engine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"yingzhou.dev/lab/enclave/mpc"
)

// extremes are inputs as different as can be, for the program of small.
func extremes(n, m int) map[string]cleartext {
	same := func(v uint64) func(int) uint64 { return func(int) uint64 { return v } }
	count := func(i int) uint64 { return uint64(i) }
	const minus = math.MaxUint64 - 1<<20 + 1
	return map[string]cleartext{
		"ordinary": smallData(n, m),
		"zeros":    {"a.id": each(n, count), "a.x": make([]uint64, n), "b.id": make([]uint64, m), "b.y": make([]uint64, m), "b.cell": make([]uint64, m)},
		"greatest": {"a.id": each(n, func(i int) uint64 { return ^uint64(i) }), "a.x": each(n, same(1<<20)), "b.id": each(m, same(^uint64(0))),
			"b.y": each(m, same(1<<20)), "b.cell": each(m, same(1))},
		"least": {"a.id": each(n, func(i int) uint64 { return 1 << 63 >> i }), "a.x": each(n, same(minus)), "b.id": each(m, same(1<<63)),
			"b.y": each(m, same(minus)), "b.cell": make([]uint64, m)},
	}
}

// shortened is few in short runs, many else.
func shortened(many, few int) int {
	if testing.Short() {
		return few
	}
	return many
}

// shapes is what an observer of a node's connections sees of its messages: steps and lengths, in order.
type shapes [3][3][]string

// What a node receives must not depend on the inputs: the same messages of the same lengths in the same order, and
// contents that are uniform over many runs. Five rows are ranked by comparing all pairs, so that the sorts, too, have one
// shape; TestSortTellsNothing looks at larger ones.
func TestMessagesTellNothing(t *testing.T) {
	const n, m = 2, 3
	const bins = 256
	runs := shortened(60, 10)
	p, _ := small(n, m, false)
	var first shapes
	for name, data := range extremes(n, m) {
		var seen [3][bins]float64 // by receiver
		for range runs {
			got, content := observe(t, p, data)
			if first[0][1] == nil {
				first = got
			}
			for from := range 3 {
				for to := range 3 {
					if !slices.Equal(got[from][to], first[from][to]) {
						t.Fatalf("%s: messages from %d to %d differ in number, order or length", name, from, to)
					}
				}
			}
			for to := range 3 {
				for _, v := range content[to] {
					for b := range 8 {
						seen[to][v>>(8*b)&(bins-1)]++
					}
				}
			}
		}
		for to := range 3 {
			total, stat := 0.0, 0.0
			for _, k := range seen[to] {
				total += k
			}
			for _, k := range seen[to] {
				stat += (k - total/bins) * (k - total/bins) / (total / bins)
			}
			if z := (stat - (bins - 1)) / math.Sqrt(2*(bins-1)); z > 6 {
				t.Errorf("%s: %.0f bytes that node %d received are %.1f standard deviations from uniform", name, total, to, z)
			}
		}
	}
}

func observe(t *testing.T, p *mpc.Program, data cleartext) (got shapes, content [3][]uint64) {
	t.Helper()
	var mu sync.Mutex
	w := newTrio(t)
	w.tap(func(from, to int, step uint32, words []uint64) ([]uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		got[from][to] = append(got[from][to], fmt.Sprint(step, " ", len(words)))
		content[to] = append(content[to], words...)
		return words, nil
	})
	_, errs := w.runAll(t, p, dealAll(t, p, data), nil)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return got, content
}

// The shape of a larger sort depends on chance. Whatever the keys are, how many comparisons it opens must have the same
// distribution: quartiles over many runs are compared between inputs.
func TestSortTellsNothing(t *testing.T) {
	const n = 60
	runs := shortened(300, 60)
	inputs := map[string]func(i int) uint64{
		"equal":      func(int) uint64 { return 7 },
		"ascending":  func(i int) uint64 { return uint64(i) },
		"descending": func(i int) uint64 { return ^uint64(i) },
		"two values": func(i int) uint64 { return uint64(i%2) << 63 },
	}
	w := newTrio(t)
	counts := map[string][]int{}
	var all []int
	for name, f := range inputs {
		keys := deal(each(n, f), false)
		for range runs {
			before := w.party[0].compares
			w.do(t, func(p *party) { p.sort(p.indexed(field{keys[p.id], 64})) })
			counts[name] = append(counts[name], int(w.party[0].compares-before))
		}
		all = append(all, counts[name]...)
	}
	slices.Sort(all)
	const parts = 4
	edges := []int{all[len(all)/4], all[len(all)/2], all[3*len(all)/4]}
	part := func(c int) int {
		k := 0
		for k < len(edges) && c >= edges[k] {
			k++
		}
		return k
	}
	var overall [parts]float64
	for _, c := range all {
		overall[part(c)] += 1 / float64(len(all))
	}
	for name, cs := range counts {
		var seen [parts]float64
		for _, c := range cs {
			seen[part(c)]++
		}
		stat := 0.0
		for k, e := range overall {
			stat += (seen[k] - e*float64(runs)) * (seen[k] - e*float64(runs)) / (e * float64(runs))
		}
		if stat > 30 { // at three degrees of freedom: one in a million
			t.Errorf("%s: chi-square is %.1f: quartiles have %v of %d runs, overall %v", name, stat, seen, runs, overall)
		}
	}
}
