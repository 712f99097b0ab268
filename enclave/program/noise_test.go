package program_test

import (
	"math"
	"math/big"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/enclave/program/reference"
)

func TestStdDevIsThatOfTheNoise(t *testing.T) {
	for _, c := range []struct{ rows, delta, epsilon int64 }{
		{1, 1, 1_000_000}, {1, 1, 50_000_000}, {3, 1, 100_000}, {2, 12345, 7}, {1, 1 << 40, 1_000_000}, {1, 1, 250_000_000},
	} {
		p := &enclave.Plan{EntityRows: c.rows, Measures: []enclave.Measure{{Moment: "n", Delta: c.delta, EpsilonMicro: c.epsilon}}}
		for _, pieces := range []int{1, 3, 10} {
			got, want := program.StdDev(p, 0, pieces), dp.LaplaceSumStdDev(dp.LaplaceScale(c.rows, c.delta, c.epsilon), pieces)
			if math.Abs(got-want) > 1e-9*want {
				t.Errorf("%+v, %d pieces: %v, package dp says %v", c, pieces, got, want)
			}
		}
		if got := program.StdDev(p, 0, 0); got != 0 {
			t.Errorf("without pieces: %v", got)
		}
	}
	tiny := &enclave.Plan{EntityRows: 1, Measures: []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 1e12}}}
	if got := program.StdDev(tiny, 0, 3); got != 0 {
		t.Errorf("an ε of a million leaves a deviation of %v", got)
	}
}

// population has correlated x and y, spread over the whole range, as a fixed sequence.
func population(n int) []entry {
	var out []entry
	s := dp.NewStream([]byte("population of the tests"))
	uniform := func() float64 { return float64(s.Below(big.NewInt(1_000_000)).Int64()) / 1_000_000 }
	for range n {
		u, v := uniform(), uniform()
		out = append(out, entry{x: int64(1000 * u), y: int64(-4000 + 4000*u + 2500*v), z: int64(10 + 80*v), present: v > 0.2})
	}
	return out
}

// The standard errors that are reported are the spread that noise has over many draws of it. The table is one cell; the
// noise is that of three pieces at an ε of 1 for every measure. With 1200 draws, the spread itself is known to 2–3%.
func TestStandardErrorsAreTheSpread(t *testing.T) {
	m := manifest(region, colX, colY, colZ)
	outputs := []enclave.Output{out("COUNT"), out("COUNT", "z"), out("SUM", "x"), out("AVG", "x"), out("AVG", "z"), out("VAR_POP", "x"),
		out("STDDEV_POP", "y"), out("COVAR_POP", "x", "y"), out("CORR", "x", "y"), out("REGR_SLOPE", "y", "x"),
		out("REGR_INTERCEPT", "y", "x"), out("REGR_R2", "y", "x"), percentile("x", 500_000), percentile("x", 900_000)}
	p := query(t, m, nil, outputs...)
	cells, terms, truth := opened(t, p, m, encoded(population(3000)))
	exact := tabulate(t, p, m, 0, cells, truth).Rows[0].Values
	s := dp.NewStream([]byte("noise of the tests"))
	const draws = 1200
	value, stderr := make([]sample, len(outputs)), make([]sample, len(outputs))
	for range draws {
		for i, v := range tabulate(t, p, m, 3, cells, noised(p, cells, terms, truth, 3, s)).Rows[0].Values {
			if v.Null != "" {
				t.Fatalf("%s is NULL: %s", outputs[i].Name, v.Null)
			}
			value[i] = append(value[i], decimal(t, v.Text))
			stderr[i] = append(stderr[i], decimal(t, v.StdErr))
		}
	}
	for i, o := range outputs {
		spread, reported := math.Sqrt(value[i].covar(value[i])), stderr[i].avg()
		bias := value[i].avg() - decimal(t, exact[i].Text)
		t.Logf("%-14s %v: spread %.5g, reported %.5g, bias %.2g", o.Func, o.Args, spread, reported, bias)
		if ratio := spread / reported; ratio < 0.93 || ratio > 1.08 {
			t.Errorf("%s%v spreads by %.5g and reports a standard error of %.5g", o.Func, o.Args, spread, reported)
		}
		if math.Abs(bias) > 0.2*spread {
			t.Errorf("%s%v is off by %.5g on average, with a spread of %.5g", o.Func, o.Args, bias, spread)
		}
	}
}

// Two standard errors that first-order propagation would get wrong: of an R² near zero, whose derivative vanishes, and of
// a percentile among bins so fine that some hold fewer people than the noise (about 24 people each, 7 of noise).
func TestStandardErrorsBeyondFirstOrder(t *testing.T) {
	fine := colX
	fine.Bins = nil
	for e := fine.Min; e <= fine.Max; e += 10 {
		fine.Bins = append(fine.Bins, e)
	}
	m := manifest(fine, colY)
	p := query(t, m, nil, out("REGR_R2", "y", "x"), percentile("x", 500_000))
	p.Measures[len(p.Measures)-1].EpsilonMicro = 350_000
	rows := population(2400)
	cells, terms, truth := opened(t, p, m, func(yield func(reference.Row) bool) {
		for i, e := range rows {
			y := rows[(i+1)%len(rows)].y // another row's y: no correlation
			if !yield(reference.Row{Dim: []int{binOf(fine, e.x), -1}, Value: []int64{e.x - fine.Centre(), y - colY.Centre()}, Present: []bool{true, true}}) {
				return
			}
		}
	})
	exact := tabulate(t, p, m, 0, cells, truth).Rows[0].Values
	s := dp.NewStream([]byte("more noise of the tests"))
	within := make([]int, 2) // twice the standard error
	const draws = 400
	for range draws {
		for i, v := range tabulate(t, p, m, 3, cells, noised(p, cells, terms, truth, 3, s)).Rows[0].Values {
			if v.Null != "" {
				t.Fatalf("%s is NULL: %s", p.Outputs[i].Name, v.Null)
			}
			if math.Abs(decimal(t, v.Text)-decimal(t, exact[i].Text)) <= 2*decimal(t, v.StdErr) {
				within[i]++
			}
		}
	}
	for i, o := range p.Outputs {
		share := float64(within[i]) / draws
		t.Logf("%s is within two standard errors in %.1f%% of draws", o.Func, 100*share)
		if share < 0.9 {
			t.Errorf("%s is within two standard errors of %s in %.1f%% of draws only", o.Func, exact[i].Text, 100*share)
		}
	}
}
