package program_test

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program/reference"
)

// sample is a column in declared units.
type sample []float64

func (s sample) sum() (t float64) {
	for _, v := range s {
		t += v
	}
	return t
}

func (s sample) avg() float64 { return s.sum() / float64(len(s)) }

func (s sample) covar(o sample) (t float64) {
	ms, mo := s.avg(), o.avg()
	for i := range s {
		t += (s[i] - ms) * (o[i] - mo)
	}
	return t / float64(len(s))
}

// percentile walks the bins' cumulative counts in floats.
func (s sample) percentile(edges []float64, p float64) float64 {
	below := 0.0
	for i := range len(edges) - 1 {
		n := 0.0
		for _, v := range s {
			if v >= edges[i] && (v < edges[i+1] || i == len(edges)-2) {
				n++
			}
		}
		if n > 0 && below+n >= p*float64(len(s))-1e-9 {
			return edges[i] + (p*float64(len(s))-below)/n*(edges[i+1]-edges[i])
		}
		below += n
	}
	return math.NaN()
}

// Without noise, Tabulate is SQL over the rows.
func TestWithoutNoiseResultsAreThoseOfSQL(t *testing.T) {
	m := manifest(region, colX, colY, colZ)
	outputs := []enclave.Output{out("group", "region"), out("COUNT"), out("COUNT", "z"), out("COUNT", "y"), out("SUM", "x"), out("SUM", "z"),
		out("AVG", "y"), out("AVG", "z"), out("VAR_POP", "x"), out("VAR_POP", "z"), out("STDDEV_POP", "y"), out("COVAR_POP", "y", "x"),
		out("CORR", "x", "y"), out("REGR_SLOPE", "y", "x"), out("REGR_INTERCEPT", "y", "x"), out("REGR_R2", "y", "x"), out("REGR_SLOPE", "x", "y"),
		percentile("x", 500_000), percentile("x", 123_457), percentile("x", 0), percentile("x", 1_000_000)}
	p := query(t, m, []string{"region"}, outputs...)
	edges := []float64{0, 10, 20, 40, 70, 100}
	rapid.Check(t, func(rt *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) entry {
			return entry{region: rapid.IntRange(0, 2).Draw(rt, "region"), x: rapid.Int64Range(colX.Min, colX.Max).Draw(rt, "x"),
				y: rapid.Int64Range(colY.Min, colY.Max).Draw(rt, "y"), z: rapid.Int64Range(colZ.Min, colZ.Max).Draw(rt, "z"),
				present: rapid.Bool().Draw(rt, "present")}
		}), 0, 60).Draw(rt, "entries")
		table, err := reference.Table(p, m, encoded(entries))
		if err != nil {
			rt.Fatal(err)
		}
		if len(table.Rows) != 3 || len(table.Suppressed) != 0 {
			rt.Fatalf("%d rows, %d suppressed", len(table.Rows), len(table.Suppressed))
		}
		for r, row := range table.Rows {
			var x, y, z sample
			for _, e := range entries {
				if e.region != r {
					continue
				}
				x, y = append(x, float64(e.x)/10), append(y, float64(e.y)/100)
				if e.present {
					z = append(z, float64(e.z))
				}
			}
			cov, vx, vy := x.covar(y), x.covar(x), y.covar(y)
			slope := cov / vx
			want := []float64{0, float64(len(x)), float64(len(z)), float64(len(y)), x.sum(), z.sum(),
				y.avg(), z.avg(), vx, z.covar(z), math.Sqrt(vy), cov,
				cov / math.Sqrt(vx*vy), slope, y.avg() - slope*x.avg(), cov * cov / (vx * vy), cov / vy,
				x.percentile(edges, 0.5), x.percentile(edges, 0.123457), x.percentile(edges, 0), x.percentile(edges, 1)}
			decimals := []int{0, 0, 0, 0, 1, 0, 4, 2, 4, 2, 4, 5, 6, 12, 4, 6, 12, 3, 3, 3, 3}
			if row.Values[0].Text != region.Domain[r] {
				rt.Fatalf("row %d is labelled %q", r, row.Values[0].Text)
			}
			for i, w := range want[1:] {
				v, o := row.Values[i+1], outputs[i+1]
				tiny := (o.Func == "CORR" || strings.HasPrefix(o.Func, "REGR")) && (vx < 1e-9 || vy < 1e-9)
				switch {
				case tiny: // floats cannot tell such a variance from zero
				case math.IsNaN(w) || math.IsInf(w, 0):
					if v.Null == "" || v.Text != "" {
						rt.Errorf("%s%v is %q, want NULL", o.Func, o.Args, v.Text)
					}
				case v.Null != "":
					rt.Errorf("%s%v is NULL (%s), want %v", o.Func, o.Args, v.Null, w)
				default:
					if got := decimal(t, v.Text); math.Abs(got-w) > 0.5000001*math.Pow10(-decimals[i+1])+1e-9*math.Abs(w) {
						rt.Errorf("%s%v of %d rows is %s, want %v", o.Func, o.Args, len(x), v.Text, w)
					}
					if v.StdErr != "0" {
						rt.Errorf("%s%v has a standard error of %s without noise", o.Func, o.Args, v.StdErr)
					}
				}
			}
		}
	})
}

// Anscombe's quartet: F. J. Anscombe, "Graphs in Statistical Analysis", The American Statistician 27 (1973); regressions
// as printed by R's example(anscombe).
func TestAnscombe(t *testing.T) {
	x123 := []int64{10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5}
	xs := [][]int64{x123, x123, x123, {8, 8, 8, 8, 8, 8, 8, 19, 8, 8, 8}}
	ys := [][]int64{
		{804, 695, 758, 881, 833, 996, 724, 426, 1084, 482, 568},
		{914, 814, 874, 877, 926, 810, 613, 310, 913, 726, 474},
		{746, 677, 1274, 711, 781, 884, 608, 539, 815, 642, 573},
		{658, 576, 771, 884, 847, 704, 525, 1250, 556, 791, 689},
	}
	set := enclave.Column{Name: "set", Type: enclave.TypeCategory, Domain: []string{"I", "II", "III", "IV"}}
	cx := enclave.Column{Name: "x", Type: enclave.TypeNumber, Min: 0, Max: 20}
	cy := enclave.Column{Name: "y", Type: enclave.TypeNumber, Min: 0, Max: 1500, Scale: 2}
	m := manifest(set, cx, cy)
	p := query(t, m, []string{"set"}, out("group", "set"), out("COUNT"), out("AVG", "x"), out("VAR_POP", "x"), out("AVG", "y"),
		out("REGR_INTERCEPT", "y", "x"), out("REGR_SLOPE", "y", "x"), out("REGR_R2", "y", "x"), out("CORR", "y", "x"))
	table, err := reference.Table(p, m, func(yield func(reference.Row) bool) {
		for s := range xs {
			for i := range xs[s] {
				if !yield(reference.Row{Dim: []int{s, -1, -1}, Value: []int64{0, xs[s][i] - cx.Centre(), ys[s][i] - cy.Centre()}, Present: []bool{true, true, true}}) {
					return
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{ // y averages 7.50 in print; variance 11 with divisor 10 is 10 with divisor 11
		{"I", "11", "9.00", "10.00", "7.5009", "3.0001", "0.5000909", "0.666542", "0.816421"},
		{"II", "11", "9.00", "10.00", "7.5009", "3.0009", "0.5000000", "0.666242", "0.816237"},
		{"III", "11", "9.00", "10.00", "7.5000", "3.0025", "0.4997273", "0.666324", "0.816287"},
		{"IV", "11", "9.00", "10.00", "7.5009", "3.0017", "0.4999091", "0.666707", "0.816521"},
	}
	for r, row := range table.Rows {
		var got []string
		for i, v := range row.Values {
			if i == 6 {
				v.Text = strconv.FormatFloat(decimal(t, v.Text), 'f', 7, 64) // as R prints it
			}
			got = append(got, v.Text)
		}
		if !slices.Equal(got, want[r]) {
			t.Errorf("set %s: got %q, want %q", want[r][0], got, want[r])
		}
	}
}
