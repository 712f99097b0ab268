// Package reference computes from cleartext rows what a plan's opened values would be without noise. It is the twin that
// tests hold the encrypted path against, and the "true value" beside a released figure in demonstrations on public data.
//
// It takes rows in the clear and adds no noise, so no daemon and no tool that touches protected data links it; only tests
// and examples do. It places each row by the plan's own words (axis, runs, groups), not by the terms that Expand makes
// of them, and so checks those as well.
package reference

import (
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program"
)

// Row is one row of the table as sealing encodes it. Each slice has one entry per column of the manifest.
type Row struct {
	Dim     []int   // index of the value as a dimension (label or bin), or -1 if it has none
	Value   []int64 // numbers: scaled value minus Centre; 0 if missing
	Present []bool  // numbers: not missing
}

// ErrOverflow means that a sum does not fit 63 bits; the planner refuses such plans.
var ErrOverflow = errors.New("sum does not fit 63 bits")

// Compute adds up every term of the plan over the rows, exactly. A row that has no value in a dimension of the plan's axis
// belongs to no cell.
func Compute(p *enclave.Plan, m *enclave.Manifest, rows iter.Seq[Row]) (*program.Values, error) {
	c, err := newComputation(p, m)
	if err != nil {
		return nil, fmt.Errorf("reference computation: %w", err)
	}
	for r := range rows {
		if len(r.Dim) != len(m.Columns) || len(r.Value) != len(m.Columns) || len(r.Present) != len(m.Columns) {
			return nil, fmt.Errorf("reference computation: a row has not one entry for each of %d columns", len(m.Columns))
		}
		c.add(r)
	}
	values := program.NewValues(len(c.cells), len(p.Measures))
	for at, sum := range c.sums {
		if !sum.IsInt64() {
			return nil, fmt.Errorf("reference computation: measure %d (%q): %w", at.measure, p.Measures[at.measure].Moment, ErrOverflow)
		}
		values.Set(at.cell, at.measure, at.bin, sum.Int64())
	}
	return values, nil
}

// Table is the exact answer for every cell of the plan, in the order of the cells: nothing suppressed, no HAVING, ORDER
// BY or LIMIT, so that each row of a released table has its counterpart. It has no Salt.
func Table(p *enclave.Plan, m *enclave.Manifest, rows iter.Seq[Row]) (*enclave.Table, error) {
	all := *p
	all.Having, all.OrderBy, all.Limit = nil, nil, 0
	values, err := Compute(&all, m, rows)
	if err != nil {
		return nil, err
	}
	cells, _, err := all.Expand(m)
	if err != nil {
		return nil, fmt.Errorf("reference computation: %w", err)
	}
	keep := slices.Repeat([]bool{true}, len(cells))
	return program.Tabulate(&all, m, 0, cells, keep, make([]string, len(cells)), values)
}

type place struct{ cell, measure, bin int }

type computation struct {
	m        *enclave.Manifest
	cells    []enclave.Cell
	cell     map[string]int // by coordinates
	filters  []filter
	groups   []int // column numbers
	measures []measure
	sums     map[place]*big.Int
}

// filter is a condition on the index that a row has on an axis.
type filter struct {
	cols []int
	keep []enclave.Run
}

type measure struct {
	letter string
	cols   []int
	by     int // column number, or -1
}

func newComputation(p *enclave.Plan, m *enclave.Manifest) (*computation, error) {
	cells, terms, err := p.Expand(m)
	if err != nil {
		return nil, err
	}
	c := &computation{m: m, cells: cells, cell: map[string]int{}, sums: map[place]*big.Int{}}
	for i, coords := range cells {
		c.cell[fmt.Sprint(coords)] = i
	}
	for _, t := range terms {
		c.sums[place{t.Cell, t.Measure, t.Bin}] = new(big.Int)
	}
	columns := func(names []string) (out []int) {
		for _, name := range names {
			at := slices.IndexFunc(m.Columns, func(col enclave.Column) bool { return col.Name == name })
			if at < 0 && err == nil {
				err = fmt.Errorf("column %q is not in the manifest", name)
			}
			out = append(out, at)
		}
		return out
	}
	c.filters = append(c.filters, filter{columns(p.Axis), p.Keep})
	if p.Also != nil {
		c.filters = append(c.filters, filter{columns(p.Also.Axis), p.Also.Keep})
	}
	c.groups = columns(p.Groups)
	for _, me := range p.Measures {
		letter, names := me.Moment.Split()
		out := measure{letter: letter, cols: columns(names), by: -1}
		if want, ok := map[string]int{"n": min(len(names), 1), "s": 1, "q": 1, "p": 2}[letter]; !ok || want != len(names) {
			return nil, fmt.Errorf("no moment %q", me.Moment)
		}
		if me.By != "" {
			out.by = columns([]string{me.By})[0]
		}
		c.measures = append(c.measures, out)
	}
	return c, err
}

func (c *computation) add(r Row) {
	for _, f := range c.filters {
		if !f.holds(c.m, r) {
			return
		}
	}
	coords := make(enclave.Cell, len(c.groups))
	for i, g := range c.groups {
		coords[i] = r.Dim[g]
	}
	cell := c.cell[fmt.Sprint(coords)]
	for i, me := range c.measures {
		at := place{cell: cell, measure: i}
		if me.by >= 0 {
			at.bin = r.Dim[me.by]
		}
		c.sums[at].Add(c.sums[at], me.of(r))
	}
}

func (f filter) holds(m *enclave.Manifest, r Row) bool {
	index := int64(0)
	for _, col := range f.cols {
		if r.Dim[col] < 0 {
			return false
		}
		index = index*int64(m.Columns[col].Size()) + int64(r.Dim[col])
	}
	return slices.ContainsFunc(f.keep, func(run enclave.Run) bool { return run.From <= index && index < run.From+run.Count })
}

// of is the row's contribution to the moment (package enclave, Moment).
func (me measure) of(r Row) *big.Int {
	product := big.NewInt(1)
	for _, col := range me.cols {
		if !r.Present[col] {
			return new(big.Int)
		}
		switch me.letter {
		case "n":
		case "q":
			x := big.NewInt(r.Value[col])
			product.Mul(x, x)
		default:
			product.Mul(product, big.NewInt(r.Value[col]))
		}
	}
	return product
}
