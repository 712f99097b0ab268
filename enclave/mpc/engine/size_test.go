package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave/mpc"
)

// Rows around the borders of blocks and frames, and keys of more than a word, whose blocks fill more than a frame.
func TestAcrossBlocks(t *testing.T) {
	for _, n := range []int{blockRows - 1, blockRows, blockRows + 1, 2*blockRows + 65, 2 * frame * (ahead + 1)} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newTrio(t)
			x, y, v := randomWords(n), randomWords(n), randomWords(n)
			for i := range x {
				if x[i]%3 == 0 {
					y[i] = x[i]
				}
			}
			small := func(i int) uint64 { return uint64(int64(x[i]) >> 40) }
			other := func(i int) uint64 { return uint64(int64(y[i]) >> 40) }
			xs, ys, ns, os := deal(x, false), deal(y, false), deal(each(n, small), true), deal(each(n, other), true)
			var mul, sums, ones, wd [3]share
			var lt, eq, ln, ze [3]share
			w.do(t, func(p *party) {
				i := p.id
				mul[i], sums[i] = p.mul(ns[i], os[i]), p.inner([]share{ns[i], os[i]}, os[i])
				lt[i], eq[i] = p.lessWords(field{xs[i], 64}, field{ys[i], 64}), p.equalWords(field{xs[i], 64}, field{ys[i], 64})
				ln[i], ze[i] = p.lessNumbers(ns[i], os[i], 26), p.zero(sub(ns[i], os[i]), 25)
				ones[i], wd[i] = p.numbers(lt[i], n), p.word(ns[i], 25)
			})
			gm, g1, gw := reveal(t, mul, true), reveal(t, ones, true), reveal(t, wd, false)
			gs := reveal(t, sums, true)
			glt, geq, gln, gze := revealBits(t, lt, n), revealBits(t, eq, n), revealBits(t, ln, n), revealBits(t, ze, n)
			var products, squares uint64
			for i := range n {
				a, b := small(i), other(i)
				products += a * b
				squares += b * b
				if gm[i] != a*b || glt[i] != (x[i] < y[i]) || geq[i] != (x[i] == y[i]) || gln[i] != (int64(a) < int64(b)) || gze[i] != (a == b) ||
					g1[i] != b2u(x[i] < y[i]) || gw[i] != a+1<<63 {
					t.Fatalf("row %d is wrong", i)
				}
			}
			if gs[0] != products || gs[1] != squares {
				t.Fatalf("sums of products are %d and %d, want %d and %d", gs[0], gs[1], products, squares)
			}
			if n > 3*blockRows {
				return // comparisons enough
			}
			vs := deal(v, true)
			var first, second, payload [3]share
			w.do(t, func(p *party) {
				s := p.sort(p.indexed(field{xs[p.id], 64}, field{ys[p.id], 64})) // three words
				out := p.bring(s, []share{xs[p.id], ys[p.id], vs[p.id]}, func(c int) bool { return c == 2 })
				first[p.id], second[p.id], payload[p.id] = out[0], out[1], out[2]
			})
			order := make([]int, n)
			for i := range order {
				order[i] = i
			}
			slices.SortStableFunc(order, func(a, b int) int { return slices.Compare([]uint64{x[a], y[a]}, []uint64{x[b], y[b]}) })
			g0, gs, gp := reveal(t, first, false), reveal(t, second, false), reveal(t, payload, true)
			for i, q := range order {
				if g0[i] != x[q] || gs[i] != y[q] || gp[i] != v[q] {
					t.Fatalf("sorted row %d is wrong", i)
				}
			}
		})
	}
}

// What a node refuses before it sends anything about its shares.
func TestRunRefuses(t *testing.T) {
	p, d := small(2, 3, true)
	for name, c := range map[string]struct {
		change func(dealt *[3]mpc.Dealt, cfg *Config, program **mpc.Program)
		want   string
	}{
		"component": {func(dealt *[3]mpc.Dealt, _ *Config, _ **mpc.Program) {
			parts := dealt[1].Columns["b.y"]
			parts[1].Words = slices.Clone(parts[1].Words)
			parts[1].Words[2]++
			dealt[1].Columns["b.y"] = parts
		}, `column "b.y": component 2: dealt component is damaged`},
		"commitment of another column": {func(dealt *[3]mpc.Dealt, _ *Config, _ **mpc.Program) {
			dealt[1].Columns["b.y"] = dealt[1].Columns["b.cell"]
		},
			`column "b.y": component 1: dealt component is damaged`},
		"missing column": {func(dealt *[3]mpc.Dealt, _ *Config, _ **mpc.Program) { delete(dealt[1].Columns, "b.y") }, `column "b.y" was not dealt to node 1`},
		"other rows": {func(dealt *[3]mpc.Dealt, _ *Config, program **mpc.Program) {
			(*program).Tables[1].Rows = 4
		}, "component 1 has 3 rows"},
		"no noise key":    {func(_ *[3]mpc.Dealt, cfg *Config, _ **mpc.Program) { cfg.NoiseKey = nil }, "a noise key"},
		"no peer":         {func(_ *[3]mpc.Dealt, cfg *Config, _ **mpc.Program) { cfg.Next = nil }, "cannot take part"},
		"bad program":     {func(_ *[3]mpc.Dealt, _ *Config, program **mpc.Program) { (*program).Steps[0].Op = "x" }, "no such operation"},
		"another program": {func(_ *[3]mpc.Dealt, _ *Config, program **mpc.Program) { (*program).Releases[0].MinCount++ }, "nodes have different programs"},
		"another dealing": {func(dealt *[3]mpc.Dealt, _ *Config, _ **mpc.Program) { dealt[1] = dealAll(t, p, d)[1] }, "nodes have different programs"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTrio(t)
			dealt := dealAll(t, p, d)
			own, _ := small(2, 3, true)
			programs := [3]*mpc.Program{p, own, p}
			var errs [3]error
			done := make(chan int)
			for i := range 3 {
				cfg := Config{Party: i, Next: w.peers[i][0], Prev: w.peers[i][1], NoiseKey: noiseKey(i), Abort: func(int) { w.close() }}
				if i == 1 {
					c.change(&dealt, &cfg, &programs[1])
				}
				go func() {
					if _, errs[i] = Run(t.Context(), cfg, programs[i], dealt[i]); errs[i] != nil {
						w.close()
					}
					done <- i
				}()
			}
			for range 3 {
				<-done
			}
			for i, err := range errs {
				if err == nil {
					t.Errorf("node %d accepts", i)
				}
			}
			if all := errors.Join(errs[:]...); !strings.Contains(all.Error(), c.want) {
				t.Errorf("errors are\n%v\nwant %q", all, c.want)
			}
		})
	}
}

// recorder checks every product of three nodes once all have recorded it, as a batch verification would.
type recorder struct {
	x, y, z  [][2][]uint64
	additive []bool
	sums     int
	choices  []choice
}

// choice is Σ x∧y, word by word.
type choice struct {
	x, y [][2][]uint64
	sum  [2][]uint64
}

func (r *recorder) Multiplied(additive bool, x, y, z [2][]uint64) {
	keep := func(v [2][]uint64) [2][]uint64 { return [2][]uint64{slices.Clone(v[0]), slices.Clone(v[1])} }
	r.x, r.y, r.z = append(r.x, keep(x)), append(r.y, keep(y)), append(r.z, keep(z))
	r.additive = append(r.additive, additive)
}

func (r *recorder) Summed(xs [][2][]uint64, _, _ [2][]uint64) { r.sums += len(xs) }

// Chosen keeps u ⊕ z as the result of a product of many factors side by side.
func (r *recorder) Chosen(xs, ys [][2][]uint64, u, z [2][]uint64) {
	keep := func(v [2][]uint64) [2][]uint64 { return [2][]uint64{slices.Clone(v[0]), slices.Clone(v[1])} }
	c := choice{sum: keep(z)}
	for i := range u {
		xorWords(c.sum[i], c.sum[i], u[i])
	}
	for k := range xs {
		c.x, c.y = append(c.x, keep(xs[k])), append(c.y, keep(ys[k]))
	}
	r.choices = append(r.choices, c)
}

func (r *recorder) Verify() error { return nil }

// Every product of a program passes through the transcript, with its true factors and result.
func TestTranscriptHasEveryProduct(t *testing.T) {
	p, d := small(9, 12, true)
	w := newTrio(t)
	var rs [3]recorder
	_, errs := w.runAll(t, p, dealAll(t, p, d), func(i int, cfg *Config) { cfg.Transcript = &rs[i] })
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if len(rs[0].x) < 20 || len(rs[1].x) != len(rs[0].x) || len(rs[2].x) != len(rs[0].x) {
		t.Fatalf("%d, %d and %d products", len(rs[0].x), len(rs[1].x), len(rs[2].x))
	}
	if rs[0].sums == 0 {
		t.Error("no sums of products")
	}
	open := func(additive bool, of func(r *recorder) [2][]uint64) []uint64 {
		var s [3]share
		for i := range rs {
			v := of(&rs[i])
			s[i] = share{v[0], v[1]}
		}
		return reveal(t, s, additive)
	}
	if len(rs[0].choices) < 20 {
		t.Fatalf("%d choices", len(rs[0].choices))
	}
	for k, c := range rs[0].choices {
		sum := open(false, func(r *recorder) [2][]uint64 { return r.choices[k].sum })
		for f := range c.x {
			x := open(false, func(r *recorder) [2][]uint64 { return r.choices[k].x[f] })
			y := open(false, func(r *recorder) [2][]uint64 { return r.choices[k].y[f] })
			for i := range sum {
				sum[i] ^= x[i] & y[i]
			}
		}
		if slices.ContainsFunc(sum, func(w uint64) bool { return w != 0 }) {
			t.Fatalf("choice %d of %d products: the rest is %x", k, len(c.x), sum)
		}
	}
	for k, additive := range rs[0].additive {
		x := open(additive, func(r *recorder) [2][]uint64 { return r.x[k] })
		y := open(additive, func(r *recorder) [2][]uint64 { return r.y[k] })
		z := open(additive, func(r *recorder) [2][]uint64 { return r.z[k] })
		for i := range z {
			if want := x[i] * y[i]; additive && z[i] != want || !additive && z[i] != x[i]&y[i] {
				t.Fatalf("product %d (additive %v), row %d: %x·%x is %x", k, additive, i, x[i], y[i], z[i])
			}
		}
	}
}

// A verification that fails stops the job before anything is opened.
func TestFailedVerificationStopsTheJob(t *testing.T) {
	p, d := small(2, 3, true)
	w := newTrio(t)
	outs, errs := w.runAll(t, p, dealAll(t, p, d), func(i int, cfg *Config) { cfg.Transcript = refuses{} })
	for i := range outs {
		if outs[i] != nil || errs[i] == nil {
			t.Errorf("node %d: %v, %v", i, outs[i], errs[i])
		}
	}
}

type refuses struct{}

func (refuses) Multiplied(bool, [2][]uint64, [2][]uint64, [2][]uint64) {}
func (refuses) Chosen(_, _ [][2][]uint64, _, _ [2][]uint64)            {}
func (refuses) Summed([][2][]uint64, [2][]uint64, [2][]uint64)         {}
func (refuses) Verify() error                                          { return errors.New("product 7 is wrong") }
