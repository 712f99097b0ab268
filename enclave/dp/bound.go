package dp

import (
	"math/big"
	"math/bits"
)

// Bounds that decide: whether a plan's sums and noise fit the plaintext space, and which cells are shown. Integers and
// fractions rounded up, so that every custodian on every machine concludes the same.

// ln 2 = 0.693147180559945309417…, rounded up.
var (
	ln2Num = big.NewInt(693_147_180_559_945_310)
	ln2Den = big.NewInt(1_000_000_000_000_000_000)
)

// TailBound is a K with P(|S| > K) ≤ 2^−log2p, where S is the sum of pieces independent samples of scale b. It is the
// smaller of two bounds, and at 2^−64 within a fifth of the least such K:
//
//   - Union. P(|X| > x) ≤ 2e^{−x/b} for one sample, so K = k·⌈b·ln 2·(log2p + 1 + ⌈log2 k⌉)⌉.
//   - Chernoff. P(|S| > K) ≤ 2e^{−uK/b}(1−u²)^{−k} for 0 < u < 1, as 1/(1−u²) is the moment generating function of the
//     continuous Laplace distribution at u/b, which is the discrete one plus independent symmetric noise (see
//     OperatorEpsilon). At u = 1−2^{−j}, 1−u² ≥ 2^{½−j}, and K = ⌈b·ln 2·(log2p + 1 + k(j−½))·2^j/(2^j−1)⌉ suffices.
//
// It panics unless b and pieces are positive and log2p is not negative.
func TailBound(b Scale, pieces, log2p int) *big.Int {
	b.check()
	if pieces < 1 || log2p < 0 {
		panic("dp: TailBound needs at least one piece and a probability of at most 1")
	}
	k, n := int64(pieces), int64(log2p)+1
	best := ceilNepers(b, big.NewInt(n+int64(bits.Len(uint(pieces-1)))), one)
	best.Mul(best, big.NewInt(k))
	for j := uint(1); j <= 16; j++ {
		halves := new(big.Int).Lsh(big.NewInt(2*n+k*(2*int64(j)-1)), j)
		if x := ceilNepers(b, halves, big.NewInt(2*(int64(1)<<j-1))); x.Cmp(best) < 0 {
			best = x
		}
	}
	return best
}

// ceilNepers is ⌈b·ln 2·num/den⌉.
func ceilNepers(b Scale, num, den *big.Int) *big.Int {
	top := new(big.Int).Mul(b.Num, num)
	bottom := new(big.Int).Mul(b.Den, den)
	return ceilQuo(top.Mul(top, ln2Num), bottom.Mul(bottom, ln2Den))
}

// SuppressionMargin is ⌈z·σ⌉, with z = marginMilli/1000 and σ the standard deviation of the sum of pieces samples of
// scale b, bounded from above by √(2·pieces)·b. A cell is shown only if its noised count reaches the cohort plus this
// margin. It panics unless b and pieces are positive and marginMilli is not negative.
func SuppressionMargin(b Scale, pieces int, marginMilli int64) *big.Int {
	b.check()
	if pieces < 1 || marginMilli < 0 {
		panic("dp: SuppressionMargin needs at least one piece and no negative margin")
	}
	top := new(big.Int).Mul(big.NewInt(marginMilli), b.Num)
	top.Mul(top, top).Mul(top, big.NewInt(2*int64(pieces)))
	bottom := new(big.Int).Mul(big.NewInt(1000), b.Den)
	square := ceilQuo(top, bottom.Mul(bottom, bottom))
	root := new(big.Int).Sqrt(square) // ⌈√q⌉ = ⌈√⌈q⌉⌉
	if new(big.Int).Mul(root, root).Cmp(square) < 0 {
		root.Add(root, one)
	}
	return root
}

// ceilQuo is ⌈a/b⌉ for a ≥ 0, b > 0.
func ceilQuo(a, b *big.Int) *big.Int {
	q, r := new(big.Int).QuoRem(a, b, new(big.Int))
	if r.Sign() > 0 {
		q.Add(q, one)
	}
	return q
}
