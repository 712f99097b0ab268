package program_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/internal/canon"
)

// single is the one value of a function over one cell whose opened values are given in the order of the plan's measures,
// with the noise of three pieces.
func single(t *testing.T, pieces int, o enclave.Output, opened ...int64) enclave.Value {
	t.Helper()
	m := manifest(region, colX, colY, colZ)
	p := query(t, m, nil, o)
	cells, terms, err := p.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(terms) != len(opened) {
		t.Fatalf("%d values for %d terms of %v", len(opened), len(terms), p.Measures)
	}
	values := program.NewValues(len(cells), len(p.Measures))
	for i, term := range terms {
		values.Set(term.Cell, term.Measure, term.Bin, opened[i])
	}
	return tabulate(t, p, m, pieces, cells, values).Rows[0].Values[0]
}

// The noise of a count has σ = √3·√(2/(e−2+1/e)) ≈ 2.40, of a sum of x (reach 500) √6·500 ≈ 1225, of y (4000) 9798, of
// X² 250,000·√6 ≈ 612,372.
func TestMeaninglessFigures(t *testing.T) {
	const divide = "the count of rows is zero or too small beside its noise to divide by"
	for _, c := range []struct {
		name   string
		out    enclave.Output
		opened []int64
		text   string
		null   string
	}{
		{"count below zero stands", out("COUNT"), []int64{-7}, "-7", ""},
		{"sum of few rows stands", out("SUM", "x"), []int64{1, 3000}, "350", ""},
		{"sum is cut at two digits of its error", out("SUM", "x"), []int64{1000, 123_456}, "62350", ""},
		{"average just below four deviations", out("AVG", "x"), []int64{9, 0}, "", divide},
		{"average just above", out("AVG", "x"), []int64{10, 0}, "50", ""},
		{"average of a count below zero", out("AVG", "x"), []int64{-100, 0}, "", divide},
		{"average over values that are present", out("AVG", "z"), []int64{1000, 5, 400}, "", divide},
		{"variance below zero", out("VAR_POP", "x"), []int64{1000, 0, -1000}, "", `the variance of "x" is lost in the noise`},
		{"variance below its error", out("VAR_POP", "x"), []int64{1000, 0, 600_000}, "", `the variance of "x" is lost in the noise`},
		{"variance above its error", out("VAR_POP", "x"), []int64{1000, 0, 620_000}, "6.2", ""},
		{"deviation of that", out("STDDEV_POP", "x"), []int64{1000, 0, 620_000}, "2.5", ""},
		{"deviation below", out("STDDEV_POP", "x"), []int64{1000, 0, 600_000}, "", `the variance of "x" is lost in the noise`},
		{"covariance of any size stands", out("COVAR_POP", "x", "y"), []int64{1000, 0, 0, 1}, "0.0", ""},
		// n, s:x, s:y, p:x,y, q:y or q:x: a divisor must be four errors above zero.
		{"slope on a flat column", out("REGR_SLOPE", "y", "x"), []int64{1000, 0, 0, 0, 2_400_000}, "",
			`the variance of "x" is zero or too small beside its noise to divide by`},
		{"intercept likewise", out("REGR_INTERCEPT", "y", "x"), []int64{1000, 0, 0, 0, 2_400_000}, "",
			`the variance of "x" is zero or too small beside its noise to divide by`},
		{"slope", out("REGR_SLOPE", "y", "x"), []int64{1000, 0, 0, 30_000_000, 60_000_000}, "0.0500", ""},
		{"correlation with a flat column", out("CORR", "x", "y"), []int64{1000, 0, 0, 0, 100, 60_000_000}, "",
			`the variance of "y" is zero or too small beside its noise to divide by`},
		{"correlation beyond one", out("CORR", "x", "y"), []int64{1000, 0, 0, 600_000_000, 4_000_000_000, 60_000_000}, "",
			"the noise has carried the correlation beyond 1"},
		{"R² beyond one", out("REGR_R2", "x", "y"), []int64{1000, 0, 0, 600_000_000, 4_000_000_000, 60_000_000}, "",
			"the noise has carried the correlation beyond 1"},
		{"correlation of few", out("CORR", "x", "y"), []int64{5, 0, 0, 0, 4_000_000_000, 60_000_000}, "", divide},
		{"percentile of none", percentile("x", 500_000), []int64{1000, -2, 1, 0, 2, -1}, "", `the total of the bins of "x" is not above zero`},
		{"percentile lost", percentile("x", 500_000), []int64{1000, 0, 3, 2, 0, -1}, "",
			`the noise does not tell this percentile of "x" from its least or greatest value`},
		{"percentile near the end", percentile("x", 1000), []int64{1000, 20, 20, 20, 20, 20}, "",
			`the noise does not tell this percentile of "x" from its least or greatest value`},
		{"least value", percentile("x", 0), []int64{1000, 200, 200, 200, 200, 200}, "",
			`the noise does not tell this percentile of "x" from its least or greatest value`},
		{"percentile", percentile("x", 500_000), []int64{1000, 200, 200, 200, 200, 200}, "30.00", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := single(t, 3, c.out, c.opened...)
			if got.Text != c.text || got.Null != c.null || (got.StdErr == "") != (c.null != "") {
				t.Errorf("got %+v, want text %q, null %q", got, c.text, c.null)
			}
		})
	}
}

func TestPerfectLineHasCorrelationOne(t *testing.T) {
	// X = −7, 1, 12 and Y = −3·X: sums of products without noise.
	got := single(t, 0, out("CORR", "x", "y"), 3, 6, -18, -3*194, 9*194, 194)
	if got.Text != "-1.000000" {
		t.Errorf("correlation is %+v", got)
	}
}

func noisyTable(t testing.TB) ([]byte, *enclave.Table) {
	t.Helper()
	m := manifest(region, colX, colY, colZ)
	p := query(t, m, []string{"region"}, out("group", "region"), out("COUNT"), out("COUNT", "z"), out("SUM", "x"), out("AVG", "z"), out("VAR_POP", "x"),
		out("STDDEV_POP", "y"), out("COVAR_POP", "x", "y"), out("CORR", "x", "y"), out("REGR_SLOPE", "y", "x"),
		out("REGR_INTERCEPT", "y", "x"), out("REGR_R2", "y", "x"), percentile("x", 500_000))
	p.OrderBy = []enclave.Order{{Output: 4, Desc: true}}
	rows := population(400)
	for i := range rows {
		rows[i].region = i % 49 / 24 // 200, 192 and 8 rows
	}
	cells, terms, truth := opened(t, p, m, encoded(rows))
	values := program.NewValues(len(cells), len(p.Measures))
	for k, term := range terms { // deviations of up to two scales, none of them drawn: the digits must not hang on a sampler
		v, _ := truth.Get(term.Cell, term.Measure, term.Bin)
		values.Set(term.Cell, term.Measure, term.Bin, v+int64(k*7919%401-200)*p.Measures[term.Measure].Delta/100)
	}
	var counts []int64
	for i := range cells {
		n, _ := values.Get(i, 0, 0)
		counts = append(counts, n)
	}
	keep, rules := program.Keep(p, 3, cells, counts)
	table, err := program.Tabulate(p, m, 3, cells, keep, rules, values)
	if err != nil {
		t.Fatal(err)
	}
	table.Salt = make([]byte, 32)
	b, err := canon.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	return b, table
}

// The digits are kept here as drawn once: custodians on other machines, and with later versions, must agree with them or
// no release gets its quorum.
func TestTableIsTheSameEverywhere(t *testing.T) {
	first, table := noisyTable(t)
	again, _ := noisyTable(t)
	if !slices.Equal(first, again) {
		t.Error("two runs give two tables")
	}
	var got []string
	for _, r := range table.Rows {
		for i, v := range r.Values {
			got = append(got, strings.TrimSpace(table.Columns[i].Name+" "+v.Text+" "+v.StdErr+v.Null))
		}
	}
	for _, s := range table.Suppressed {
		got = append(got, strings.Join(s.Labels, ",")+": "+s.Rule)
	}
	if diff := cmp.Diff(keptTable, strings.Join(got, "\n")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTabulateRefuses(t *testing.T) {
	type world struct {
		p      *enclave.Plan
		m      *enclave.Manifest
		cells  []enclave.Cell
		keep   []bool
		rules  []string
		values *program.Values
	}
	for want, spoil := range map[string]func(w *world){
		"measure 0 of a plan is the count":        func(w *world) { w.p.Measures = w.p.Measures[1:] },
		"all must be positive":                    func(w *world) { w.p.Measures[1].EpsilonMicro = 0 },
		`splits "s:x" by "x"`:                     func(w *world) { w.p.Measures[1].By = "x" },
		`column "w" is not in the manifest`:       func(w *world) { w.p.Outputs[1].Args = []string{"w"} },
		`no aggregate function "MIN"`:             func(w *world) { w.p.Outputs[1].Func = "MIN" },
		"AVG takes 1 columns, not 2":              func(w *world) { w.p.Outputs[1].Args = []string{"x", "y"} },
		`needs the moment "s:y"`:                  func(w *world) { w.p.Outputs[1].Args = []string{"y"} },
		`column "x" is not in GROUP BY`:           func(w *world) { w.p.Outputs[0].Args = []string{"x"} },
		"a label is of one column, not of 0":      func(w *world) { w.p.Outputs[0].Args = nil },
		`counts by the bins of "x"`:               func(w *world) { w.p.Outputs[1] = percentile("x", 1) },
		`AVG needs a number, and column "region"`: func(w *world) { w.p.Outputs[1].Args = []string{"region"} },
		"3 cells, but 2 decisions":                func(w *world) { w.keep = w.keep[1:] },
		"3 decisions and 2 rules":                 func(w *world) { w.rules = w.rules[1:] },
		"the cells are not those of the plan":     func(w *world) { w.cells = slices.Clone(w.cells); w.cells[1] = enclave.Cell{2} },
		"the plan has 2 measures of 3 cells":      func(w *world) { w.values = program.NewValues(3, 1) },
		`cell 1 is kept, but measure 1 ("s:x"), bin 0, is not opened`: func(w *world) {
			old := w.values
			w.values = program.NewValues(3, 2)
			for _, at := range [][2]int{{0, 0}, {0, 1}, {1, 0}, {2, 0}, {2, 1}} {
				v, _ := old.Get(at[0], at[1], 0)
				w.values.Set(at[0], at[1], 0, v)
			}
		},
		"1 values are opened that are no terms": func(w *world) { w.values.Set(2, 1, 3, 7) },
		`layout "none"`:                         func(w *world) { w.p.Layout = "none" },
	} {
		m := manifest(region, colX, colY, colZ)
		p := query(t, m, []string{"region"}, out("group", "region"), out("AVG", "x"))
		w := &world{p: p, m: m}
		w.cells, _, w.values = opened(t, p, m, encoded(population(9)))
		w.keep, w.rules = all(w.cells)
		spoil(w)
		_, err := program.Tabulate(w.p, w.m, 3, w.cells, w.keep, w.rules, w.values)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

func BenchmarkTabulate(b *testing.B) {
	m := manifest(region, colX, colY, colZ)
	p := query(b, m, nil, out("CORR", "x", "y"), out("REGR_INTERCEPT", "y", "x"), percentile("x", 500_000))
	cells, terms, truth := opened(b, p, m, encoded(population(3000)))
	values := noised(p, cells, terms, truth, 3, dp.NewStream([]byte("noise of the benchmark")))
	for b.Loop() {
		tabulate(b, p, m, 3, cells, values)
	}
}

const keptTable = `group south
COUNT 198 2.4
COUNT 159 2.4
SUM 10710 170
AVG 57.74 0.63
VAR_POP 870 33
STDDEV_POP 14.80 0.69
COVAR_POP 363 25
CORR 0.832 0.070
REGR_SLOPE 0.417 0.032
REGR_INTERCEPT -28.2 1.9
REGR_R2 0.69 0.12
PERCENTILE 55.8 1.3
group north
COUNT 192 2.4
COUNT 161 2.4
SUM 9120 170
AVG 57.58 0.62
VAR_POP 759 33
STDDEV_POP 13.24 0.78
COVAR_POP 338 26
CORR 0.927 0.091
REGR_SLOPE 0.446 0.039
REGR_INTERCEPT -29.2 1.9
REGR_R2 0.86 0.17
PERCENTILE 47.6 1.2
east: fewer than 10 (+ margin 5) people: small-cell rule`
