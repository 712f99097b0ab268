package e2e

import (
	"database/sql"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Random queries over the agencies' tables, in both languages. They differ in how datasets are joined and in what shows a
// cell: HAVING says it to SQLite. Quantiles, which SQLite has not, are read off the rows that it selects.

// jointColumn is a column of one of the tables of newAgencies.
type jointColumn struct {
	name     string
	labels   []string
	lo, hi   int64 // numbers, in units of 10^-scale
	scale    int
	nullable bool
}

var jointTables = map[string][]jointColumn{
	"residents": {{name: "residents.town", labels: []string{"北", "南", "岛"}}, {name: "residents.age", hi: 120}, {name: "residents.alone", labels: []string{"是", "否"}}},
	"bills": {{name: "bills.kind", labels: []string{"a", "b"}}, {name: "bills.cost", lo: -500, hi: 4000, scale: 1},
		{name: "bills.paid", hi: 40000, scale: 2, nullable: true}, {name: "bills.visits", hi: 9}},
	"welfare": {{name: "welfare.benefit", labels: []string{"x", "y", "z"}}, {name: "welfare.age", hi: 120}, {name: "welfare.monthly", hi: 200}},
}

func (c jointColumn) text(v int64) string {
	return strconv.FormatFloat(float64(v)/float64(pow10(c.scale)), 'f', -1, 64)
}

// jointDraw draws queries over some of the tables.
type jointDraw struct {
	*rand.Rand
	names []string
	cols  []jointColumn
}

func newJointDraw(rnd *rand.Rand) *jointDraw {
	d := &jointDraw{Rand: rnd, names: []string{"residents", "bills", "welfare"}}
	rnd.Shuffle(3, func(i, j int) { d.names[i], d.names[j] = d.names[j], d.names[i] })
	d.names = d.names[:1+rnd.IntN(3)]
	for _, n := range d.names {
		d.cols = append(d.cols, jointTables[n]...)
	}
	return d
}

func (d *jointDraw) column(ok func(c jointColumn) bool) jointColumn {
	var some []jointColumn
	for _, c := range d.cols {
		if ok(c) {
			some = append(some, c)
		}
	}
	return some[d.IntN(len(some))]
}

func isNumber(c jointColumn) bool { return c.labels == nil }
func isLabel(c jointColumn) bool  { return c.labels != nil }

// constant is a bound, next to one, beyond one, or anywhere between; sometimes finer than the column.
func (d *jointDraw) constant(c jointColumn) string {
	v := []int64{c.lo, c.hi, c.lo + 1, c.hi - 1, c.lo - 1, c.hi + 1, c.lo + d.Int64N(c.hi-c.lo+1), c.lo + d.Int64N(c.hi-c.lo+1)}[d.IntN(8)]
	if d.IntN(5) == 0 {
		return jointColumn{scale: c.scale + 1}.text(10*v + 5)
	}
	return c.text(v)
}

func (d *jointDraw) condition(depth int) string {
	if depth > 0 {
		switch d.IntN(4) {
		case 0:
			return "NOT (" + d.condition(depth-1) + ")"
		case 1:
			return "(" + d.condition(depth-1) + " AND " + d.condition(depth-1) + ")"
		case 2:
			return "(" + d.condition(depth-1) + " OR " + d.condition(depth-1) + ")"
		}
	}
	op := []string{"<", "<=", ">", ">=", "=", "<>"}[d.IntN(6)]
	switch d.IntN(5) {
	case 0:
		c := d.column(isLabel)
		some := slices.Clone(c.labels)
		d.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		if d.IntN(2) == 0 {
			return fmt.Sprintf("%s %s '%s'", c.name, []string{"=", "<>"}[d.IntN(2)], some[0])
		}
		return fmt.Sprintf("%s %s ('%s')", c.name, []string{"IN", "NOT IN"}[d.IntN(2)], strings.Join(some[:1+d.IntN(len(some))], "', '"))
	case 1, 2:
		x, y := d.column(isNumber), d.column(isNumber)
		if x.name != y.name {
			return fmt.Sprintf("%s %s %s", x.name, op, y.name)
		}
		fallthrough
	case 3:
		c := d.column(isNumber)
		a, b := c.lo+d.Int64N(c.hi-c.lo+1), c.lo+d.Int64N(c.hi-c.lo+1)
		return fmt.Sprintf("%s %sBETWEEN %s AND %s", c.name, []string{"", "NOT "}[d.IntN(2)], c.text(min(a, b)), c.text(max(a, b)))
	}
	c := d.column(isNumber)
	return fmt.Sprintf("%s %s %s", c.name, op, d.constant(c))
}

// jointQuery is one question.
type jointQuery struct {
	from, where string
	groups      []jointColumn
	outputs     []jointOutput
	order       string
	limit       int
	having      int
}

type jointOutput struct {
	sql      string
	decimals int     // of an AVG, which is rounded; else -1
	fraction float64 // of a quantile; else 0
	col      jointColumn
}

func (d *jointDraw) query() jointQuery {
	q := jointQuery{from: d.names[0], outputs: []jointOutput{{sql: "COUNT(*)", decimals: -1}}}
	for _, n := range d.names[1:] {
		q.from += " JOIN " + n + " ON entity"
	}
	if d.IntN(5) > 0 {
		q.where = d.condition(d.IntN(4))
	}
	for range d.IntN(3) {
		if c := d.column(isLabel); !slices.ContainsFunc(q.groups, func(g jointColumn) bool { return g.name == c.name }) {
			q.groups = append(q.groups, c)
		}
	}
	for range d.IntN(3) {
		c := d.column(isNumber)
		o := jointOutput{decimals: -1, col: c}
		switch k := d.IntN(8); {
		case k == 0:
			o.sql = "SUM(" + c.name + ")"
		case k == 1:
			o.sql, o.decimals = "AVG("+c.name+")", c.scale+2
		case k == 2:
			o.sql = "COUNT(" + c.name + ")"
		case k == 3:
			o.sql = "COUNT(DISTINCT " + c.name + ")"
		case k == 4:
			o.sql = "COUNT(DISTINCT " + d.names[0] + ".person)"
		case c.nullable:
			o.sql = "COUNT(DISTINCT " + c.name + ")"
		default:
			o = []jointOutput{{"MIN(" + c.name + ")", -1, .01, c}, {"MAX(" + c.name + ")", -1, .99, c}, {"MEDIAN(" + c.name + ")", -1, .5, c},
				{"PERCENTILE_CONT(" + c.name + ", 0.875)", -1, .875, c}}[d.IntN(4)]
		}
		if !slices.ContainsFunc(q.outputs, func(other jointOutput) bool { return other.sql == o.sql }) {
			q.outputs = append(q.outputs, o)
		}
	}
	if len(q.groups) > 0 && d.IntN(4) == 0 {
		q.having = 1 + d.IntN(12)
	}
	if len(q.groups) > 0 && d.IntN(3) == 0 {
		q.limit = 1 + d.IntN(4)
		q.order = "COUNT(*) DESC"
		for _, g := range q.groups {
			q.order += ", " + g.name
		}
	}
	return q
}

func (q jointQuery) tail(having int) string {
	s := ""
	if q.where != "" {
		s += " WHERE " + q.where
	}
	var names []string
	for _, g := range q.groups {
		names = append(names, g.name)
	}
	if len(names) > 0 {
		s += " GROUP BY " + strings.Join(names, ", ")
	}
	if having > 0 {
		s += fmt.Sprintf(" HAVING COUNT(*) >= %d", having)
	}
	return s
}

func (q jointQuery) heads() []string {
	var out []string
	for _, g := range q.groups {
		out = append(out, g.name)
	}
	return out
}

// lab is the query as an operator writes it.
func (q jointQuery) lab() string {
	heads := q.heads()
	for _, o := range q.outputs {
		heads = append(heads, o.sql)
	}
	s := "SELECT " + strings.Join(heads, ", ") + " FROM " + q.from + q.tail(q.having)
	if q.limit > 0 {
		s += fmt.Sprintf(" ORDER BY %s LIMIT %d", q.order, q.limit)
	}
	return s
}

// plain turns the query's words into SQLite's.
func (w *agencies) plain(s string) string {
	for _, n := range []string{"bills", "welfare", "residents"} {
		s = strings.Replace(s, "JOIN "+n+" ON entity", "JOIN "+n+" USING (person)", 1)
	}
	return s
}

// truth answers in SQLite, with NULL for what noise-free figures lack. least is how many rows a cell needs to be shown.
func (w *agencies) truth(q jointQuery, least int) [][]string {
	w.t.Helper()
	heads := q.heads()
	for _, o := range q.outputs {
		if o.fraction > 0 {
			o.sql = "NULL"
		}
		heads = append(heads, o.sql)
	}
	s := "SELECT " + strings.Join(heads, ", ") + " FROM " + q.from + q.tail(max(least, q.having))
	if q.limit > 0 { // labels come in the declared order, which for 是 and 否 is not that of their bytes
		s += fmt.Sprintf(" ORDER BY %s LIMIT %d", strings.ReplaceAll(q.order, "residents.alone", "residents.alone DESC"), q.limit)
	}
	out := w.rows(w.plain(s))
	for i, o := range q.outputs {
		at := len(q.groups) + i
		if o.fraction == 0 {
			for _, row := range out {
				if row[at] == "" && strings.HasPrefix(o.sql, "SUM") {
					row[at] = "0" // SQL's SUM of nothing is NULL; the lab's is a sum
				}
			}
			continue
		}
		values := map[string][]float64{}
		s := "SELECT " + strings.Join(append(q.heads(), o.col.name), ", ") + " FROM " + q.from
		if q.where != "" {
			s += " WHERE " + q.where
		}
		for _, row := range w.rows(w.plain(s)) {
			x, err := strconv.ParseFloat(row[len(q.groups)], 64)
			w.check(err)
			key := strings.Join(row[:len(q.groups)], "\x00")
			values[key] = append(values[key], x)
		}
		for _, row := range out {
			xs := values[strings.Join(row[:len(q.groups)], "\x00")]
			slices.Sort(xs)
			k := max(1, int(math.Ceil(o.fraction*float64(len(xs))-1e-9)))
			row[at] = strconv.FormatFloat(xs[k-1], 'f', -1, 64)
		}
	}
	return out
}

func (w *agencies) rows(query string) [][]string {
	w.t.Helper()
	rows, err := w.db.Query(query)
	w.check(err)
	defer rows.Close()
	cols, err := rows.Columns()
	w.check(err)
	var out [][]string
	for rows.Next() {
		vals, ptrs := make([]sql.NullString, len(cols)), make([]any, len(cols))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		w.check(rows.Scan(ptrs...))
		line := make([]string, len(vals))
		for i, v := range vals {
			line[i] = v.String // NULL is empty
		}
		out = append(out, line)
	}
	w.check(rows.Err())
	return out
}

func (q jointQuery) same(got, want [][]string) bool {
	if q.limit == 0 {
		slices.SortFunc(got, slices.Compare[[]string])
		slices.SortFunc(want, slices.Compare[[]string])
	}
	return slices.EqualFunc(got, want, func(a, b []string) bool {
		for i := range a {
			near := 1e-6
			if o := i - len(q.groups); o >= 0 && q.outputs[o].decimals >= 0 {
				near += .5 * math.Pow10(-q.outputs[o].decimals)
			}
			x, errX := strconv.ParseFloat(a[i], 64)
			y, errY := strconv.ParseFloat(b[i], 64)
			if errX == nil && errY == nil && math.Abs(x-y) <= near || a[i] == b[i] || a[i] == "NULL" && b[i] == "" {
				continue
			}
			return false
		}
		return len(a) == len(b)
	})
}

// Random queries on random tables of every shape have SQLite's answers.
func TestRandomJointQueriesAgainstSQLite(t *testing.T) {
	queries := 12
	if testing.Short() {
		queries = 4
	}
	for kind, s := range shapes {
		rnd := rand.New(rand.NewPCG(uint64(kind), 77))
		w := newAgencies(t, rnd, s)
		answers := 0
		for range queries {
			q := newJointDraw(rnd).query()
			t.Run(s.name+" "+q.lab(), func(t *testing.T) {
				w.t = t
				p, view, err := w.plan(q.lab())
				if err != nil && strings.Contains(err.Error(), "no cell of GROUP BY satisfies the condition") {
					if want := w.truth(q, 1); len(want) > 0 {
						t.Fatalf("%v, but there is %v", err, want)
					}
					return
				}
				w.check(err)
				if p.Joint == nil {
					t.Fatal("not planned for the secret-shared engine")
				}
				got, want := w.run(p, view), w.truth(q, int(p.EntityRows))
				if !q.same(got, want) {
					t.Errorf("got  %v\nwant %v", got, want)
				}
				answers += len(want)
			})
		}
		w.t = t
		if answers == 0 && s.people > 10 && !testing.Short() {
			t.Errorf("%s: no query has an answer", s.name)
		}
	}
}
