package dp

import (
	"math/big"
	"math/bits"
)

// Polya draws from the distribution of which two independent samples add up to a discrete Laplace sample of scale b, which
// is the difference of two geometric variables: a Polya sample is the difference of two negative binomial ones with half a
// success, P(k) ∝ C(2k,k)/4^k·e^{−k/b}, k ≥ 0 (Goryczka and Xiong, "A Comprehensive Comparison of Multiparty Secure
// Additions with Differential Privacy", IEEE TDSC 2017). Both are drawn alike, the one to be subtracted second. An attempt
// reads U = Below(Num); a coin exp(−U/Num), and if it fails, the next attempt; coins exp(−1) up to the first that fails, V
// of them successes; and with k = ⌊(U + Num·V)/Den⌋, which is geometric, numbers Below(2), Below(4), …, Below(2k) up to
// the first that is zero, in which case the next attempt follows: none is with probability C(2k,k)/4^k.
//
// It takes about b steps: LaplacePart keeps b small. It panics unless Num and Den are positive and below 2^64, and on a k
// beyond 2^62, which no scale that it is fit for can reach.
func Polya(s *Stream, b Scale) *big.Int {
	b.check()
	if !b.Num.IsUint64() || !b.Den.IsUint64() {
		panic("dp: Polya needs a scale of machine words")
	}
	x := half(s, b.Num.Uint64(), b.Den.Uint64())
	y := half(s, b.Num.Uint64(), b.Den.Uint64())
	return big.NewInt(x - y)
}

// half is a negative binomial variable of half a success.
func half(s *Stream, num, den uint64) int64 {
next:
	for {
		u := s.below64(num)
		if !s.unitCoin64(u, num) {
			continue
		}
		hi, lo := bits.Mul64(num, s.successes())
		lo, carry := bits.Add64(lo, u, 0)
		hi += carry
		if hi >= den {
			panic("dp: Polya sample beyond 64 bits")
		}
		k, _ := bits.Div64(hi, lo, den)
		if k >= 1<<62 {
			panic("dp: Polya sample beyond 62 bits")
		}
		for j := range k {
			if s.below64(2*j+2) == 0 {
				continue next
			}
		}
		return int64(k)
	}
}

// LaplacePart is the noise that each of several nodes adds to a shared value, so that the parts of any two make it ε
// differentially private: Grain times a Polya sample, and a number that is uniform on the Grain integers around zero.
//
// Grain is 1 where the scale m·Δ/ε, or m·Δ itself, is small, and the two parts then make the discrete Laplace sample of LaplaceScale. For
// a larger scale a multiple of Grain is as good. Let f be the value and Z one uniform part. The remainder of f + Z by Grain
// is uniform whatever f is, and given that remainder the rest is an integer that moves by ⌈d/Grain⌉ at most if f moves by
// d. An entity's m rows move at most m cells, by m·Δ in all, so the vector of these integers moves by m·Δ/Grain + m in L1,
// for which Scale is made. That a node knows its own Z does not help it: the other node's is as uniform.
type LaplacePart struct {
	Scale Scale
	Grain int64 // odd
}

// grains is the scale up to which Grain is 1, and which larger scales are brought down to. Rounding up costs a part in a
// thousand times ε of the deviation, and m·grains⁻¹ where an entity has many rows.
const grains = 1 << 10

// NewLaplacePart is the part for a measure: one entity has at most entityRows rows (m), each of which moves one cell by at
// most delta (Δ), and epsilonMicro is ε in millionths. It panics unless all three are positive.
func NewLaplacePart(entityRows, delta, epsilonMicro int64) LaplacePart {
	b := LaplaceScale(entityRows, delta, epsilonMicro)
	limit := new(big.Int).Mul(big.NewInt(grains), b.Den)
	if b.Num.Cmp(limit) <= 0 {
		return LaplacePart{Scale: b, Grain: 1}
	}
	total := new(big.Int).Mul(big.NewInt(entityRows), big.NewInt(delta))
	steps := new(big.Int).Mul(big.NewInt(grains), big.NewInt(epsilonMicro))
	steps.Quo(steps, big.NewInt(1_000_000)) // grains·ε
	if steps.Sign() == 0 {
		steps.SetInt64(1)
	}
	grain := ceilQuo(total, steps)
	grain.SetBit(grain, 0, 1)
	if grain.Cmp(one) == 0 {
		return LaplacePart{Scale: b, Grain: 1}
	}
	if grain.BitLen() > 62 {
		panic("dp: noise is wider than 62 bits")
	}
	moved := ceilQuo(total, grain)
	moved.Add(moved, big.NewInt(entityRows))
	if !moved.IsInt64() {
		panic("dp: too many rows for one entity")
	}
	return LaplacePart{Scale: LaplaceScale(1, moved.Int64(), epsilonMicro), Grain: grain.Int64()}
}

// Draw is one node's part: a Polya sample, then, if Grain is not 1, Symmetric((Grain+1)/2).
func (n LaplacePart) Draw(s *Stream) *big.Int {
	x := Polya(s, n.Scale)
	if n.Grain == 1 {
		return x
	}
	x.Mul(x, big.NewInt(n.Grain))
	return x.Add(x, s.Symmetric(big.NewInt(n.Grain/2+1)))
}

// Variance is that of the sum of so many parts.
func (n LaplacePart) Variance(parts int) float64 {
	g := float64(n.Grain)
	return float64(parts) * (g*g*LaplaceVariance(n.Scale)/2 + (g*g-1)/12)
}

// TailBound is a K with P(|S| > K) ≤ 2^−log2p for the sum S of three parts. A fourth would make S the sum of two Laplace
// samples, and adding independent symmetric noise at most halves P(|S| > K).
func (n LaplacePart) TailBound(log2p int) *big.Int {
	k := TailBound(n.Scale, 2, log2p+1)
	k.Mul(k, big.NewInt(n.Grain))
	return k.Add(k, big.NewInt(3*(n.Grain/2)))
}

// Margin is ⌈z·σ⌉, with z = marginMilli/1000 and σ a bound on the standard deviation of the sum of three parts from above:
// σ² ≤ 3·Grain²·(b² + 1/12), without the 1/12 if Grain is 1.
func (n LaplacePart) Margin(marginMilli int64) *big.Int {
	if marginMilli < 0 {
		panic("dp: negative margin")
	}
	num, den := new(big.Int).Mul(n.Scale.Num, n.Scale.Num), new(big.Int).Mul(n.Scale.Den, n.Scale.Den)
	num.Mul(num, big.NewInt(12))
	if n.Grain != 1 {
		num.Add(num, den)
	}
	den.Mul(den, big.NewInt(4_000_000)) // 3/12 of the square, and of the thousands
	z := new(big.Int).Mul(big.NewInt(marginMilli), big.NewInt(n.Grain))
	square := ceilQuo(num.Mul(num, z.Mul(z, z)), den)
	root := new(big.Int).Sqrt(square)
	if new(big.Int).Mul(root, root).Cmp(square) < 0 {
		root.Add(root, one)
	}
	return root
}
