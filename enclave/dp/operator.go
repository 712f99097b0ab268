package dp

import "math"

// OperatorEpsilon is what the sum of pieces samples, each calibrated to epsilon, is worth against someone who sees the sum
// only: the least ε' ≤ epsilon for which it is (ε', delta) differentially private. The figure holds for every sensitivity
// and every spread of an entity's rows over cells, because it is computed for the worst of them, all of it in one cell
// and Δ·m = 1:
//
//   - One step of size 1 is worse than s steps of 1/s. With X discrete Laplace on the integers at rate ε, X + U is discrete
//     Laplace at rate ε on the multiples of 1/s, for an independent U on (−1, 1) with P(u) ∝ sinh(ε(1−|u|)): add up two
//     neighbouring terms. So a finer sum is the coarse one with more noise. (The limit s → ∞, the continuous Laplace
//     distribution, is what a formula by density would give, and is too good for a count by a few per cent.)
//   - One cell is worse than several. The sum is log-concave, hence threshold tests are best for any two shifts of it, and
//     testing 0 against s₁ and then s₁ against s₁+s₂ loses nothing in one cell. In two cells the same two tests in a row
//     are one possible attack path, so the trade-off there is at least as good (Dong, Roth and Su, "Gaussian Differential
//     Privacy", JRSS B 2022, on group privacy).
//
// At one piece this is ln(e^ε − δ(1+e^ε)), the least that pure ε implies (Kairouz, Oh and Viswanath, "The Composition
// Theorem for Differential Privacy", ICML 2015). OperatorEpsilon is epsilon itself where delta is not positive, and
// panics unless epsilon and pieces are positive.
func OperatorEpsilon(epsilon float64, pieces int, delta float64) float64 {
	if !(epsilon > 0) {
		panic("dp: ε must be positive")
	}
	s := newSum(epsilon, pieces)
	if !(delta > 0) {
		return epsilon
	}
	if s.hockeyStick(1, 0) <= delta {
		return 0
	}
	low, high := 0.0, epsilon
	for range 60 {
		mid := (low + high) / 2
		if s.hockeyStick(1, mid) <= delta {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// OperatorEpsilonTotal is OperatorEpsilon for several measures of the same rows, each with its own epsilon and noise, by
// basic composition: the ε' add up at an equal part of delta each.
func OperatorEpsilonTotal(epsilons []float64, pieces int, delta float64) float64 {
	total := 0.0
	for _, e := range epsilons {
		total += OperatorEpsilon(e, pieces, delta/float64(len(epsilons)))
	}
	return total
}

// hockeyStick is the least δ at which the sum and the sum moved by shift > 0 are (e, δ) indistinguishable, rounded up:
// the sup over events A of P(S ∈ A) − e^e·P(S + shift ∈ A). P(n)/P(n−shift) never rises with n because the sum is
// log-concave, so the best event is S ≤ n at the last n where that ratio still exceeds e^e.
func (s *sum) hockeyStick(shift, e float64) float64 {
	exceeds := func(n float64) bool { return s.logAt(n)-s.logAt(n-shift) > e }
	// From shift/2 up the ratio is at most 1. What lies below the lower end has a probability under 10^-300.
	low, high := -math.Ceil((700+10*float64(s.k))/s.rate), math.Ceil(shift/2)
	if !exceeds(low) {
		return 0
	}
	for high-low > 1 {
		if mid := math.Floor((low + high) / 2); exceeds(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	p := s.below(low)
	const slack = 1e-12 // relative error of below and logAt, with room
	return max(0, p-math.Exp(e)*s.below(low-shift)) + slack*p
}
