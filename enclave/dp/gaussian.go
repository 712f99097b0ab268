package dp

import "math/big"

// Gaussian draws from the discrete Gaussian distribution P(x) ∝ e^{−x²/2σ²} over the integers with σ² = num/den > 0,
// exactly (CKS, Algorithm 3): with t = ⌊σ⌋ + 1, a discrete Laplace sample y of scale t/1 is kept if a coin
// exp(−(|y| − σ²/t)²/2σ²) succeeds, else the next one is drawn. As with a Scale, the sample depends on num and den, so give
// them in lowest terms. It panics unless both are positive.
func Gaussian(s *Stream, num, den *big.Int) *big.Int {
	if num.Sign() <= 0 || den.Sign() <= 0 {
		panic("dp: variance is not a positive fraction")
	}
	t := new(big.Int).Quo(num, den)
	t.Sqrt(t).Add(t, one) // ⌊√⌊q⌋⌋ = ⌊√q⌋
	b := Scale{Num: t, Den: one}
	// In integers, the exponent is (|y|·t·den − num)² / (2·num·den·t²).
	td := new(big.Int).Mul(t, den)
	bottom := new(big.Int).Mul(td, t)
	bottom.Mul(bottom, num).Lsh(bottom, 1)
	top := new(big.Int)
	for {
		y := Laplace(s, b)
		top.Abs(y).Mul(top, td).Sub(top, num)
		if s.expCoin(top.Mul(top, top), bottom) {
			return y
		}
	}
}
