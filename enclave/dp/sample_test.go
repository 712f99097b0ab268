package dp

import (
	"encoding/binary"
	"math"
	"math/big"
	"testing"
)

// Statistical tests draw from fixed streams: they pass or fail for good, whatever the machine.

func testStream(name string, n int64) *Stream {
	return NewStream([]byte("test key"), []byte(name), binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func fraction(num, den int64) Scale { return Scale{Num: big.NewInt(num), Den: big.NewInt(den)} }

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}

// checkChiSquare fails beyond four standard deviations by the Wilson–Hilferty approximation, and on fits too good to be
// true.
func checkChiSquare(t *testing.T, stat float64, df int) {
	t.Helper()
	if df == 0 {
		return
	}
	v := 2 / (9 * float64(df))
	if z := (math.Cbrt(stat/float64(df)) - (1 - v)) / math.Sqrt(v); math.Abs(z) > 4 {
		t.Errorf("chi-square is %.1f at %d degrees of freedom: %.1f standard deviations off", stat, df, z)
	}
}

// checkFit compares draws with a symmetric distribution: each value expected at least 20 times by itself, and all the
// rest together, on each side.
func checkFit(t *testing.T, draws int, draw func() *big.Int, p func(x float64) float64) {
	t.Helper()
	reach := int64(0)
	for float64(draws)*p(float64(reach+1)) >= 20 {
		reach++
	}
	seen := map[int64]float64{}
	for range draws {
		x := draw().Int64()
		seen[max(-reach-1, min(reach+1, x))]++
	}
	stat, df, inside := 0.0, -1, 0.0
	add := func(got, want float64) {
		stat += (got - want) * (got - want) / want
		df++
	}
	for x := -reach; x <= reach; x++ {
		add(seen[x], float64(draws)*p(float64(x)))
		inside += p(float64(x))
	}
	if rest := float64(draws) * (1 - inside) / 2; rest >= 5 {
		add(seen[reach+1], rest)
		add(seen[-reach-1], rest)
	}
	checkChiSquare(t, stat, df)
}

func laplaceAt(b float64) func(float64) float64 {
	return func(x float64) float64 { return math.Tanh(1/(2*b)) * math.Exp(-math.Abs(x)/b) }
}

func TestLaplaceFollowsItsDistribution(t *testing.T) {
	for i, b := range []Scale{
		fraction(1, 5), fraction(1, 2), fraction(1, 1), fraction(5, 2), fraction(40, 7), fraction(1_000_000, 20_000),
		LaplaceScale(4, 1, 123_457), {new(big.Int).Lsh(big.NewInt(17), 80), new(big.Int).Lsh(big.NewInt(2), 80)},
	} {
		t.Run(b.String(), func(t *testing.T) {
			s := testStream("laplace", int64(i))
			checkFit(t, 60_000, func() *big.Int { return Laplace(s, b) }, laplaceAt(b.Float()))
		})
	}
}

// At scales where values hardly repeat, the fit is of x/b in bins of equal probability.
func TestWideLaplaceFollowsItsDistribution(t *testing.T) {
	for i, b := range []Scale{fraction(1<<40, 1), {new(big.Int).Lsh(one, 70), big.NewInt(3)}, LaplaceScale(1000, 1<<50, 1)} {
		t.Run(b.String(), func(t *testing.T) {
			s := testStream("wide", int64(i))
			const draws, bins = 40_000, 64
			var seen [bins]float64
			for range draws {
				x, _ := new(big.Float).SetInt(Laplace(s, b)).Float64()
				u := math.Exp(-math.Abs(x)/b.Float()) / 2
				if x > 0 {
					u = 1 - u
				}
				seen[min(bins-1, int(u*bins))]++
			}
			stat := 0.0
			for _, n := range seen {
				stat += (n - draws/bins) * (n - draws/bins) / (draws / bins)
			}
			checkChiSquare(t, stat, bins-1)
		})
	}
}

func TestGaussianFollowsItsDistribution(t *testing.T) {
	for i, v := range [][2]int64{{1, 4}, {1, 1}, {4, 1}, {25, 2}, {400, 1}} {
		variance := float64(v[0]) / float64(v[1])
		total := 0.0
		for x := -500.0; x <= 500; x++ {
			total += math.Exp(-x * x / (2 * variance))
		}
		s := testStream("gaussian", int64(i))
		checkFit(t, 60_000, func() *big.Int { return Gaussian(s, big.NewInt(v[0]), big.NewInt(v[1])) },
			func(x float64) float64 { return math.Exp(-x*x/(2*variance)) / total })
	}
}

// moments returns the mean over σ and the second and fourth moments over σ² and σ⁴.
func moments(draws int, sigma float64, draw func() *big.Int) (mean, second, fourth float64) {
	for range draws {
		x, _ := new(big.Float).SetInt(draw()).Float64()
		x /= sigma
		mean += x
		second += x * x
		fourth += x * x * x * x
	}
	n := float64(draws)
	return mean / n, second / n, fourth / n
}

func TestMoments(t *testing.T) {
	const draws = 40_000
	root := math.Sqrt(draws)
	for i, b := range []Scale{fraction(1, 1), fraction(7, 2), fraction(1000, 3), {new(big.Int).Lsh(one, 70), one}} {
		s := testStream("laplace moments", int64(i))
		mean, second, _ := moments(draws, LaplaceSumStdDev(b, 1), func() *big.Int { return Laplace(s, b) })
		// The fourth moment of the Laplace distribution is 6σ⁴, so the second has a standard error of √5/√n; more at b = 1.
		if math.Abs(mean) > 4/root || math.Abs(second-1) > 4*math.Sqrt(6)/root {
			t.Errorf("b = %v: mean %.4f σ, second moment %.4f σ²", b, mean, second)
		}
	}
	for i, v := range []int64{9, 400, 1 << 50} {
		s := testStream("gaussian moments", int64(i))
		mean, second, fourth := moments(draws, math.Sqrt(float64(v)), func() *big.Int { return Gaussian(s, big.NewInt(v), one) })
		if math.Abs(mean) > 4/root || math.Abs(second-1) > 4*math.Sqrt(2)/root || math.Abs(fourth-3) > 4*math.Sqrt(96)/root {
			t.Errorf("σ² = %v: mean %.4f σ, second moment %.4f σ², fourth %.4f σ⁴", v, mean, second, fourth)
		}
	}
}

func TestStreamsAreUncorrelated(t *testing.T) {
	const draws = 40_000
	a, b, scale := testStream("a", 0), testStream("b", 0), fraction(50, 1)
	product, signs := 0.0, 0
	for range draws {
		x, y := Laplace(a, scale), Laplace(b, scale)
		product += float64(x.Int64()) * float64(y.Int64())
		signs += x.Sign() * y.Sign()
	}
	if r := product / draws / LaplaceVariance(scale); math.Abs(r) > 4/math.Sqrt(draws) {
		t.Errorf("correlation is %.4f", r)
	}
	if r := float64(signs) / draws; math.Abs(r) > 4/math.Sqrt(draws) {
		t.Errorf("correlation of signs is %.4f", r)
	}
}

func TestLaplaceScale(t *testing.T) {
	for _, c := range []struct {
		rows, delta, epsilon int64
		want                 string
	}{
		{1, 1, 1_000_000, "1/1"}, {1, 1, 500_000, "2/1"}, {3, 1, 700_000, "30/7"}, {4, 250, 300_000, "10000/3"},
		{1, 1, 3_000_000, "1/3"}, {1, 1, math.MaxInt64, "1000000/9223372036854775807"},
		{math.MaxInt64, math.MaxInt64, 1, "85070591730234615847396907784232501249000000"},
	} {
		want := c.want
		if got := LaplaceScale(c.rows, c.delta, c.epsilon); got.String() != want && got.String() != want+"/1" {
			t.Errorf("LaplaceScale(%d, %d, %d) = %v, want %s", c.rows, c.delta, c.epsilon, got, want)
		}
	}
	for _, bad := range [][3]int64{{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {-1, 1, 1}, {1, -1, 1}, {1, 1, -1}} {
		mustPanic(t, "not positive", func() { LaplaceScale(bad[0], bad[1], bad[2]) })
	}
	mustPanic(t, "zero scale", func() { Laplace(testStream("zero", 0), Scale{}) })
	mustPanic(t, "zero variance", func() { Gaussian(testStream("zero", 0), new(big.Int), one) })
}
