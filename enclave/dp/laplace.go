package dp

import (
	"math/big"
	"math/bits"
)

// Scale is the parameter b = Num/Den > 0 of the discrete Laplace distribution, P(x) = (1−e^{−1/b})/(1+e^{−1/b})·e^{−|x|/b}
// over the integers, exact. Samples depend on the two numbers, not only on their ratio: LaplaceScale makes them in lowest
// terms, and whoever fills a Scale otherwise should too, or the same question gets fresh noise.
type Scale struct{ Num, Den *big.Int }

// LaplaceScale is b = m·Δ·10⁶/ε_micro in lowest terms: one entity has at most entityRows rows (m), each of which moves
// the result by at most delta encoded units (Δ), and epsilonMicro is ε in millionths. Under GROUP BY the same m·Δ bounds
// the L1 distance over all cells together, since a row falls into one cell. LaplaceScale panics unless all three are
// positive: a plan's parser refuses others, and a measure that no row can move needs no noise and no ε.
func LaplaceScale(entityRows, delta, epsilonMicro int64) Scale {
	if entityRows <= 0 || delta <= 0 || epsilonMicro <= 0 {
		panic("dp: LaplaceScale needs positive rows, sensitivity and ε")
	}
	num := new(big.Int).Mul(big.NewInt(entityRows), big.NewInt(delta))
	num.Mul(num, big.NewInt(1_000_000))
	den := big.NewInt(epsilonMicro)
	gcd := new(big.Int).GCD(nil, nil, num, den)
	return Scale{Num: num.Quo(num, gcd), Den: den.Quo(den, gcd)}
}

// Float is b for people.
func (b Scale) Float() float64 {
	f, _ := new(big.Rat).SetFrac(b.Num, b.Den).Float64()
	return f
}

// String writes b as "num/den".
func (b Scale) String() string { return b.Num.String() + "/" + b.Den.String() }

func (b Scale) check() {
	if b.Num == nil || b.Den == nil || b.Num.Sign() <= 0 || b.Den.Sign() <= 0 {
		panic("dp: scale is not a positive fraction")
	}
}

// Laplace draws from the discrete Laplace distribution of scale b, exactly (CKS, Algorithm 2 with t = Num, s = Den). One
// attempt reads, in this order: U = Below(Num); a coin exp(−U/Num), and if it fails, the next attempt; coins exp(−1) up
// to the first that fails, V of them successes; the sign, a Bool where true is minus. With Y = ⌊(U + Num·V)/Den⌋ the
// sample is ±Y, but minus zero is the next attempt. It panics unless b is positive.
func Laplace(s *Stream, b Scale) *big.Int {
	b.check()
	if b.Num.IsUint64() && b.Den.IsUint64() {
		return laplace64(s, b.Num.Uint64(), b.Den.Uint64())
	}
	for {
		u := s.Below(b.Num)
		if !s.unitCoin(u, b.Num, 1) {
			continue
		}
		if x := signed(s, magnitude(u, b.Num, b.Den, s.successes())); x != nil {
			return x
		}
	}
}

// laplace64 is Laplace on machine words, to the same bytes of the stream and the same result.
func laplace64(s *Stream, num, den uint64) *big.Int {
	for {
		u := s.below64(num)
		if !s.unitCoin64(u, num) {
			continue
		}
		v := s.successes()
		var y *big.Int
		hi, lo := bits.Mul64(num, v)
		lo, carry := bits.Add64(lo, u, 0)
		if hi|carry == 0 {
			y = new(big.Int).SetUint64(lo / den)
		} else {
			wide := func(x uint64) *big.Int { return new(big.Int).SetUint64(x) }
			y = magnitude(wide(u), wide(num), wide(den), v)
		}
		if x := signed(s, y); x != nil {
			return x
		}
	}
}

// magnitude is ⌊(u + num·v)/den⌋.
func magnitude(u, num, den *big.Int, v uint64) *big.Int {
	x := new(big.Int).SetUint64(v)
	x.Mul(x, num).Add(x, u)
	return x.Quo(x, den)
}

// signed draws the sign of y, and is nil for minus zero, which would count zero twice.
func signed(s *Stream, y *big.Int) *big.Int {
	if !s.Bool() {
		return y
	}
	if y.Sign() == 0 {
		return nil
	}
	return y.Neg(y)
}
