package plan_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/sandbox/plan"
)

// Bisections of random cells in the clear, with the noise that the plan says, stay within the rows that the explanation
// promises, and the promise is not so wide that it says nothing.
func TestRankIsWithinWhatTheExplanationSays(t *testing.T) {
	r := jointFixture()
	p := build(t, r, jointAccepted[0].query)
	prog, err := plan.Program(p)
	if err != nil {
		t.Fatal(err)
	}
	e, err := plan.ExplainJoint(p, []*enclave.Manifest{r.Manifest, r.Others[0].Manifest}, []*enclave.Keyset{r.Keyset, r.Others[0].Keyset}, r.Grant)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	draws := 0
	noise := func(part dp.LaplacePart) (sum int64) {
		for node := range mpc.Nodes {
			draws++
			sum += part.Draw(dp.NewStream(fmt.Appendf(nil, "sixteen bytes and node %d", node), fmt.Append(nil, draws))).Int64()
		}
		return sum
	}
	rel := prog.Releases[0]
	for i, q := range rel.Quantiles {
		note := e.Joint.Quantiles[i]
		const cells = 400
		outside, most := 0, 0.0
		for range cells {
			n := 500 + rng.IntN(5000)
			values := make([]int64, n)
			for k := range values { // some pile up, even at the ends
				values[k] = max(q.Min, min(q.Max-1, q.Min+int64(float64(q.Max-q.Min)*(rng.ExpFloat64()/6-.02))))
			}
			slices.Sort(values)
			below := func(x int64) int64 { at, _ := slices.BinarySearch(values, x); return int64(at) }
			target := float64(q.Fractions[0]) / 1e6 * float64(int64(n)+noise(rel.Count.Part()))
			low := int64(0)
			for half := int64(1) << (q.Steps() - 1); half > 0; half /= 2 {
				if rank := below(q.Min+q.Unit*(low+half)) + noise(q.Each().Part()); float64(rank) < target {
					low += half
				}
			}
			above := min(q.Max, q.Min+q.Unit*(low+1))
			rank := float64(q.Fractions[0]) / 1e6 * float64(n)
			off := max(float64(below(above-q.Unit))-rank, rank-float64(below(above)))
			most = max(most, off)
			if off > float64(note.RankWithin) {
				outside++
			}
		}
		if outside > cells/20 {
			t.Errorf("quantile %v of %q: %d of %d cells are off by more than %d rows", note.Fraction, note.Column, outside, cells, note.RankWithin)
		}
		if most < float64(note.RankWithin)/4 {
			t.Errorf("quantile %v of %q: no cell is off by more than %.0f rows, and %d are promised", note.Fraction, note.Column, most, note.RankWithin)
		}
	}
}
