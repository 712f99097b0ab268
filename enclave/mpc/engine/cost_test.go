package engine

import (
	"errors"
	"math"
	"testing"

	"yingzhou.dev/lab/enclave/mpc"
)

// What a program is said to cost is what it costs: to the word where no sort is in it, nearly where one is.
func TestCost(t *testing.T) {
	const n, m = 700, 3000
	tables := []mpc.Table{
		{Name: "a", Rows: n, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "x", Kind: mpc.Number, Bound: 999}}},
		{Name: "b", Rows: m, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "y", Kind: mpc.Number, Bound: 1 << 20},
			{Name: "z", Kind: mpc.Number, Bound: 77}, {Name: "f", Kind: mpc.Number, Bound: 1}}},
	}
	d := cleartext{"a.id": randomWords(n), "a.x": make([]uint64, n), "b.id": randomWords(m), "b.y": make([]uint64, m), "b.z": make([]uint64, m), "b.f": make([]uint64, m)}
	for _, c := range []struct {
		name  string
		build func(p *mpc.Program)
		slack float64
	}{
		{"rows", func(p *mpc.Program) {
			lt := p.Less("b.y", "b.z")
			eq := p.Equal("b.y", "b.z")
			w := p.Word("b.z")
			both := p.Or(p.And(lt, eq), p.And(p.Less("b.id", w), p.Equal(w, p.Word("b.y"))))
			p.Select(p.Number(both), p.Mul("b.y", "b.z"), p.Linear(3, []int64{2}, "b.z"))
		}, 0},
		{"releases", func(p *mpc.Program) {
			p.Releases = []mpc.Release{
				{Name: "all", Frame: "b.y", Count: silent, MinCount: -1, Sums: []mpc.Sum{{Column: "b.y", Noise: silent}}},
				{Name: "cells", Cells: []string{"b.f"}, Who: "b.f", Count: silent, MinCount: -1, Sums: []mpc.Sum{{Column: "b.y", Noise: silent}},
					Quantiles: []mpc.Quantile{{Column: "b.z", Fractions: []int64{100_000, 500_000}, Min: -5, Max: 90, Unit: 2, Noise: mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 1e11}}}},
			}
		}, 0},
		{"sort", func(p *mpc.Program) { p.Sort([]string{p.Word("b.z"), "b.id"}, "b.y", "b.id") }, 0.2},
		{"join", func(p *mpc.Program) { p.Join([]string{"a.id"}, "", []string{"a.x"}, []string{"b.id"}) }, 0.2},
		{"wide join", func(p *mpc.Program) {
			p.Join([]string{"a.id"}, "", []string{"a.x", "a.x", "a.x", "a.x", "a.x"}, []string{"b.id"})
		}, 0.2},
		{"distinct", func(p *mpc.Program) { p.Distinct([]string{"b.id"}, "b.f") }, 0.2},
		{"group and keys", func(p *mpc.Program) {
			last, count, sums := p.Group([]string{"b.id"}, "b.f", "b.y")
			p.Keys = []mpc.KeyRelease{{Name: "k", Keys: []string{"b.id"}, Last: last, Count: count, Noise: silent, MinCount: 5, Sums: []mpc.Sum{{Column: sums[0], Noise: silent}}}}
		}, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &mpc.Program{Tables: tables}
			c.build(p)
			want, err := p.Cost()
			if err != nil {
				t.Fatal(err)
			}
			w := newTrio(t)
			var measured [3]mpc.Cost
			_, errs := w.runAll(t, p, dealAll(t, p, d), func(i int, cfg *Config) {
				cfg.Done = func(rounds, words int64) { measured[i] = mpc.Cost{Rounds: rounds, Words: words} }
			})
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
			got := mpc.Cost{Rounds: measured[0].Rounds}
			for _, m := range measured {
				got.Words = max(got.Words, m.Words)
			}
			off := max(math.Abs(float64(got.Rounds)/float64(want.Rounds)-1), math.Abs(float64(got.Words)/float64(want.Words)-1))
			if off > c.slack {
				t.Errorf("cost is %v (%d words), said to be %v (%d words)", got, got.Words, want, want.Words)
			}
		})
	}
}
