package dp

import (
	"math"
	"math/big"
)

// LaplaceVariance is the variance of one sample of scale b, 2e^{−1/b}/(1−e^{−1/b})².
func LaplaceVariance(b Scale) float64 {
	b.check()
	x := 1 / b.Float()
	d := math.Expm1(-x)
	return 2 * math.Exp(-x) / (d * d)
}

// LaplaceSumStdDev is the standard deviation of the sum of so many samples.
func LaplaceSumStdDev(b Scale, pieces int) float64 {
	return math.Sqrt(float64(pieces) * LaplaceVariance(b))
}

// MissProbability is the chance that a cell of fewer people than the cohort is shown all the same: at worst it misses one
// person, and is shown if the noise exceeds the margin (SuppressionMargin), so this is P(S > margin) for the sum S of
// pieces samples of scale b.
func MissProbability(b Scale, pieces int, margin *big.Int) float64 {
	b.check()
	m, _ := new(big.Float).SetInt(margin).Float64()
	return newSum(1/b.Float(), pieces).below(-m - 1) // P(S > m) = P(S < −m)
}

// sum is the distribution of the sum of k independent discrete Laplace samples, P(x) ∝ q^{|x|} with q = e^{−rate}.
//
// The sum is the difference of two negative binomial variables, whose probabilities are a Gauss hypergeometric series;
// Euler's and Pfaff's transformations make it a sum of k terms, all positive. With t = (1−q)/(1+q) and n ≥ 0,
//
//	P(n) = t·qⁿ · Σ_{j<k} C(k−1, j)·C(k+j−1, j)·(q/(1+q))^{2j} · Π_{m=j+1}^{k−1} t(n/m + 1)
//
// The tail sums term by term, again without cancellation. Each product pairs a factor t ≈ rate/2 with one of the size of
// n, so nothing overflows for any scale, as far out as a probability can be told from zero.
type sum struct {
	k       int
	rate    float64
	t, r, h float64   // (1−q)/(1+q), 1/(1+q), q/(1+q)
	c       []float64 // C(k−1, j)·C(k+j−1, j)·h^{2j}
}

// maxPieces keeps the coefficients within float64; C(9, 4) = 126 is the most for up to nine custodians.
const maxPieces = 128

func newSum(rate float64, k int) *sum {
	if k < 1 || k > maxPieces {
		panic("dp: a sum needs 1 to 128 pieces")
	}
	q := math.Exp(-rate)
	s := &sum{k: k, rate: rate, t: math.Tanh(rate / 2), r: 1 / (1 + q), h: q / (1 + q), c: make([]float64, k)}
	s.c[0] = 1
	for j := range k - 1 {
		s.c[j+1] = s.c[j] * s.h * s.h * float64((k-1-j)*(k+j)) / float64((j+1)*(j+1))
	}
	return s
}

// logAt is ln P(n).
func (s *sum) logAt(n float64) float64 {
	n = math.Abs(n)
	total, product := 0.0, 1.0
	for j := s.k - 1; j >= 0; j-- { // product runs over m = j+1..k−1
		total += s.c[j] * product
		product *= s.t * (n/float64(j) + 1) // unused at j = 0
	}
	return math.Log(s.t*total) - s.rate*n
}

// tail is P(S > n) for n ≥ 0.
func (s *sum) tail(n float64) float64 {
	total := 0.0
	for j := range s.k {
		d := s.k - 1 - j
		// j!/(k−1)! · Σ_{i≤d} d!/(d−i)!·hⁱ · Π_{m=j+i+2}^{k} t(n+m), from i = d outwards.
		inner, product := 1.0, 1.0
		for i := d - 1; i >= 0; i-- {
			m := float64(j + i + 1)
			product *= s.t * (n + m + 1) / m
			inner = product + float64(d-i)*s.h*inner/m
		}
		total += s.c[j] * inner
	}
	if !(total <= math.MaxFloat64) { // thousands of scales away
		return 0
	}
	return math.Exp(math.Log(s.r*total) - s.rate*(n+1))
}

// below is P(S ≤ n).
func (s *sum) below(n float64) float64 {
	if n < 0 {
		return s.tail(-n - 1)
	}
	return 1 - s.tail(n)
}
