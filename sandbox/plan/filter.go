package plan

import (
	"fmt"
	"slices"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
)

// maxSteps bounds the evaluation of a condition: leaves and connectives × combinations of values.
const maxSteps = 1 << 26

// filter is the set of value combinations of cols that WHERE lets pass, with every column that makes no difference taken
// out. cols are in manifest order; pass is in row-major order with the last column fastest, as in an axis.
type filter struct {
	cols []enclave.Column
	pass []bool
}

// evaluate makes the set of a condition, or refuses one that nothing or too much work satisfies.
func (b *builder) evaluate(c *cond, at Pos) *filter {
	var cols []enclave.Column
	mentioned, nodes := map[string]bool{}, 0
	c.walk(func(n *cond) {
		nodes++
		if n.op == 0 {
			mentioned[n.col.Name] = true
		}
	})
	size := int64(1)
	for _, col := range b.Manifest.Columns {
		if !mentioned[col.Name] {
			continue
		}
		cols = append(cols, col)
		if size > enclave.MaxCells/int64(col.Size()) {
			size = enclave.MaxCells + 1
			break
		}
		size *= int64(col.Size())
	}
	if size > enclave.MaxCells || int64(nodes)*size > maxSteps {
		b.refuse(CodeTooLong, at, fmt.Sprintf("the condition is too large to evaluate: %d parts over %s", nodes, list(names(cols))),
			"use IN lists instead of OR, or fewer columns")
		return nil
	}
	f := &filter{cols: cols, pass: c.evaluate(cols, int(size))}
	if !slices.Contains(f.pass, true) {
		b.refuse(CodeEmpty, at, "no combination of declared values satisfies the condition", "check for contradictions joined by AND")
		return nil
	}
	return f.reduce()
}

func (c *cond) walk(visit func(*cond)) {
	visit(c)
	for _, k := range c.kids {
		k.walk(visit)
	}
}

// evaluate gives the verdict at each of size combinations of cols.
func (c *cond) evaluate(cols []enclave.Column, size int) []bool {
	switch c.op {
	case sql.NOT:
		out := c.kids[0].evaluate(cols, size)
		for i := range out {
			out[i] = !out[i]
		}
		return out
	case sql.AND, sql.OR:
		x, y := c.kids[0].evaluate(cols, size), c.kids[1].evaluate(cols, size)
		for i := range x {
			if c.op == sql.AND {
				x[i] = x[i] && y[i]
			} else {
				x[i] = x[i] || y[i]
			}
		}
		return x
	}
	out := make([]bool, size)
	stride, n := strideOf(cols, c.col.Name), c.col.Size()
	for i := range out {
		out[i] = c.verdict[i/stride%n]
	}
	return out
}

// strideOf is the distance between neighbouring values of a column in the row-major order of cols.
func strideOf(cols []enclave.Column, name string) int {
	stride := 1
	for i := len(cols) - 1; cols[i].Name != name; i-- {
		stride *= cols[i].Size()
	}
	return stride
}

// reduce takes out the columns that make no difference.
func (f *filter) reduce() *filter {
	var keep []enclave.Column
	for _, col := range f.cols {
		stride, n := strideOf(f.cols, col.Name), col.Size()
		for i, p := range f.pass {
			if v := i / stride % n; v > 0 && p != f.pass[i-v*stride] {
				keep = append(keep, col)
				break
			}
		}
	}
	return f.project(keep)
}

// project is the set of combinations of some of the columns that pass with any values of the others.
func (f *filter) project(cols []enclave.Column) *filter {
	out := &filter{cols: cols, pass: make([]bool, volume(cols))}
	to := indexer(f.cols, cols)
	for i, p := range f.pass {
		if p {
			out.pass[to(i)] = true
		}
	}
	return out
}

func volume(cols []enclave.Column) int {
	n := 1
	for _, c := range cols {
		n *= c.Size()
	}
	return n
}

// indexer maps an index over the columns from to the index over some of them.
func indexer(from, to []enclave.Column) func(int) int {
	type digit struct{ stride, size int }
	digits := make([]digit, len(to))
	for i, c := range to {
		digits[i] = digit{strideOf(from, c.Name), c.Size()}
	}
	return func(i int) int {
		out := 0
		for _, d := range digits {
			out = out*d.size + i/d.stride%d.size
		}
		return out
	}
}

func (f *filter) count() int {
	n := 0
	for _, p := range f.pass {
		if p {
			n++
		}
	}
	return n
}

// split writes the set as a product of one over the columns that on holds and one over the rest. It reports false if the
// set is no such product.
func (f *filter) split(on func(string) bool) (in, rest *filter, ok bool) {
	var a, z []enclave.Column
	for _, c := range f.cols {
		if on(c.Name) {
			a = append(a, c)
		} else {
			z = append(z, c)
		}
	}
	in, rest = f.project(a), f.project(z) // the set is within the product of its projections
	return in, rest, f.count() == in.count()*rest.count()
}

// over lists the indices of an axis, which has all columns of the filter, that pass.
func (f *filter) over(axis []enclave.Column) []int64 {
	to := indexer(axis, f.cols)
	var out []int64
	for i := range volume(axis) {
		if f.pass[to(i)] {
			out = append(out, int64(i))
		}
	}
	return out
}
