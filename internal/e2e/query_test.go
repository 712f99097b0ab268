package e2e

import (
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// query is a random question in both languages. They differ in three places, and only there: BETWEEN is half-open in the
// lab's, GROUP BY of a number means its bins, and SQLite has few of the functions.
type query struct {
	groups  []column
	outputs []output
	where   condition
}

type output struct {
	fn    string
	cols  []column
	micro int64 // PERCENTILE
}

func (o output) sql() string {
	var args []string
	for _, c := range o.cols {
		args = append(args, c.name)
	}
	switch {
	case o.fn == "COUNT" && len(args) == 0:
		return "COUNT(*)"
	case o.fn == "PERCENTILE":
		args = append(args, fmt.Sprintf("0.%06d", o.micro))
	}
	return o.fn + "(" + strings.Join(args, ", ") + ")"
}

// lab is the query as an operator writes it.
func (q query) lab() string {
	var sel, group []string
	for _, g := range q.groups {
		sel, group = append(sel, g.name), append(group, g.name)
	}
	for _, o := range q.outputs {
		sel = append(sel, o.sql())
	}
	s := "SELECT " + strings.Join(sel, ", ") + " FROM data"
	if q.where.lab != "" {
		s += " WHERE " + q.where.lab
	}
	if len(group) > 0 {
		s += " GROUP BY " + strings.Join(group, ", ")
	}
	return s
}

// sqlite is a query over the plain table, grouped and filtered alike.
func (q query) sqlite(sel ...string) string {
	var group []string
	for i, g := range q.groups {
		sel = slices.Insert(sel, i, g.bin())
		group = append(group, fmt.Sprint(i+1))
	}
	s := "SELECT " + strings.Join(sel, ", ") + " FROM data"
	if q.where.sqlite != "" {
		s += " WHERE " + q.where.sqlite
	}
	if len(group) > 0 {
		s += " GROUP BY " + strings.Join(group, ", ")
	}
	return s
}

// bin is the label of a value as an expression of SQLite.
func (c column) bin() string {
	if c.labels != nil {
		return c.name
	}
	s := "CASE"
	for i, e := range c.bins[1:] {
		label := fmt.Sprintf("[%s,%s)", trim(c.bins[i], c.scale), trim(e, c.scale))
		if i+2 < len(c.bins) {
			s += fmt.Sprintf(" WHEN %s < %s THEN '%s'", c.name, decimal(e, c.scale), label)
		} else {
			s += fmt.Sprintf(" WHEN true THEN '%s]' END", strings.TrimSuffix(label, ")"))
		}
	}
	return s
}

func trim(v int64, scale int) string {
	s := decimal(v, scale)
	if scale > 0 {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s
}

type condition struct{ lab, sqlite string }

func (tab *plainTable) drawCondition(t *rapid.T, depth int) condition {
	kind := rapid.IntRange(0, 3).Draw(t, "connective")
	if depth == 0 || kind == 0 {
		return drawLeaf(t, rapid.SampledFrom(tab.dims()).Draw(t, "column"))
	}
	a := tab.drawCondition(t, depth-1)
	if kind == 1 {
		return condition{"NOT (" + a.lab + ")", "NOT (" + a.sqlite + ")"}
	}
	b := tab.drawCondition(t, depth-1)
	op := []string{" AND ", " OR "}[kind-2]
	return condition{"(" + a.lab + op + b.lab + ")", "(" + a.sqlite + op + b.sqlite + ")"}
}

func drawLeaf(t *rapid.T, c column) condition {
	if c.labels != nil {
		text := func(l string) string { return "'" + strings.ReplaceAll(l, "'", "''") + "'" }
		op := rapid.SampledFrom([]string{"=", "<>", "IN", "NOT IN"}).Draw(t, "op")
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(c.labels), 1, len(c.labels), rapid.ID).Draw(t, "labels")
		s := c.name + " " + op + " " + text(some[0])
		if strings.HasSuffix(op, "IN") {
			var list []string
			for _, l := range some {
				list = append(list, text(l))
			}
			s = c.name + " " + op + " (" + strings.Join(list, ", ") + ")"
		}
		return condition{s, s}
	}
	// Conditions on numbers fall on edges; the first edge is the least value and the last the greatest.
	from := rapid.IntRange(0, len(c.bins)-2).Draw(t, "edge")
	a := decimal(c.bins[from], c.scale)
	switch op := rapid.SampledFrom([]string{"<", ">=", "between", "not between"}).Draw(t, "op"); op {
	case "<", ">=":
		s := c.name + " " + op + " " + a
		return condition{s, s}
	default:
		to := rapid.IntRange(from+1, len(c.bins)-1).Draw(t, "to")
		b := decimal(c.bins[to], c.scale)
		end := "<"
		if to == len(c.bins)-1 {
			end = "<="
		}
		cond := condition{fmt.Sprintf("%s BETWEEN %s AND %s", c.name, a, b), fmt.Sprintf("(%s >= %s AND %s %s %s)", c.name, a, c.name, end, b)}
		if op == "not between" {
			cond = condition{fmt.Sprintf("%s NOT BETWEEN %s AND %s", c.name, a, b), "NOT " + cond.sqlite}
		}
		return cond
	}
}

// drawQuery draws groups, a condition and one or two functions.
func (tab *plainTable) drawQuery(t *rapid.T) query {
	var q query
	q.groups = append(q.groups, rapid.Permutation(tab.dims()).Draw(t, "groups")[:rapid.IntRange(0, 2).Draw(t, "how many")]...)
	if rapid.IntRange(0, 3).Draw(t, "where") > 0 {
		q.where = tab.drawCondition(t, 3)
	}
	number := func(ok func(column) bool) column {
		var some []column
		for _, c := range tab.numbers() {
			if ok(c) {
				some = append(some, c)
			}
		}
		return rapid.SampledFrom(some).Draw(t, "argument")
	}
	any := func(column) bool { return true }
	for range rapid.IntRange(1, 2).Draw(t, "outputs") {
		o := output{fn: rapid.SampledFrom(functions).Draw(t, "function")}
		switch o.fn {
		case "COUNT":
			if rapid.Bool().Draw(t, "COUNT(x)") {
				o.cols = []column{number(any)}
			}
		case "SUM", "AVG", "VAR_POP", "STDDEV_POP":
			o.cols = []column{number(any)}
		case "PERCENTILE":
			o.cols = []column{number(func(c column) bool { return c.bins != nil })}
			o.micro = rapid.Int64Range(1, 999_999).Draw(t, "fraction")
		default:
			o.cols = []column{number(func(c column) bool { return c.name == "x" }), number(func(c column) bool { return c.name == "y" })}
			if rapid.Bool().Draw(t, "swap") {
				slices.Reverse(o.cols)
			}
		}
		if !slices.ContainsFunc(q.outputs, func(other output) bool { return other.sql() == o.sql() }) {
			q.outputs = append(q.outputs, o)
		}
	}
	return q
}

var functions = []string{"COUNT", "SUM", "AVG", "VAR_POP", "STDDEV_POP", "COVAR_POP", "CORR", "REGR_SLOPE", "REGR_INTERCEPT", "REGR_R2", "PERCENTILE"}
