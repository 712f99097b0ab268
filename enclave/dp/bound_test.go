package dp

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestLn2IsRoundedUp(t *testing.T) {
	partial := new(big.Rat) // ln 2 = Σ 1/(i·2^i); after 100 terms the rest is below 2^-100
	for i := int64(1); i <= 100; i++ {
		partial.Add(partial, new(big.Rat).SetFrac(one, new(big.Int).Lsh(big.NewInt(i), uint(i))))
	}
	partial.Add(partial, new(big.Rat).SetFrac(one, new(big.Int).Lsh(one, 100)))
	over := new(big.Rat).SetFrac(ln2Num, ln2Den)
	if over.Sub(over, partial).Sign() <= 0 || over.Cmp(big.NewRat(1, 1_000_000_000_000_000_000)) > 0 {
		t.Errorf("the fraction for ln 2 exceeds it by %s", over.FloatString(25))
	}
}

// twoSided is P(|S| > K).
func twoSided(b Scale, pieces int, k *big.Int) float64 { return 2 * MissProbability(b, pieces, k) }

func TestTailBoundHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := fraction(rapid.Int64Range(1, 1<<40).Draw(t, "num"), rapid.Int64Range(1, 1<<20).Draw(t, "den"))
		pieces, log2p := rapid.IntRange(1, 35).Draw(t, "pieces"), rapid.IntRange(0, 200).Draw(t, "log2p")
		k := TailBound(b, pieces, log2p)
		if p := twoSided(b, pieces, k); p > math.Exp2(-float64(log2p))*(1+1e-9) {
			t.Fatalf("P(|S| > %v) = %g for %d samples at %v, want at most 2^-%d", k, p, pieces, b, log2p)
		}
	})
}

func TestTailBoundIsClose(t *testing.T) {
	b := fraction(1_000_000, 1)
	for _, c := range []struct {
		pieces, log2p int
		factor        float64
	}{{1, 1, 2.01}, {1, 64, 1.02}, {3, 40, 1.17}, {3, 64, 1.12}, {3, 128, 1.07}, {10, 64, 1.13}, {35, 64, 1.17}} {
		k, _ := new(big.Float).SetInt(TailBound(b, c.pieces, c.log2p)).Float64()
		low, high := 0.0, k
		for high-low > 1 {
			if mid := math.Floor((low + high) / 2); 2*newSum(1/b.Float(), c.pieces).tail(mid) <= math.Exp2(-float64(c.log2p)) {
				high = mid
			} else {
				low = mid
			}
		}
		if k > c.factor*high {
			t.Errorf("%d pieces, 2^-%d: bound is %.3f times the least", c.pieces, c.log2p, k/high)
		}
	}
}

func TestTailBoundKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		b             Scale
		pieces, log2p int
		want          string
	}{
		{fraction(1, 1), 1, 0, "1"},     // ⌈ln 2⌉
		{fraction(10, 1), 1, 64, "451"}, // ⌈10·ln 2·65⌉
		{fraction(10, 1), 3, 64, "559"}, // ⌈10·ln 2·(65 + 3·3.5)·16/15⌉
		{fraction(1, 1000), 3, 64, "1"},
	} {
		if got := TailBound(c.b, c.pieces, c.log2p).String(); got != c.want {
			t.Errorf("TailBound(%v, %d, %d) = %s, want %s", c.b, c.pieces, c.log2p, got, c.want)
		}
	}
	mustPanic(t, "no pieces", func() { TailBound(fraction(1, 1), 0, 64) })
	mustPanic(t, "negative exponent", func() { TailBound(fraction(1, 1), 1, -1) })
}

func TestTailBoundHoldsForSamples(t *testing.T) {
	b := fraction(7, 2)
	for _, log2p := range []int{1, 4, 8} {
		k, s, over := TailBound(b, 3, log2p), testStream("tail", int64(log2p)), 0
		const draws = 20_000
		for range draws {
			if drawSum(s, b, 3).CmpAbs(k) > 0 {
				over++
			}
		}
		if float64(over) > draws*math.Exp2(-float64(log2p)) {
			t.Errorf("%d of %d sums exceed %v, the bound at 2^-%d", over, draws, k, log2p)
		}
	}
}

func drawSum(s *Stream, b Scale, pieces int) *big.Int {
	x := new(big.Int)
	for range pieces {
		x.Add(x, Laplace(s, b))
	}
	return x
}

func TestSuppressionMargin(t *testing.T) {
	for _, c := range []struct {
		b      Scale
		pieces int
		milli  int64
		want   int64
	}{
		{fraction(10, 1), 3, 2000, 49}, // 2·√600 = 48.99
		{fraction(10, 1), 2, 1000, 20}, // √400, exactly
		{fraction(10, 1), 2, 1001, 21}, // 20.02
		{fraction(1, 1), 1, 1, 1},      // 0.0014
		{fraction(20, 3), 3, 1645, 27}, // 1.645·√6·20/3 = 26.86
		{fraction(10, 1), 3, 0, 0},
	} {
		if got := SuppressionMargin(c.b, c.pieces, c.milli); got.Int64() != c.want {
			t.Errorf("SuppressionMargin(%v, %d, %d) = %v, want %d", c.b, c.pieces, c.milli, got, c.want)
		}
	}
	mustPanic(t, "negative margin", func() { SuppressionMargin(fraction(1, 1), 1, -1) })
	mustPanic(t, "no pieces", func() { SuppressionMargin(fraction(1, 1), 0, 1) })
}

func TestSuppressionMarginIsTheCeiling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := fraction(rapid.Int64Range(1, math.MaxInt64).Draw(t, "num"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "den"))
		pieces, milli := rapid.IntRange(1, 35).Draw(t, "pieces"), rapid.Int64Range(1, 10_000).Draw(t, "milli")
		got := SuppressionMargin(b, pieces, milli)
		// got − 1 < z·√(2k)·b ≤ got, squared and in whole numbers.
		bound := new(big.Rat).SetFrac(b.Num, b.Den)
		bound.Mul(bound, big.NewRat(milli, 1000))
		bound.Mul(bound, bound).Mul(bound, big.NewRat(2*int64(pieces), 1))
		square := func(x *big.Int) *big.Rat { return new(big.Rat).SetInt(new(big.Int).Mul(x, x)) }
		if square(got).Cmp(bound) < 0 || square(new(big.Int).Sub(got, one)).Cmp(bound) >= 0 {
			t.Fatalf("SuppressionMargin(%v, %d, %d) = %v is not the ceiling", b, pieces, milli, got)
		}
		m, _ := new(big.Float).SetInt(got).Float64()
		if sigma := LaplaceSumStdDev(b, pieces); m < float64(milli)/1000*sigma*(1-1e-12) {
			t.Fatalf("margin %v is less than %d/1000 of σ = %g", got, milli, sigma)
		}
	})
}
