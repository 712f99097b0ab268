package dp

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

const knownPolya = "243 -143 -128 -198 9 -20 10 -686 6765185202670 12176858910117 5841754267682 -2518695634800 "

// polya of the reference implementation: by the definition of C(2k,k)/4^k as a product of rationals, one coin for each.
func (r *reference) polya(b Scale) *big.Int {
	draw := func() *big.Int {
	next:
		for {
			u := r.uniform(b.Num)
			if !r.unit(u, b.Num) {
				continue
			}
			v := new(big.Int)
			for r.unit(one, one) {
				v.Add(v, one)
			}
			k := v.Mul(v, b.Num).Add(v, u)
			k.Quo(k, b.Den)
			for j := big.NewInt(1); j.Cmp(k) <= 0; j.Add(j, one) {
				if r.uniform(new(big.Int).Lsh(j, 1)).Sign() == 0 {
					continue next
				}
			}
			return k
		}
	}
	x := draw()
	return x.Sub(x, draw())
}

func TestPolyaAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := fraction(rapid.Int64Range(1, 1<<20).Draw(t, "num"), rapid.Int64Range(1, 1<<20).Draw(t, "den"))
		key := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "key")
		if b.Float() > 5000 {
			t.Skip("slow by design")
		}
		s, r := NewStream(key), newReference(key)
		for range 3 {
			if got, want := Polya(s, b), r.polya(b); got.Cmp(want) != 0 {
				t.Fatalf("Polya at %v is %v, want %v", b, got, want)
			}
		}
	})
}

// Kept, as in TestKnownAnswers: a change would give old questions fresh noise.
func TestPolyaKnownAnswers(t *testing.T) {
	s := NewStream([]byte("yingzhou"), []byte("noise"), []byte{1, 2, 3})
	got := ""
	for range 8 {
		got += fmt.Sprint(Polya(s, fraction(200, 1)), " ")
	}
	for range 4 {
		got += fmt.Sprint(NewLaplacePart(3, 1<<40, 500_000).Draw(s), " ")
	}
	if want := knownPolya; got != want {
		t.Errorf("samples %q, want %q", got, want)
	}
}

func polyaAt(b float64) func(x float64) float64 {
	q := math.Exp(-1 / b)
	nb := func(k int) float64 { // C(2k,k)/4^k·q^k·√(1−q)
		p := math.Sqrt(1 - q)
		for j := 1; j <= k; j++ {
			p *= q * (1 - 1/(2*float64(j)))
		}
		return p
	}
	reach := int(40*b) + 40
	table := make([]float64, reach)
	for k := range table {
		table[k] = nb(k)
	}
	return func(x float64) float64 {
		d := int(math.Abs(x))
		total := 0.0
		for k := 0; k+d < reach; k++ {
			total += table[k] * table[k+d]
		}
		return total
	}
}

func TestPolyaFollowsItsDistribution(t *testing.T) {
	for i, b := range []Scale{fraction(1, 5), fraction(1, 1), fraction(5, 2), fraction(20, 1)} {
		t.Run(b.String(), func(t *testing.T) {
			s := testStream("polya", int64(i))
			checkFit(t, 40_000, func() *big.Int { return Polya(s, b) }, polyaAt(b.Float()))
		})
	}
}

// Two parts are one Laplace sample: what the guarantee rests on.
func TestTwoPartsAreLaplace(t *testing.T) {
	for i, b := range []Scale{fraction(1, 3), fraction(2, 1), fraction(30, 1)} {
		t.Run(b.String(), func(t *testing.T) {
			x, y := testStream("first", int64(i)), testStream("second", int64(i))
			draw := func() *big.Int { return new(big.Int).Add(Polya(x, b), Polya(y, b)) }
			checkFit(t, 40_000, draw, laplaceAt(b.Float()))
		})
	}
}

// With a grain, two values that differ by d must be within e^ε of each other whatever is seen: for a known uniform part of
// one node, the other's decides the remainder, and the quotient moves by ⌈d/grain⌉ at most.
func TestGrainKeepsTheRatio(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := 2*rapid.Int64Range(1, 50).Draw(t, "half grain") + 1
		f := rapid.Int64Range(-1000, 1000).Draw(t, "value")
		d := rapid.Int64Range(0, 500).Draw(t, "difference")
		seen := map[int64][2]int64{} // by remainder: the quotients
		for side, v := range []int64{f, f + d} {
			for z := -g / 2; z <= g/2; z++ {
				r := ((v+z)%g + g) % g
				q := seen[r]
				q[side] = (v + z - r) / g
				seen[r] = q
			}
		}
		if int64(len(seen)) != g {
			t.Fatalf("%d remainders of %d", len(seen), g)
		}
		for r, q := range seen {
			if moved := q[1] - q[0]; moved < 0 || moved > (d+g-1)/g {
				t.Fatalf("remainder %d moves by %d for a difference of %d at grain %d", r, moved, d, g)
			}
		}
	})
}

func TestLaplacePart(t *testing.T) {
	for _, c := range []struct {
		rows, delta, epsilon int64
		scale                string
		grain                int64
	}{
		{1, 1, 1_000_000, "1/1", 1},
		{2, 5, 100_000, "100/1", 1},
		{1, 1 << 20, 1_000_000, "1025/1", 1025},        // 1024 steps of 1025 and one for the row
		{4, 1 << 20, 500_000, "1032/1", 8193},          // 512 + 4 at ε = ½
		{1, 1 << 20, 1, "2000000/1", 1<<20 + 1},        // one step, but ε is tiny
		{1, 1, 1, "1000000/1", 1},                      // less than a step
		{1, math.MaxInt64 / 4, 1_000_000, "1025/1", 0}, // any grain
	} {
		n := NewLaplacePart(c.rows, c.delta, c.epsilon)
		if got := n.Scale.String(); c.grain != 0 && got != c.scale || c.grain != 0 && n.Grain != c.grain {
			t.Errorf("m = %d, Δ = %d, ε = %d·10⁻⁶: %s at grain %d, want %s at %d", c.rows, c.delta, c.epsilon, got, n.Grain, c.scale, c.grain)
		}
		if n.Grain%2 != 1 {
			t.Errorf("grain %d is even", n.Grain)
		}
	}
}

func TestPartMoments(t *testing.T) {
	draws := 3000
	if testing.Short() {
		draws = 300
	}
	for i, n := range []LaplacePart{NewLaplacePart(1, 1, 50_000), NewLaplacePart(2, 1<<30, 900_000), {fraction(3, 1), 101}} {
		s := testStream("part", int64(i))
		sigma := math.Sqrt(n.Variance(3))
		mean, second, _ := moments(draws, sigma, func() *big.Int {
			x := new(big.Int)
			for range 3 {
				x.Add(x, n.Draw(s))
			}
			return x
		})
		if root := math.Sqrt(float64(draws)); math.Abs(mean) > 4/root || math.Abs(second-1) > 4*math.Sqrt(8)/root {
			t.Errorf("part %d: mean %.3f σ, second moment %.3f σ²", i, mean, second)
		}
		margin, _ := new(big.Float).SetInt(n.Margin(1000)).Float64()
		if margin < sigma || margin > 1.1*sigma+1 {
			t.Errorf("part %d: margin of one σ is %v, σ is %v", i, margin, sigma)
		}
		if tail, _ := new(big.Float).SetInt(n.TailBound(64)).Float64(); tail < 20*sigma || tail > 70*sigma {
			t.Errorf("part %d: tail bound %v at σ = %v", i, tail, sigma)
		}
	}
	mustPanic(t, "wide scale", func() { Polya(testStream("x", 0), Scale{new(big.Int).Lsh(one, 70), one}) })
}

func BenchmarkPolya(b *testing.B) {
	for _, scale := range []Scale{fraction(1, 1), fraction(20, 1), fraction(1024, 1)} {
		b.Run(scale.String(), func(b *testing.B) {
			s := testStream("bench", 0)
			b.ReportAllocs()
			for b.Loop() {
				Polya(s, scale)
			}
		})
	}
}
