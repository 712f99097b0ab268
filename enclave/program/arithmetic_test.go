package program_test

import (
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"yingzhou.dev/lab/enclave/program"
)

// Derivatives are those of central differences, for a formula with every operation.
func TestDerivatives(t *testing.T) {
	formula := func(a, b, c program.Number) program.Number {
		return a.Times(b).Minus(c.Over(a)).Plus(a.Times(a).Plus(b.Times(c)).Root()).Over(b.Plus(c).Root())
	}
	f := func(a, b, c float64) float64 { return (a*b - c/a + math.Sqrt(a*a+b*c)) / math.Sqrt(b+c) }
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) int64 { return rapid.Int64Range(1000, 1_000_000).Draw(rt, name) }
		a, b, c := draw("a"), draw("b"), draw("c")
		v, d := formula(program.Variable(a, 0), program.Variable(b, 2), program.Variable(c, 1)).Float(3)
		x, y, z := float64(a), float64(b), float64(c)
		const h = 1e-4
		want := []float64{
			(f(x*(1+h), y, z) - f(x*(1-h), y, z)) / (2 * h * x),
			(f(x, y, z*(1+h)) - f(x, y, z*(1-h))) / (2 * h * z),
			(f(x, y*(1+h), z) - f(x, y*(1-h), z)) / (2 * h * y),
		}
		size := math.Abs(f(x, y, z)) / math.Min(x, math.Min(y, z))
		for i := range want {
			if math.Abs(d[i]-want[i]) > 1e-5*(math.Abs(want[i])+size) {
				rt.Errorf("derivative %d at (%v, %v, %v) is %v, want about %v", i, x, y, z, d[i], want[i])
			}
		}
		if math.Abs(v-f(x, y, z)) > 1e-9*math.Abs(v) {
			rt.Errorf("value is %v, want %v", v, f(x, y, z))
		}
	})
}

func TestDigits(t *testing.T) {
	for _, c := range []struct {
		v, variance  float64
		most         int
		text, stderr string
	}{
		{1234.5678, 0, 2, "1234.57", "0"},
		{1234.5678, 0.25, 4, "1234.57", "0.50"},
		{1234.5678, 0.25, 1, "1234.6", "0.50"},
		{1234.5678, 100, 4, "1235", "10"},
		{1234.5678, 99.8001, 4, "1235", "10"}, // 9.99 has two digits as 10, not as 10.0
		{1234.5678, 1e4, 4, "1230", "100"},
		{1250, 4e6, 4, "1300", "2000"},
		{-1250, 4e6, 4, "-1300", "2000"},
		{-40, 4e6, 4, "0", "2000"},
		{-0.004, 0.01, 4, "0.00", "0.10"},
		{0.5, 0, 0, "1", "0"},
		{-0.5, 0, 0, "-1", "0"},
		{-0.4, 0, 0, "0", "0"},
		{0, 0, 3, "0.000", "0"},
		{3e-9, 1e-20, 12, "0.00000000300", "0.00000000010"},
	} {
		got := program.Write(big.NewFloat(c.v), big.NewFloat(c.variance), c.most)
		if got.Text != c.text || got.StdErr != c.stderr {
			t.Errorf("%v with variance %v, at most %d decimals: %q ± %q, want %q ± %q", c.v, c.variance, c.most, got.Text, got.StdErr, c.text, c.stderr)
		}
	}
}

// Isotonic meets the conditions that define the nearest non-decreasing sequence: constant on blocks at their mean, and in
// each block no prefix has a mean below the block's (Barlow et al., 1972).
func TestIsotonicIsTheProjection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ys := rapid.SliceOfN(rapid.Int64Range(-50, 50), 0, 20).Draw(rt, "ys")
		var y []*big.Float
		for _, v := range ys {
			y = append(y, big.NewFloat(float64(v)))
		}
		free := program.Isotonic(y, big.NewFloat(1e9))
		clipped := program.Isotonic(y, big.NewFloat(20))
		low := make([]*big.Float, len(y)) // shifted up, so that zero does not clip
		for i := range y {
			low[i] = new(big.Float).Add(y[i], big.NewFloat(100))
		}
		fit := program.Isotonic(low, big.NewFloat(1e9))
		if len(free) != len(y) || len(clipped) != len(y) {
			rt.Fatalf("%d and %d values of %d", len(free), len(clipped), len(y))
		}
		at := func(s []*big.Float, i int) float64 { f, _ := s[i].Float64(); return f }
		for from := 0; from < len(ys); {
			to := from
			for to < len(ys) && math.Abs(at(fit, to)-at(fit, from)) < 1e-9 {
				to++
			}
			sum := 0.0
			for i := from; i < to; i++ {
				sum += at(low, i)
				if sum/float64(i-from+1) < at(fit, from)-1e-9 {
					rt.Fatalf("block %d..%d of %v could be split after %d", from, to, ys, i)
				}
			}
			if math.Abs(sum/float64(to-from)-at(fit, from)) > 1e-9 || from > 0 && at(fit, from) < at(fit, from-1) {
				rt.Fatalf("block %d..%d of %v stands at %v", from, to, ys, at(fit, from))
			}
			for i := from; i < to; i++ {
				if want := math.Max(0, at(fit, i)-100); math.Abs(at(free, i)-want) > 1e-9 {
					rt.Errorf("clipped at zero: %v, want %v", at(free, i), want)
				}
				if want := math.Min(20, at(free, i)); math.Abs(at(clipped, i)-want) > 1e-9 {
					rt.Errorf("clipped at 20: %v, want %v", at(clipped, i), want)
				}
			}
			from = to
		}
	})
}

func FuzzParseDecimal(f *testing.F) {
	for _, s := range []string{"0", "-1", "12.50", "007", "-0", ".5", "5.", "1e9", "1/3", "0x10", "+1", "1_000", "", "-", "٣"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := program.ParseDecimal(s)
		if err != nil {
			return
		}
		if strings.Trim(s, "-.0123456789") != "" {
			t.Fatalf("%q passes for a decimal", s)
		}
		_, frac, _ := strings.Cut(s, ".")
		again, err := program.ParseDecimal(r.FloatString(len(frac)))
		if err != nil || again.Cmp(r) != 0 {
			t.Errorf("%q is %v, written and read again %v (%v)", s, r, again, err)
		}
	})
}
