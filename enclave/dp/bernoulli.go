package dp

import (
	"math/big"
	"math/bits"
)

// Coins with probability exp(−γ), from uniform integers alone (CKS, Algorithm 1). For γ ≤ 1, toss coins of probability
// γ/1, γ/2, γ/3, … until the first that fails. That the first k−1 succeed has probability γ^(k−1)/(k−1)!, so the first to
// fail has an odd number with probability 1 − γ + γ²/2! − … = exp(−γ). A coin of probability num/(den·k) is
// Below(den·k) < num.

// expCoin is true with probability exp(−num/den) for num ≥ 0, den > 0: as many coins exp(−1) as fit below num/den, all of
// which must succeed, then one for the rest in (0, 1]. It stops at the first that fails, so its running time does not
// grow with num/den.
func (s *Stream) expCoin(num, den *big.Int) bool {
	rest := new(big.Int).Set(num)
	for rest.Cmp(den) > 0 {
		if !s.unitCoin64(1, 1) {
			return false
		}
		rest.Sub(rest, den)
	}
	return s.unitCoin(rest, den, 1)
}

// unitCoin is true with probability exp(−num/den) for 0 ≤ num ≤ den. All tosses before the k-th have succeeded.
func (s *Stream) unitCoin(num, den *big.Int, k uint64) bool {
	n := new(big.Int)
	for ; ; k++ {
		n.SetUint64(k)
		if s.Below(n.Mul(n, den)).Cmp(num) >= 0 {
			return k&1 == 1
		}
	}
}

// unitCoin64 is unitCoin on machine words, to the same bytes of the stream and the same result.
func (s *Stream) unitCoin64(num, den uint64) bool {
	for k := uint64(1); ; k++ {
		hi, n := bits.Mul64(den, k)
		if hi != 0 {
			return s.unitCoin(new(big.Int).SetUint64(num), new(big.Int).SetUint64(den), k)
		}
		if s.below64(n) >= num {
			return k&1 == 1
		}
	}
}

// successes counts the coins exp(−1) that succeed before the first that fails.
func (s *Stream) successes() uint64 {
	var v uint64
	for s.unitCoin64(1, 1) {
		v++
	}
	return v
}
