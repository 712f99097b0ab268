package dp

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestOperatorEpsilonOfOnePiece(t *testing.T) {
	for _, eps := range []float64{0.01, 0.1, 0.5, 1, 3} {
		for _, delta := range []float64{1e-3, 1e-6, 1e-9} {
			want := math.Log(math.Exp(eps) - delta*(1+math.Exp(eps)))
			if got := OperatorEpsilon(eps, 1, delta); math.Abs(got-want) > 1e-10 {
				t.Errorf("ε = %v, δ = %v: %v, want %v", eps, delta, got, want)
			}
			// The continuous distribution has 1 − e^{(ε'−ε)/2} = δ (Balle and Wang 2018, on the Laplace mechanism).
			if got, want := newSum(eps/(1<<30), 1).hockeyStick(1<<30, eps+2*math.Log1p(-delta)), delta; math.Abs(got-want) > 1e-11 {
				t.Errorf("ε = %v: continuous limit has δ = %v, want %v", eps, got, want)
			}
		}
	}
}

func TestOperatorEpsilonIsMonotone(t *testing.T) {
	for _, eps := range []float64{0.001, 0.05, 0.5, 1, 2, 8} {
		for _, delta := range []float64{1e-3, 1e-6, 1e-9, 1e-12} {
			before := eps
			for _, k := range []int{1, 2, 3, 6, 10, 35} {
				got := OperatorEpsilon(eps, k, delta)
				if got < 0 || got > before {
					t.Errorf("ε = %v, δ = %v: %d pieces give %v, fewer gave %v", eps, delta, k, got, before)
				}
				if smaller := OperatorEpsilon(eps, k, delta/10); smaller < got {
					t.Errorf("ε = %v, %d pieces: %v at δ = %v, %v at a tenth of it", eps, k, got, delta, smaller)
				}
				before = got
			}
		}
	}
	for _, k := range []int{1, 3} {
		if got := OperatorEpsilon(0.7, k, 0); got != 0.7 {
			t.Errorf("%d pieces at δ = 0 give %v", k, got)
		}
	}
	if got := OperatorEpsilon(0.01, 10, 0.1); got != 0 {
		t.Errorf("hardly any signal and a large δ give %v", got)
	}
	mustPanic(t, "no ε", func() { OperatorEpsilon(0, 3, 1e-6) })
	mustPanic(t, "ε is not a number", func() { OperatorEpsilon(math.NaN(), 3, 1e-6) })
}

func TestOperatorEpsilonTotal(t *testing.T) {
	got := OperatorEpsilonTotal([]float64{0.5, 0.25}, 3, 2e-9)
	want := OperatorEpsilon(0.5, 3, 1e-9) + OperatorEpsilon(0.25, 3, 1e-9)
	if got != want || OperatorEpsilonTotal(nil, 3, 1e-9) != 0 {
		t.Errorf("total is %v, want %v", got, want)
	}
}

// bruteDelta adds up max(0, P(n) − e^e·P(n−shift)) over all n that matter.
func bruteDelta(s *sum, shift, e float64) float64 {
	delta := 0.0
	reach := math.Ceil(60/s.rate) + shift
	for n := -reach; n <= reach; n++ {
		delta += max(0, math.Exp(s.logAt(n))-math.Exp(e+s.logAt(n-shift)))
	}
	return delta
}

func TestHockeyStick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps := rapid.Float64Range(0.05, 4).Draw(t, "ε")
		k, shift := rapid.IntRange(1, 10).Draw(t, "pieces"), float64(rapid.IntRange(1, 6).Draw(t, "shift"))
		e := eps * rapid.Float64Range(0, 1).Draw(t, "part")
		s := newSum(eps/shift, k)
		got, want := s.hockeyStick(shift, e), bruteDelta(s, shift, e)
		if got < want-1e-15 || got > want+3e-12 {
			t.Fatalf("ε = %v, %d pieces, shift %v: δ(%v) = %v, want %v", eps, k, shift, e, got, want)
		}
	})
}

// The first step of the argument in OperatorEpsilon: finer steps are never worse, down to the continuous limit.
func TestUnitSensitivityIsTheWorst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps, k := rapid.Float64Range(0.01, 5).Draw(t, "ε"), rapid.IntRange(1, 10).Draw(t, "pieces")
		e := eps * rapid.Float64Range(0, 0.999).Draw(t, "part")
		unit := newSum(eps, k).hockeyStick(1, e)
		for _, shift := range []float64{2, 3, 10, 1000, 1 << 30} {
			if fine := newSum(eps/shift, k).hockeyStick(shift, e); fine > unit*(1+1e-9)+3e-12 {
				t.Fatalf("ε = %v, %d pieces: δ(%v) = %v at shift %v, %v at 1", eps, k, e, fine, shift, unit)
			}
		}
	})
}

// And its identity: discrete Laplace on the integers plus U is discrete Laplace on the multiples of 1/s.
func TestFinerNoiseIsCoarserNoisePlusMore(t *testing.T) {
	const eps, steps = 0.8, 5
	kernel, total := func(u float64) float64 { return max(0, math.Sinh(eps*(1-math.Abs(u)))) }, 0.0
	for u := -steps; u <= steps; u++ {
		total += kernel(float64(u) / steps)
	}
	for x := -4 * steps; x <= 4*steps; x++ {
		got := 0.0
		for n := -6; n <= 6; n++ {
			got += laplaceAt(1/eps)(float64(n)) * kernel(float64(x)/steps-float64(n)) / total
		}
		if want := laplaceAt(steps / eps)(float64(x)); !near(got, want, 1e-12) {
			t.Errorf("P(%d/%d) = %v, want %v", x, steps, got, want)
		}
	}
}

// The second step: an entity's rows in two cells are never worse than all of them in one.
func TestOneCellIsTheWorst(t *testing.T) {
	for _, k := range []int{1, 2, 3} {
		for _, split := range [][2]float64{{1, 1}, {1, 3}, {2, 2}} {
			const rate, reach = 0.5, 48
			s := newSum(rate, k)
			table := map[float64]float64{}
			for x := -2.0 * reach; x <= reach; x++ {
				table[x] = math.Exp(s.logAt(x))
			}
			p := func(x float64) float64 { return table[x] }
			for _, e := range []float64{0, 0.3, 0.6, 0.9} {
				two := 0.0
				for x := -reach; x <= reach; x++ {
					for y := -reach; y <= reach; y++ {
						here := p(float64(x)) * p(float64(y))
						two += max(0, here-math.Exp(e)*p(float64(x)-split[0])*p(float64(y)-split[1]))
					}
				}
				if one := s.hockeyStick(split[0]+split[1], e); two > one+1e-12 {
					t.Errorf("%d pieces, rows %v: δ(%v) = %v in two cells, %v in one", k, split, e, two, one)
				}
			}
		}
	}
}
