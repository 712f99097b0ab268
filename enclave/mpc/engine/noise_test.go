package engine

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave/mpc"
)

// ones is a program over one table of n rows in three cells that releases counts, sums and a median.
func ones(n int, noise mpc.Noise) (*mpc.Program, cleartext) {
	p := &mpc.Program{Tables: []mpc.Table{{Name: "t", Rows: int64(n), Columns: []mpc.Column{
		{Name: "x", Kind: mpc.Number, Bound: 1 << 40}, {Name: "a", Kind: mpc.Number, Bound: 1}, {Name: "b", Kind: mpc.Number, Bound: 1}}}}}
	p.Releases = []mpc.Release{{Name: "r", Cells: []string{"t.a", "t.b"}, Count: noise, MinCount: -1 << 40,
		Sums:      []mpc.Sum{{Column: "t.x", Noise: mpc.Noise{Rows: 2, Delta: 1 << 40, EpsilonMicro: noise.EpsilonMicro}}},
		Quantiles: []mpc.Quantile{{Column: "t.x", Fractions: []int64{500_000}, Min: 0, Max: 64, Unit: 1, Noise: noise}}}}
	return p, cleartext{"t.x": each(n, func(i int) uint64 { return uint64(i % 64) }),
		"t.a": each(n, func(i int) uint64 { return b2u(i%2 == 0) }), "t.b": each(n, func(i int) uint64 { return b2u(i%2 == 1) })}
}

// Asking again gains nothing, whatever the query calls its columns and whatever else it asks.
func TestSameQuestionSameNoise(t *testing.T) {
	noise := mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 100_000}
	p, d := ones(500, noise)
	dealt := dealAll(t, p, d)
	first := evaluateDealt(t, t, p, dealt)
	if diff := cmp.Diff(first, evaluateDealt(t, t, p, dealt)); diff != "" {
		t.Errorf("asked again (-first +second)\n%s", diff)
	}
	other := *p
	p = &other
	p.Linear(5, []int64{3}, "t.x") // of no use
	r := p.Releases[0]
	r.Name, r.Cells, r.MinCount = "other", []string{"t.b", "t.a"}, -1<<41
	p.Releases = []mpc.Release{r}
	second := evaluateDealt(t, t, p, dealt).Releases[0]
	for _, c := range [][2]int64{{first.Releases[0].Counts[0], second.Counts[1]}, {first.Releases[0].Counts[1], second.Counts[0]},
		{first.Releases[0].Sums[0][0], second.Sums[0][1]}, {first.Releases[0].Quantiles[0][0][1], second.Quantiles[0][0][0]}} {
		if c[0] != c[1] {
			t.Errorf("cells in another order: %d became %d", c[0], c[1])
		}
	}

	exact := ones0(d)
	if first.Releases[0].Counts[0] == exact && first.Releases[0].Counts[1] == exact {
		t.Error("counts carry no noise")
	}
	r.Count.EpsilonMicro++
	p.Releases = []mpc.Release{r}
	if third := evaluateDealt(t, t, p, dealt).Releases[0]; third.Counts[0] == second.Counts[0] && third.Counts[1] == second.Counts[1] {
		t.Error("another ε has the same noise")
	}
}

func ones0(d cleartext) int64 {
	var n int64
	for _, v := range d["t.a"] {
		n += int64(v)
	}
	return n
}

// The noise of many questions has the variance that is announced, and no bias: all three parts are in it, once.
func TestNoiseIsThreeParts(t *testing.T) {
	noise := mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 200_000}
	p, d := ones(16, noise)
	exact := ones0(d)
	runs := shortened(200, 40)
	var mean, second float64
	for range runs { // dealt anew each time, so every count is a new question
		for _, c := range evaluate(t, t, p, d).Releases[0].Counts {
			x := float64(c - exact)
			mean += x / float64(2*runs)
			second += x * x / float64(2*runs)
		}
	}
	variance := noise.Part().Variance(3)
	if math.Abs(mean) > 4*math.Sqrt(variance/float64(2*runs)) || math.Abs(second/variance-1) > 4*math.Sqrt(5.0/float64(2*runs)) {
		t.Errorf("noise has mean %.2f and second moment %.1f, want 0 and %.1f", mean, second, variance)
	}
}

// A cell below the minimum has a noised count and nothing else: its sums and quantiles are not even computed.
func TestSmallCellsHaveNothing(t *testing.T) {
	p, d := ones(100, silent)
	for i := range d["t.b"] {
		d["t.b"][i] = b2u(i == 0)
		d["t.a"][i] = b2u(i != 0)
	}
	p.Releases[0].MinCount = 10
	p.Releases[0].Sums[0].Noise = mpc.Noise{Rows: 1, Delta: 1 << 40, EpsilonMicro: 1_000_000}
	w := newTrio(t)
	outs, errs := w.runAll(t, p, dealAll(t, p, d), nil)
	for i, o := range outs {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		r := o.Releases[0]
		if r.Kept[1] || !r.Kept[0] || r.Sums[0][1] != (mpc.Pair{}) || r.Sums[0][0] == (mpc.Pair{}) || r.Quantiles[0][0][1] != 0 {
			t.Errorf("node %d has %+v", i, r)
		}
	}
}
