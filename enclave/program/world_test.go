package program_test

import (
	"iter"
	"math/big"
	"slices"
	"strconv"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/enclave/program/reference"
)

// columns of the tests' table: a region to group by, numbers x and y, and z, which may be missing.
var (
	region = enclave.Column{Name: "region", Type: enclave.TypeCategory, Domain: []string{"south", "north", "east"}}
	colX   = enclave.Column{Name: "x", Type: enclave.TypeNumber, Min: 0, Max: 1000, Scale: 1, Bins: []int64{0, 100, 200, 400, 700, 1000}}
	colY   = enclave.Column{Name: "y", Type: enclave.TypeNumber, Min: -5000, Max: 3000, Scale: 2}
	colZ   = enclave.Column{Name: "z", Type: enclave.TypeNumber, Min: 10, Max: 90, Nullable: true}
)

// entry is a row in the clear: numbers are scaled, and z may be missing.
type entry struct {
	region  int
	x, y, z int64
	present bool
}

func manifest(columns ...enclave.Column) *enclave.Manifest {
	m := &enclave.Manifest{Dataset: "test", Columns: columns}
	cube := enclave.Layout{Name: "cube", Kind: enclave.Cube, Axes: [][]string{nil}}
	names := []string{"n"}
	for i, c := range columns {
		if c.Size() > 0 {
			cube.Axes[0] = append(cube.Axes[0], c.Name)
		}
		if c.Type != enclave.TypeNumber {
			continue
		}
		names = append(names, "n:"+c.Name, "s:"+c.Name, "q:"+c.Name)
		for _, d := range columns[i+1:] {
			names = append(names, string(enclave.ProductMoment(c.Name, d.Name)))
		}
	}
	for _, n := range names {
		cube.Vectors = append(cube.Vectors, enclave.Vector{Name: n})
	}
	m.Layouts = []enclave.Layout{cube}
	return m
}

// query is a plan over the whole axis for such outputs, as the planner makes it: each measure has an ε of 1.
func query(t testing.TB, m *enclave.Manifest, groups []string, outputs ...enclave.Output) *enclave.Plan {
	t.Helper()
	axis := m.Layouts[0].Axes[0]
	_, size, err := m.Dims(axis)
	if err != nil {
		t.Fatal(err)
	}
	p := &enclave.Plan{Layout: "cube", Axis: axis, Keep: []enclave.Run{{Count: size}}, Groups: groups, Outputs: outputs,
		EntityRows: 1, MinCohort: 10, MarginMilli: 2000}
	measure := func(mo enclave.Moment, by string) {
		letter, names := mo.Split()
		delta := int64(1)
		for _, n := range names {
			c, _ := m.Column(n)
			switch letter {
			case "q":
				delta = c.Reach() * c.Reach()
			case "s", "p":
				delta *= c.Reach()
			}
		}
		me := enclave.Measure{Moment: mo, By: by, Delta: delta, EpsilonMicro: 1_000_000, Stage: 2}
		if len(p.Measures) == 0 {
			me.Stage = 1
		}
		if !slices.Contains(p.Measures, me) {
			p.Measures = append(p.Measures, me)
		}
	}
	measure(enclave.CountMoment, "")
	for _, o := range outputs {
		if o.Func == "group" {
			continue
		}
		f, err := enclave.LookupFunction(o.Func)
		if err != nil {
			t.Fatal(err)
		}
		var cols []enclave.Column
		for _, a := range o.Args {
			c, _ := m.Column(a)
			cols = append(cols, c)
		}
		moments, err := f.Moments(cols)
		if err != nil {
			t.Fatal(err)
		}
		for _, mo := range moments[1:] {
			measure(mo, "")
		}
		if f.Ordered {
			measure(enclave.CountMoment, o.Args[0])
		}
	}
	return p
}

func out(fn string, args ...string) enclave.Output {
	return enclave.Output{Name: fn, Func: fn, Args: args}
}

func percentile(col string, micro int64) enclave.Output {
	return enclave.Output{Name: "PERCENTILE", Func: "PERCENTILE", Args: []string{col}, ParamMicro: micro}
}

// binOf is the index of the bin of v, the last bin being closed.
func binOf(c enclave.Column, v int64) int {
	for i := range c.Size() {
		if v >= c.Bins[i] && (v < c.Bins[i+1] || i == c.Size()-1 && v == c.Bins[i+1]) {
			return i
		}
	}
	return -1
}

// encoded is the table of region, x, y, z as sealing encodes it.
func encoded(entries []entry) iter.Seq[reference.Row] {
	return func(yield func(reference.Row) bool) {
		for _, e := range entries {
			r := reference.Row{Dim: []int{e.region, binOf(colX, e.x), -1, -1},
				Value:   []int64{0, e.x - colX.Centre(), e.y - colY.Centre(), 0},
				Present: []bool{true, true, true, e.present}}
			if e.present {
				r.Value[3] = e.z - colZ.Centre()
			}
			if !yield(r) {
				return
			}
		}
	}
}

// opened are the plan's cells and its values without noise.
func opened(t testing.TB, p *enclave.Plan, m *enclave.Manifest, rows iter.Seq[reference.Row]) ([]enclave.Cell, []enclave.Term, *program.Values) {
	t.Helper()
	cells, terms, err := p.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	values, err := reference.Compute(p, m, rows)
	if err != nil {
		t.Fatal(err)
	}
	return cells, terms, values
}

// noised adds the noise of so many pieces to every term, as custodians do.
func noised(p *enclave.Plan, cells []enclave.Cell, terms []enclave.Term, values *program.Values, pieces int, s *dp.Stream) *program.Values {
	noisy := program.NewValues(len(cells), len(p.Measures))
	for _, t := range terms {
		v, _ := values.Get(t.Cell, t.Measure, t.Bin)
		me := p.Measures[t.Measure]
		sum := big.NewInt(v)
		for range pieces {
			sum.Add(sum, dp.Laplace(s, dp.LaplaceScale(p.EntityRows, me.Delta, me.EpsilonMicro)))
		}
		noisy.Set(t.Cell, t.Measure, t.Bin, sum.Int64())
	}
	return noisy
}

// all keeps every cell.
func all(cells []enclave.Cell) (keep []bool, rules []string) {
	return slices.Repeat([]bool{true}, len(cells)), make([]string, len(cells))
}

func tabulate(t testing.TB, p *enclave.Plan, m *enclave.Manifest, pieces int, cells []enclave.Cell, values *program.Values) *enclave.Table {
	t.Helper()
	keep, rules := all(cells)
	table, err := program.Tabulate(p, m, pieces, cells, keep, rules, values)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func decimal(t testing.TB, s string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatalf("%q is not a number", s)
	}
	return f
}
