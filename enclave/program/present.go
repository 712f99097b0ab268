package program

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"

	"yingzhou.dev/lab/enclave"
)

// row is a released cell on its way into the table.
type row struct {
	cell    enclave.Cell
	values  []enclave.Value
	numbers []*big.Rat // the released digits; nil for labels and NULL
}

func (r *row) label(text string) {
	r.values, r.numbers = append(r.values, enclave.Value{Text: text}), append(r.numbers, nil)
}

func (r *row) figure(v enclave.Value) {
	var n *big.Rat
	if v.Null == "" {
		var err error
		if n, err = parseDecimal(v.Text); err != nil {
			panic("program: reading back its own digits: " + err.Error())
		}
	}
	r.values, r.numbers = append(r.values, v), append(r.numbers, n)
}

// present applies HAVING, ORDER BY and LIMIT, in that order, to rows in the order of the cells.
func (f *frame) present(rows []row) ([]row, error) {
	for _, h := range f.plan.Having {
		passes, err := f.having(h)
		if err != nil {
			return nil, fmt.Errorf("HAVING: %w", err)
		}
		rows = slices.DeleteFunc(rows, func(r row) bool { return !passes(r) })
	}
	var by []func(a, b row) int
	for _, o := range f.plan.OrderBy {
		compare, err := f.order(o)
		if err != nil {
			return nil, fmt.Errorf("ORDER BY: %w", err)
		}
		by = append(by, compare)
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		for _, compare := range by {
			if c := compare(a, b); c != 0 {
				return c
			}
		}
		return 0
	})
	if n := f.plan.Limit; n < 0 {
		return nil, fmt.Errorf("LIMIT %d is negative", n)
	} else if n > 0 && int64(len(rows)) > n {
		rows = rows[:n]
	}
	return rows, nil
}

// having is the condition as a function of a row. A comparison with NULL is not true.
func (f *frame) having(h enclave.Having) (func(row) bool, error) {
	fo, err := f.output(h.Output)
	if err != nil {
		return nil, err
	}
	if fo.group >= 0 {
		return nil, fmt.Errorf("column %q is a label: conditions on labels belong in WHERE", fo.title)
	}
	bound, err := parseDecimal(h.Value)
	if err != nil {
		return nil, err
	}
	test := map[string]func(int) bool{
		"=":  func(c int) bool { return c == 0 },
		"<>": func(c int) bool { return c != 0 },
		"<":  func(c int) bool { return c < 0 },
		"<=": func(c int) bool { return c <= 0 },
		">":  func(c int) bool { return c > 0 },
		">=": func(c int) bool { return c >= 0 },
	}[h.Op]
	if test == nil {
		return nil, fmt.Errorf("no comparison %q", h.Op)
	}
	return func(r row) bool {
		v := r.numbers[h.Output]
		return v != nil && test(v.Cmp(bound))
	}, nil
}

// order compares rows by a label's place in its domain or by a figure.
func (f *frame) order(o enclave.Order) (func(a, b row) int, error) {
	fo, err := f.output(o.Output)
	if err != nil {
		return nil, err
	}
	sign := 1
	if o.Desc {
		sign = -1
	}
	if fo.group >= 0 {
		return func(a, b row) int { return sign * cmp.Compare(a.cell[fo.group], b.cell[fo.group]) }, nil
	}
	return func(a, b row) int {
		x, y := a.numbers[o.Output], b.numbers[o.Output]
		switch {
		case x == nil && y == nil:
			return 0
		case x == nil:
			return 1
		case y == nil:
			return -1
		}
		return sign * x.Cmp(y)
	}, nil
}

func (f *frame) output(i int64) (formula, error) {
	if i < 0 || i >= int64(len(f.formulas)) {
		return formula{}, fmt.Errorf("output %d of %d", i, len(f.formulas))
	}
	return f.formulas[i], nil
}
