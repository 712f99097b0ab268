package plan_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/plan"
)

// row is one row of the table that nobody but this test ever sees: values scaled, labels as text.
type row struct {
	labels  map[string]string
	numbers map[string]int64
}

// predicate is a random condition with its meaning, written independently of the planner.
type predicate struct {
	sql  func(outer int) string // outer: 1 OR, 2 AND, 3 NOT; parentheses only where SQL needs them
	test func(row) bool
}

var categories = map[string][]string{"district": {"浦东", "徐汇", "静安"}, "kind": {"", "residential", "business", "industry"}}

var numbers = map[string]struct {
	scale int64
	edges []int64
}{"month": {0, []int64{1, 4, 7, 10, 12}}, "usage": {1, []int64{0, 1000, 2000, 5000, 10000}}}

func leafOf(t *rapid.T) predicate {
	if rapid.Bool().Draw(t, "category") {
		name := rapid.SampledFrom([]string{"district", "kind"}).Draw(t, "column")
		list := rapid.SliceOfNDistinct(rapid.SampledFrom(categories[name]), 1, 3, rapid.ID).Draw(t, "labels")
		op := rapid.SampledFrom([]string{"=", "<>", "!=", "==", "IN", "NOT IN"}).Draw(t, "op")
		text := fmt.Sprintf("%s %s '%s'", name, op, list[0])
		if strings.HasSuffix(op, "IN") {
			text = fmt.Sprintf("%s %s ('%s')", name, op, strings.Join(list, "', '"))
		} else {
			list = list[:1]
		}
		not := op == "<>" || op == "!=" || op == "NOT IN"
		return predicate{func(int) string { return text }, func(r row) bool { return slices.Contains(list, r.labels[name]) != not }}
	}
	name := rapid.SampledFrom([]string{"month", "usage"}).Draw(t, "column")
	n := numbers[name]
	last := n.edges[len(n.edges)-1]
	a := rapid.SampledFrom(n.edges[:len(n.edges)-1]).Draw(t, "edge")
	number := enclave.FormatScaled(a, n.scale)
	switch op := rapid.SampledFrom([]string{"<", ">=", "reversed", "BETWEEN", "NOT BETWEEN"}).Draw(t, "op"); op {
	case "<":
		return predicate{func(int) string { return name + " < " + number }, func(r row) bool { return r.numbers[name] < a }}
	case ">=":
		return predicate{func(int) string { return name + ">=" + number }, func(r row) bool { return r.numbers[name] >= a }}
	case "reversed":
		return predicate{func(int) string { return number + " > " + name }, func(r row) bool { return a > r.numbers[name] }}
	default:
		z := rapid.SampledFrom(n.edges[1:]).Filter(func(v int64) bool { return v > a }).Draw(t, "end")
		text := fmt.Sprintf("%s %s %s AND %s", name, op, number, enclave.FormatScaled(z, n.scale))
		return predicate{func(int) string { return text }, func(r row) bool {
			v := r.numbers[name]
			return (v >= a && (v < z || z == last && v == z)) == (op == "BETWEEN")
		}}
	}
}

func drawPredicate(t *rapid.T, depth int) predicate {
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	if depth == 0 || kind == 0 {
		return leafOf(t)
	}
	x := drawPredicate(t, depth-1)
	paren := func(s string, level, outer int) string {
		if level < outer {
			return "(" + s + ")"
		}
		return s
	}
	if kind == 3 {
		return predicate{func(outer int) string { return "NOT " + x.sql(3) }, func(r row) bool { return !x.test(r) }}
	}
	y := drawPredicate(t, depth-1)
	if kind == 1 {
		return predicate{func(outer int) string { return paren(x.sql(1)+" OR "+y.sql(1), 1, outer) }, func(r row) bool { return x.test(r) || y.test(r) }}
	}
	return predicate{func(outer int) string { return paren(x.sql(2)+" AND "+y.sql(2), 2, outer) }, func(r row) bool { return x.test(r) && y.test(r) }}
}

func drawRow(t *rapid.T) row {
	r := row{map[string]string{}, map[string]int64{}}
	for _, name := range []string{"district", "kind"} {
		r.labels[name] = rapid.SampledFrom(categories[name]).Draw(t, name)
	}
	for _, name := range []string{"month", "usage"} {
		e := numbers[name].edges
		r.numbers[name] = rapid.OneOf(rapid.SampledFrom(e), rapid.Int64Range(e[0], e[len(e)-1])).Draw(t, name)
	}
	return r
}

// cell is where the row was sealed on an axis.
func cell(axis []string, r row) int64 {
	k := int64(0)
	for _, name := range axis {
		if domain, ok := categories[name]; ok {
			k = k*int64(len(domain)) + int64(slices.Index(domain, r.labels[name]))
			continue
		}
		e := numbers[name].edges
		bin := len(e) - 2
		for bin > 0 && r.numbers[name] < e[bin] {
			bin--
		}
		k = k*int64(len(e)-1) + int64(bin)
	}
	return k
}

func kept(runs []enclave.Run, k int64) bool {
	return slices.ContainsFunc(runs, func(r enclave.Run) bool { return k >= r.From && k < r.From+r.Count })
}

// TestWhere: a row is counted exactly if it satisfies the condition, whatever layout was chosen.
func TestWhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := fixture()
		if rapid.Bool().Draw(t, "rows") {
			r = without(r, "everything", "by-place", "bins")
			l := &r.Manifest.Layouts[0]
			*l = layout(r.Manifest, "fine", enclave.Rows, nil, []string{"district", "kind"}, []string{"month"}, []string{"usage", "month"})
		}
		c := drawPredicate(t, 4)
		r.Query = "SELECT COUNT(*) FROM water WHERE " + c.sql(0)
		rows := rapid.SliceOfN(rapid.Custom(drawRow), 20, 20).Draw(t, "rows")
		p, err := plan.Build(r)
		var refused *plan.RefusedError
		if errors.As(err, &refused) {
			switch refused.Reasons[0].Code {
			case plan.CodeEmpty:
				for _, row := range rows {
					if c.test(row) {
						t.Fatalf("%s\nis empty, but %v satisfies it", r.Query, row)
					}
				}
				return
			case plan.CodeLayout:
				if r.Manifest.Layouts[0].Kind == enclave.Rows {
					return
				}
			}
		}
		if err != nil {
			t.Fatalf("%s\n%v", r.Query, err)
		}
		for _, row := range rows {
			got := kept(p.Keep, cell(p.Axis, row)) && (p.Also == nil || kept(p.Also.Keep, cell(p.Also.Axis, row)))
			if got != c.test(row) {
				t.Fatalf("%s\n%v: planned %v, is %v", r.Query, row, got, c.test(row))
			}
		}
	})
}

// rewrite says the same in other words.
func rewrite(t *rapid.T, p predicate, depth int) predicate {
	s := p.sql(0)
	for range depth {
		switch rapid.IntRange(0, 4).Draw(t, "rewrite") {
		case 0:
			s = "NOT (NOT (" + s + "))"
		case 1:
			s = "(" + s + ") AND (" + s + ")"
		case 2:
			s = "(" + s + ") OR kind IN ('business') AND month < 7 AND (" + s + ")" // absorption
		case 3:
			s = "NOT (NOT (" + s + ") AND (kind = '' OR kind <> ''))"
		case 4:
			s = "/* same */ ((" + s + "))"
		}
	}
	return predicate{func(int) string { return s }, p.test}
}

func TestEquivalentConditions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawPredicate(t, 3)
		r := fixture()
		r.Query = "SELECT district, COUNT(*) FROM water WHERE " + c.sql(0) + " GROUP BY district"
		p, err := plan.Build(r)
		r.Query = "SELECT district, COUNT(*) FROM water WHERE " + rewrite(t, c, rapid.IntRange(1, 3).Draw(t, "depth")).sql(0) + " GROUP BY district"
		if len(r.Query) > plan.MaxQueryBytes {
			return
		}
		q, again := plan.Build(r)
		if (err == nil) != (again == nil) {
			t.Fatalf("%s\n%v\n%v", r.Query, err, again)
		}
		if err == nil {
			q.Query = p.Query
			if diff := cmp.Diff(p, q); diff != "" {
				t.Fatalf("%s\n%s", r.Query, diff)
			}
		}
	})
}

func FuzzBuild(f *testing.F) {
	for _, tc := range accepted {
		f.Add(tc.query)
	}
	for _, tc := range refused {
		f.Add(tc.query)
	}
	r := fixture()
	f.Fuzz(func(t *testing.T, query string) {
		r := r
		r.Query = query
		p, err := plan.Build(r)
		if err != nil {
			for _, reason := range reasons(t, err) {
				if reason.Text == "" || reason.Code == "" || reason.Pos.Line < 0 || !utf8.ValidString(reason.String()) {
					t.Fatalf("reason %+v", reason)
				}
			}
			return
		}
		check(t, r, p)
		if _, err := plan.Explain(p, r.Manifest, r.Keyset, r.Grant); err != nil {
			t.Fatal(err)
		}
		if _, err := canon.Marshal(p); err != nil {
			t.Fatal(err)
		}
	})
}
