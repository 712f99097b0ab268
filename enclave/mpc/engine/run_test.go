package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave/mpc"
)

// cleartext is the columns of tables, by "table.column".
type cleartext map[string][]uint64

// dealAll deals every column of a program's tables.
func dealAll(t fataler, p *mpc.Program, data cleartext) [3]mpc.Dealt {
	t.Helper()
	var out [3]mpc.Dealt
	commitments := mpc.Commitments{}
	for i := range out {
		out[i] = mpc.Dealt{Columns: map[string][2]mpc.Component{}, Commitments: commitments}
	}
	for _, table := range p.Tables {
		for _, col := range table.Columns {
			name := table.Name + "." + col.Name
			parts, err := mpc.Deal(rand.Reader, col.Kind, data[name])
			if err != nil {
				t.Fatal(err)
			}
			var digests [3]mpc.Digest
			for c := range parts {
				digests[c] = parts[c].Commitment()
			}
			commitments[name] = digests
			for i := range out {
				out[i].Columns[name] = [2]mpc.Component{parts[i], parts[(i+1)%3]}
			}
		}
	}
	return out
}

// noiseKey is node i's in tests.
func noiseKey(i int) []byte { return []byte(fmt.Sprint("noise key of node ", i, " in tests")) }

// runAll runs a program at three nodes.
func (w *trio) runAll(t testing.TB, p *mpc.Program, dealt [3]mpc.Dealt, change func(i int, cfg *Config)) ([3]*mpc.Output, [3]error) {
	var outs [3]*mpc.Output
	var errs [3]error
	done := make(chan int)
	for i := range 3 {
		cfg := Config{Party: i, Next: w.peers[i][0], Prev: w.peers[i][1], NoiseKey: noiseKey(i), Abort: func(int) { w.close() }}
		if change != nil {
			change(i, &cfg)
		}
		go func() {
			outs[i], errs[i] = Run(t.Context(), cfg, p, dealt[i])
			done <- i
		}()
	}
	for range 3 {
		<-done
	}
	return outs, errs
}

// evaluate runs a program and opens what it releases.
func evaluate(tb testing.TB, t fataler, p *mpc.Program, data cleartext) *mpc.Result {
	t.Helper()
	return evaluateDealt(tb, t, p, dealAll(t, p, data))
}

func evaluateDealt(tb testing.TB, t fataler, p *mpc.Program, dealt [3]mpc.Dealt) *mpc.Result {
	t.Helper()
	w := newTrio(tb)
	outs, errs := w.runAll(tb, p, dealt, nil)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	r, err := mpc.Combine(p, [3]mpc.Output{*outs[0], *outs[1], *outs[2]})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// silent is noise of zero but for a probability of 2^-1000.
var silent = mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 1_000_000_000}

// A join, a range, sums, a quantile, distinct counts and keys in one program, against the same in the clear.
func TestProgram(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, m := rapid.SampledFrom([]int{0, 1, 2, 65, 200}).Draw(rt, "people"), rapid.SampledFrom([]int{0, 1, 3, 64, 300}).Draw(rt, "visits")
		const towns, oldest, dearest = 3, 100, 5000
		d := cleartext{}
		d["people.id"] = each(n, func(i int) uint64 { return uint64(i) * 0x9E3779B97F4A7C15 })
		d["people.age"] = each(n, func(int) uint64 { return uint64(rapid.IntRange(0, oldest).Draw(rt, "age")) })
		town := each(n, func(int) uint64 { return uint64(rapid.IntRange(0, towns-1).Draw(rt, "town")) })
		d["people.town"] = town
		d["visits.id"] = each(m, func(int) uint64 { return uint64(rapid.IntRange(0, n+5).Draw(rt, "who")) * 0x9E3779B97F4A7C15 })
		d["visits.cost"] = each(m, func(int) uint64 { return uint64(rapid.IntRange(-10, dearest).Draw(rt, "cost")) })
		d["visits.ward"] = each(m, func(int) uint64 { return uint64(rapid.IntRange(1, 4).Draw(rt, "ward")) })
		limit := rapid.IntRange(0, oldest).Draw(rt, "limit")

		p := &mpc.Program{Tables: []mpc.Table{
			{Name: "people", Rows: int64(n), Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "age", Kind: mpc.Number, Bound: oldest},
				{Name: "town", Kind: mpc.Number, Bound: towns}}},
			{Name: "visits", Rows: int64(m), Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "cost", Kind: mpc.Number, Bound: dearest},
				{Name: "ward", Kind: mpc.Number, Bound: 5}}},
		}}
		matched, cols := p.Join([]string{"people.id"}, "", []string{"people.age", "people.town", "people.age", "people.town", "people.age"}, []string{"visits.id"})
		cells := p.OneHot("visits", cols[3], 0, 1, 2)
		old := p.Not(p.Less(cols[0], p.Constant("visits", int64(limit))))
		who := p.Number(p.And(p.Bit(matched), old))
		cost := p.Mul("visits.cost", who)
		firsts := p.Distinct([]string{"visits.id"}, who)
		ward := p.Word("visits.ward")
		last, count, sums := p.Group([]string{ward}, who, "visits.cost")
		p.Releases = []mpc.Release{
			{Name: "by town", Cells: cells, Who: who, Count: silent, MinCount: 2,
				Sums:      []mpc.Sum{{Column: cost, Noise: silent}, {Column: p.Mul(firsts, "visits.ward"), Noise: silent}},
				Quantiles: []mpc.Quantile{{Column: "visits.cost", Fractions: []int64{500_000, 900_000}, Min: -16, Max: 8000, Unit: 2, Noise: mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 100_000_000_000}}}},
			{Name: "all", Who: firsts, Count: silent, MinCount: -5, Sums: []mpc.Sum{{Column: firsts, Noise: silent}}},
		}
		p.Keys = []mpc.KeyRelease{{Name: "wards", Keys: []string{ward}, Last: last, Count: count, Noise: silent, MinCount: 2, Limit: 3, Sums: []mpc.Sum{{Column: sums[0], Noise: silent}}}}
		got := evaluate(t, rt, p, d)

		in := make([]bool, m)
		at := make([]int, m)
		for i, id := range d["visits.id"] {
			at[i] = slices.Index(d["people.id"], id)
			in[i] = at[i] >= 0 && d["people.age"][at[i]] >= uint64(limit)
		}
		want := &mpc.Result{Releases: []mpc.ReleaseResult{
			{Name: "by town", Counts: make([]int64, towns), Kept: make([]bool, towns), Sums: [][]int64{make([]int64, towns), nil}, Quantiles: [][][]int64{{make([]int64, towns), make([]int64, towns)}}},
			{Name: "all", Counts: []int64{0}, Kept: []bool{true}, Sums: [][]int64{{0}}},
		}, Keys: []mpc.KeysResult{{Name: "wards"}}}
		seen := map[uint64]bool{}
		costs := make([][]int64, towns)
		for i := range m {
			if !in[i] {
				continue
			}
			g := town[at[i]]
			c := int64(d["visits.cost"][i])
			want.Releases[0].Counts[g]++
			costs[g] = append(costs[g], c)
			if id := d["visits.id"][i]; !seen[id] {
				seen[id] = true
				want.Releases[1].Counts[0]++
				want.Releases[1].Sums[0][0]++
			}
		}
		for g := range towns {
			if want.Releases[0].Kept[g] = len(costs[g]) >= 2; !want.Releases[0].Kept[g] {
				continue
			}
			slices.Sort(costs[g])
			for _, c := range costs[g] {
				want.Releases[0].Sums[0][g] += c
			}
			for f, fraction := range []int{500_000, 900_000} {
				rank := (len(costs[g])*fraction + 999_999) / 1_000_000
				x := costs[g][rank-1] // the least multiple of 2 above it
				want.Releases[0].Quantiles[0][f][g] = x + 2 - ((x%2)+2)%2
			}
		}
		type wardTotal struct{ count, sum int64 }
		wards := map[uint64]wardTotal{}
		for i := range m {
			if in[i] {
				w := wards[d["visits.ward"][i]]
				wards[d["visits.ward"][i]] = wardTotal{w.count + 1, w.sum + int64(d["visits.cost"][i])}
			}
		}
		got.Releases[0].Sums[1] = nil // the row that stands for an id is any of them
		if diff := cmp.Diff(want.Releases, got.Releases, cmpopts.EquateEmpty()); diff != "" {
			rt.Fatalf("releases (-want +got)\n%s", diff)
		}
		checkKeys := func(k mpc.KeysResult) {
			passing := 0
			for _, w := range wards {
				if w.count >= 2 {
					passing++
				}
			}
			if len(k.Counts) != min(3, passing) {
				rt.Fatalf("%d keys, want %d of %v", len(k.Counts), min(3, passing), wards)
			}
			for i, c := range k.Counts {
				w := wards[k.Keys[0][i]-1<<63]
				if w != (wardTotal{c, k.Sums[0][i]}) {
					rt.Fatalf("key %d has %d rows and sum %d, want %v", k.Keys[0][i], c, k.Sums[0][i], w)
				}
				if i > 0 && c > k.Counts[i-1] {
					rt.Fatalf("counts %v are not in order", k.Counts)
				}
			}
		}
		checkKeys(got.Keys[0])
	})
}
