package reference_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program/reference"
)

var columns = []enclave.Column{
	{Name: "a", Type: enclave.TypeCategory, Domain: []string{"p", "q", "r"}},
	{Name: "x", Type: enclave.TypeNumber, Min: -100, Max: 100, Bins: []int64{-100, -20, 20, 100}},
	{Name: "y", Type: enclave.TypeNumber, Min: 0, Max: 50, Nullable: true},
	{Name: "key", Type: enclave.TypeKey},
}

func manifest() *enclave.Manifest {
	vectors := func(names ...string) (out []enclave.Vector) {
		for _, n := range names {
			out = append(out, enclave.Vector{Name: n})
		}
		return out
	}
	rows := vectors("n", "s:x")
	for k := range int64(3) {
		rows = append(rows, enclave.Vector{Name: enclave.IndicatorName([]string{"a"}, k)}, enclave.Vector{Name: enclave.IndicatorName([]string{"x"}, k)})
	}
	return &enclave.Manifest{Columns: columns, Layouts: []enclave.Layout{
		{Name: "cube", Kind: enclave.Cube, Axes: [][]string{{"a", "x"}}, Vectors: vectors("n", "n:y", "s:x", "s:y", "q:x", "p:x,y")},
		{Name: "rows", Kind: enclave.Rows, Axes: [][]string{{"a"}, {"x"}}, Vectors: rows},
	}}
}

// row is the encoding of a row; a of −1 is a value outside the domain.
func row(a int, x int64, y int64, present bool) reference.Row {
	bin := 1
	if x < -20 {
		bin = 0
	} else if x >= 20 {
		bin = 2
	}
	return reference.Row{Dim: []int{a, bin, -1, -1}, Value: []int64{0, x, y, 0}, Present: []bool{true, true, present, true}}
}

// Rows picked by WHERE a <> 'q' AND x not in the first bin, grouped by x's bin, against a plain loop.
func TestComputeAgainstALoop(t *testing.T) {
	m := manifest()
	p := &enclave.Plan{Layout: "cube", Axis: []string{"a", "x"}, Keep: []enclave.Run{{From: 1, Count: 2}, {From: 7, Count: 2}}, Groups: []string{"x"},
		Measures: []enclave.Measure{{Moment: "n"}, {Moment: "n:y"}, {Moment: "s:x"}, {Moment: "s:y"}, {Moment: "q:x"}, {Moment: "p:x,y"}, {Moment: "n", By: "x"}}}
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOf(rapid.Custom(func(rt *rapid.T) reference.Row {
			return row(rapid.IntRange(-1, 2).Draw(rt, "a"), rapid.Int64Range(-100, 100).Draw(rt, "x"),
				rapid.Int64Range(-25, 25).Draw(rt, "y"), rapid.Bool().Draw(rt, "present"))
		})).Draw(rt, "rows")
		values, err := reference.Compute(p, m, slices.Values(rows))
		if err != nil {
			rt.Fatal(err)
		}
		for cell, bin := range []int{1, 2} {
			var n, ny, sx, sy, qx, pxy int64
			for _, r := range rows {
				if (r.Dim[0] != 0 && r.Dim[0] != 2) || r.Dim[1] != bin {
					continue
				}
				n++
				sx += r.Value[1]
				qx += r.Value[1] * r.Value[1]
				if r.Present[2] {
					ny++
					sy += r.Value[2]
					pxy += r.Value[1] * r.Value[2]
				}
			}
			for measure, want := range []int64{n, ny, sx, sy, qx, pxy} {
				if got, ok := values.Get(cell, measure, 0); got != want || !ok {
					rt.Errorf("cell %d, %q: %d, want %d", cell, p.Measures[measure].Moment, got, want)
				}
			}
			for b := range 3 {
				got, ok := values.Get(cell, 6, b)
				if ok != (b == bin) || ok && got != n {
					rt.Errorf("cell %d has %d (%v) in bin %d, want %d in bin %d only", cell, got, ok, b, n, bin)
				}
			}
		}
	})
}

func TestSecondIndicator(t *testing.T) {
	p := &enclave.Plan{Layout: "rows", Axis: []string{"a"}, Keep: []enclave.Run{{Count: 3}}, Groups: []string{"a"},
		Also: &enclave.Factor{Axis: []string{"x"}, Keep: []enclave.Run{{From: 2, Count: 1}}}, Measures: []enclave.Measure{{Moment: "n"}}}
	rows := []reference.Row{row(0, 20, 0, true), row(0, 19, 0, true), row(2, 99, 0, false), row(2, 50, 0, true), row(-1, 50, 0, true)}
	values, err := reference.Compute(p, manifest(), slices.Values(rows))
	if err != nil {
		t.Fatal(err)
	}
	for cell, want := range []int64{1, 0, 2} {
		if got, _ := values.Get(cell, 0, 0); got != want {
			t.Errorf("cell %d: %d, want %d", cell, got, want)
		}
	}
}

func TestTableHasEveryCellInOrder(t *testing.T) {
	m := manifest()
	p := &enclave.Plan{Layout: "cube", Axis: []string{"a", "x"}, Keep: []enclave.Run{{Count: 9}}, Groups: []string{"a"}, EntityRows: 1, MinCohort: 100,
		Measures: []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 1}, {Moment: "s:x", Delta: 100, EpsilonMicro: 1}},
		Outputs:  []enclave.Output{{Name: "a", Func: "group", Args: []string{"a"}}, {Name: "mean", Func: "AVG", Args: []string{"x"}}},
		Having:   []enclave.Having{{Output: 1, Op: ">", Value: "1000"}}, OrderBy: []enclave.Order{{Output: 0, Desc: true}}, Limit: 1}
	table, err := reference.Table(p, m, slices.Values([]reference.Row{row(0, 10, 0, true), row(0, 15, 0, true), row(2, -7, 0, true)}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range table.Rows {
		got = append(got, r.Values[0].Text+" "+r.Values[1].Text)
	}
	if want := []string{"p 12.50", "q ", "r -7.00"}; !slices.Equal(got, want) || table.Rows[1].Values[1].Null == "" || len(table.Suppressed) > 0 {
		t.Errorf("rows %q, want %q", got, want)
	}
	if len(p.Having) == 0 || p.Limit != 1 {
		t.Error("the plan was changed")
	}
}

func TestComputeRefuses(t *testing.T) {
	plan := func(change func(p *enclave.Plan)) *enclave.Plan {
		p := &enclave.Plan{Layout: "cube", Axis: []string{"a", "x"}, Keep: []enclave.Run{{Count: 9}}, Measures: []enclave.Measure{{Moment: "n"}, {Moment: "s:x"}}}
		change(p)
		return p
	}
	fine := func(*enclave.Plan) {}
	huge := row(0, 0, 0, true)
	huge.Value[1] = math.MaxInt64
	for _, c := range []struct {
		name string
		plan *enclave.Plan
		rows []reference.Row
		want string
	}{
		{"layout", plan(func(p *enclave.Plan) { p.Layout = "none" }), nil, `layout "none"`},
		{"moment", plan(func(p *enclave.Plan) { p.Measures[1].Moment = "z:x" }), nil, `"z:x"`},
		{"row", plan(fine), []reference.Row{{}}, "one entry for each of 4 columns"},
		{"overflow", plan(fine), []reference.Row{huge, row(0, 1, 0, true)}, `measure 1 ("s:x")`},
	} {
		_, err := reference.Compute(c.plan, manifest(), slices.Values(c.rows))
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, reference.ErrOverflow) != (c.name == "overflow") {
			t.Errorf("%s: error is %v, want one with %q", c.name, err, c.want)
		}
	}
}
