package dp

import (
	"fmt"
	"math"
	"math/big"
	"testing"
)

func near(got, want, relative float64) bool { return math.Abs(got-want) <= relative*math.Abs(want) }

// convolved is the distribution of a sum on −reach..reach by adding one sample after the other.
func convolved(rate float64, k, reach int) []float64 {
	single := make([]float64, 2*reach+1)
	for i := range single {
		single[i] = laplaceAt(1 / rate)(float64(i - reach))
	}
	p := single
	for range k - 1 {
		next := make([]float64, len(single))
		for i := range next {
			for x := max(-reach, i-2*reach); x <= min(reach, i); x++ {
				next[i] += p[x+reach] * single[i-x]
			}
		}
		p = next
	}
	return p
}

func TestSumIsTheConvolution(t *testing.T) {
	for _, rate := range []float64{0.2, 1, 3} {
		for k := 1; k <= 5; k++ {
			s, reach := newSum(rate, k), int(120/rate)
			p := convolved(rate, k, reach)
			tail := 0.0
			for n := reach; n >= 0; n-- {
				if n > reach/2 { // the truncation shows
					tail += p[n+reach]
					continue
				}
				x := float64(n)
				if got := math.Exp(s.logAt(x)); !near(got, p[n+reach], 1e-9) {
					t.Errorf("rate %v, %d samples: P(%d) = %g, want %g", rate, k, n, got, p[n+reach])
				}
				if got := s.tail(x); n < reach/4 && !near(got, tail, 1e-9) {
					t.Errorf("rate %v, %d samples: P(> %d) = %g, want %g", rate, k, n, got, tail)
				}
				tail += p[n+reach]
			}
		}
	}
}

func TestSumsAddUpToOne(t *testing.T) {
	for _, rate := range []float64{1e-21, 1e-6, 0.1, 1, 10} {
		for _, k := range []int{1, 2, 3, 10, 35, 126} {
			s := newSum(rate, k)
			if total := math.Exp(s.logAt(0)) + 2*s.tail(0); !near(total, 1, 1e-11) {
				t.Errorf("rate %v, %d samples: probabilities add up to %v", rate, k, total)
			}
			for _, n := range []float64{3, 0.5 / rate, 20 / rate, 1e3 / rate} {
				n = math.Floor(n)
				if n+1 == n { // beyond 2^53 neighbours are one number
					continue
				}
				if fall, p := s.tail(n)-s.tail(n+1), math.Exp(s.logAt(n+1)); rate >= 0.1 && math.Abs(fall-p) > 1e-12 {
					t.Errorf("rate %v, %d samples: tail falls by %g at %v, P = %g", rate, k, fall, n+1, p)
				}
			}
			if p := s.tail(1e12 / rate); p != 0 {
				t.Errorf("rate %v, %d samples: far tail is %g", rate, k, p)
			}
		}
	}
}

// continuous is P(X > x) and the density at x ≥ 0 for the sum of k continuous Laplace variables of scale 1 (Kotz,
// Kozubowski and Podgórski, "The Laplace Distribution and Generalizations", 2001, section 2.3):
//
//	f(x) = e^{−x}/((k−1)!·2^{2k−1}) · Σ_{j<k} (2k−2−j)!/(j!(k−1−j)!)·(2x)^j
func continuous(k int, x float64) (tail, density float64) {
	factorial := func(n int) float64 { return math.Gamma(float64(n + 1)) }
	for j := range k {
		c := factorial(2*k-2-j) / (factorial(j) * factorial(k-1-j) * factorial(k-1) * math.Exp2(float64(2*k-1-j)))
		density += c * math.Pow(x, float64(j)) * math.Exp(-x)
		for i := range j + 1 { // ∫_x^∞ u^j e^{−u} du = j!·e^{−x}·Σ_{i≤j} x^i/i!
			tail += c * factorial(j) * math.Exp(-x) * math.Pow(x, float64(i)) / factorial(i)
		}
	}
	return tail, density
}

func TestWideSumsAreContinuous(t *testing.T) {
	for _, bits := range []float64{30, 50, 70} {
		b := math.Exp2(bits)
		for _, k := range []int{1, 2, 3, 6, 10} {
			s := newSum(1/b, k)
			for _, x := range []float64{0, 0.25, 1, 7, 40, 300} {
				tail, density := continuous(k, x)
				if got := s.tail(x * b); !near(got, tail, 1e-8) {
					t.Errorf("b = 2^%v, %d samples: P(> %v·b) = %g, want %g", bits, k, x, got, tail)
				}
				if got := b * math.Exp(s.logAt(x*b)); !near(got, density, 1e-8) {
					t.Errorf("b = 2^%v, %d samples: density at %v·b is %g, want %g", bits, k, x, got, density)
				}
			}
		}
	}
}

func TestSumsFollowTheirDistribution(t *testing.T) {
	for _, k := range []int{2, 3, 10} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			b := fraction(9, 4)
			s, dist := testStream("sums", int64(k)), newSum(1/b.Float(), k)
			checkFit(t, 40_000, func() *big.Int { return drawSum(s, b, k) },
				func(x float64) float64 { return math.Exp(dist.logAt(x)) })
		})
	}
}

func TestLaplaceVariance(t *testing.T) {
	for _, c := range []struct {
		b    Scale
		want float64
	}{
		{fraction(1, 1), 2 / math.E / math.Pow(1-1/math.E, 2)},
		{fraction(1<<40, 1), 2 * math.Exp2(80)},
		{Scale{new(big.Int).Lsh(one, 200), one}, 2 * math.Exp2(400)},
		{fraction(1, 100), 2 * math.Exp(-100)},
		{fraction(1, 600), 2 * math.Exp(-600)},
		{fraction(1, 10_000), 0}, // e^−10000
	} {
		if got := LaplaceVariance(c.b); !near(got, c.want, 1e-12) {
			t.Errorf("variance at b = %v is %v, want %v", c.b, got, c.want)
		}
	}
	if got := LaplaceSumStdDev(fraction(1<<20, 1), 8); !near(got, 4<<20, 1e-9) {
		t.Errorf("standard deviation of eight samples is %v", got)
	}
}

func TestMissProbability(t *testing.T) {
	b := fraction(10, 1)
	for _, m := range []float64{0, 1, 30, 500} { // one piece: e^{−(m+1)/b}/(1+e^{−1/b})
		want := math.Exp(-(m+1)/10) / (1 + math.Exp(-0.1))
		if got := MissProbability(b, 1, big.NewInt(int64(m))); !near(got, want, 1e-12) {
			t.Errorf("margin %v: %v, want %v", m, got, want)
		}
	}
	if above, most := MissProbability(b, 3, big.NewInt(20)), MissProbability(b, 3, big.NewInt(-21)); !near(above+most, 1, 1e-12) {
		t.Errorf("P(S > 20) + P(S > −21) = %v", above+most)
	}
	margin := SuppressionMargin(b, 3, 2000)
	s, over := testStream("miss", 0), 0
	const draws = 20_000
	for range draws {
		if drawSum(s, b, 3).Cmp(margin) > 0 {
			over++
		}
	}
	p := MissProbability(b, 3, margin)
	if got := float64(over) / draws; math.Abs(got-p) > 4*math.Sqrt(p/draws) {
		t.Errorf("noise exceeds the margin with frequency %v, stated %v", got, p)
	}
	mustPanic(t, "no pieces", func() { MissProbability(b, 0, margin) })
	mustPanic(t, "too many pieces", func() { MissProbability(b, maxPieces+1, margin) })
}
