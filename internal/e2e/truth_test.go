package e2e

import (
	"database/sql"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	_ "modernc.org/sqlite"
)

// truth is the same table in SQLite: for every number x also x_i, scaled to an integer, because moments of those are
// exact.
type truth struct {
	*plainTable
	db *sql.DB
}

func newTruth(t *testing.T, tab *plainTable) *truth {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // every connection has a memory of its own
	t.Cleanup(func() { db.Close() })
	var defs, marks []string
	for _, c := range tab.columns {
		if c.labels != nil {
			defs, marks = append(defs, c.name+" TEXT"), append(marks, "?")
		} else {
			defs, marks = append(defs, c.name+" REAL", c.name+"_i INTEGER"), append(marks, "?", "?")
		}
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("CREATE TABLE data (" + strings.Join(defs, ", ") + ")"); err != nil {
		t.Fatal(err)
	}
	insert, err := tx.Prepare("INSERT INTO data VALUES (" + strings.Join(marks, ", ") + ")")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range tab.rows {
		var args []any
		for i, c := range tab.columns {
			switch v := row[i]; {
			case c.labels != nil:
				args = append(args, c.labels[v.v])
			case v.missing:
				args = append(args, nil, nil)
			default:
				f, err := strconv.ParseFloat(decimal(v.v, c.scale), 64)
				if err != nil {
					t.Fatal(err)
				}
				args = append(args, f, v.v)
			}
		}
		if _, err := insert.Exec(args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return &truth{tab, db}
}

// group is the answer to one group: a number per output, nil where there is none.
type group []*big.Float

// ask runs the query in SQLite and completes it with what SQLite has no function for.
func (tr *truth) ask(q query) (map[string]group, error) {
	var sel []string
	for _, o := range q.outputs {
		sel = append(sel, o.moments()...)
	}
	text := q.sqlite(sel...)
	rows, err := tr.db.Query(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	defer rows.Close()
	out := map[string]group{}
	for rows.Next() {
		labels, numbers := make([]string, len(q.groups)), make([]sql.NullFloat64, len(sel))
		var dst []any
		for i := range labels {
			dst = append(dst, &labels[i])
		}
		for i := range numbers {
			dst = append(dst, &numbers[i])
		}
		if err := rows.Scan(dst...); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		out[strings.Join(labels, "\x00")] = q.finish(numbers)
	}
	return out, rows.Err()
}

// nobody is the answer to a group without rows, which SQL leaves out and the lab does not.
func (q query) nobody() group {
	n := 0
	for _, o := range q.outputs {
		n += len(o.moments())
	}
	return q.finish(make([]sql.NullFloat64, n))
}

func (q query) finish(numbers []sql.NullFloat64) group {
	var g group
	for _, o := range q.outputs {
		n := len(o.moments())
		g = append(g, o.finish(numbers[:n]))
		numbers = numbers[n:]
	}
	return g
}

// moments are what SQLite computes for an output: the function itself, or what it is made of.
func (o output) moments() []string {
	switch o.fn {
	case "COUNT", "SUM", "AVG":
		return []string{o.sql()}
	case "VAR_POP", "STDDEV_POP":
		x := o.cols[0].name + "_i"
		return []string{"COUNT(" + x + ")", "SUM(" + x + ")", "SUM(" + x + "*" + x + ")"}
	case "PERCENTILE":
		var counts []string
		c := o.cols[0]
		for i := range c.bins[1:] {
			end := "<"
			if i+2 == len(c.bins) {
				end = "<="
			}
			counts = append(counts, fmt.Sprintf("SUM(%s_i >= %d AND %s_i %s %d)", c.name, c.bins[i], c.name, end, c.bins[i+1]))
		}
		return counts
	}
	y, x := o.cols[0].name+"_i", o.cols[1].name+"_i"
	return []string{"COUNT(*)", "SUM(" + y + ")", "SUM(" + y + "*" + y + ")", "SUM(" + x + ")", "SUM(" + x + "*" + x + ")", "SUM(" + x + "*" + y + ")"}
}

func number(v sql.NullFloat64) *big.Float { return new(big.Float).SetPrec(200).SetFloat64(v.Float64) }

func (o output) finish(v []sql.NullFloat64) *big.Float {
	switch o.fn {
	case "COUNT", "SUM": // SQL's SUM of nothing is NULL; the lab's is a sum
		return number(v[0])
	case "AVG":
		if !v[0].Valid {
			return nil
		}
		return number(v[0])
	case "PERCENTILE":
		return o.percentile(v)
	}
	n := number(v[0])
	if n.Sign() == 0 {
		return nil
	}
	div := func(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(200).Quo(a, b) }
	mul := func(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(200).Mul(a, b) }
	sub := func(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(200).Sub(a, b) }
	sqrt := func(a *big.Float) *big.Float { return new(big.Float).SetPrec(200).Sqrt(a) }
	unit := func(c column) *big.Float { return number(sql.NullFloat64{Float64: float64(pow10(c.scale))}) }
	// n²·Cov from sums of whole numbers: exact, and exactly zero where nothing varies.
	joint := func(product, a, b *big.Float) *big.Float { return sub(mul(n, product), mul(a, b)) }
	sumY, varY := number(v[1]), joint(number(v[2]), number(v[1]), number(v[1]))
	y := o.cols[0]
	switch o.fn {
	case "VAR_POP":
		return div(varY, mul(mul(n, n), mul(unit(y), unit(y))))
	case "STDDEV_POP":
		return div(sqrt(varY), mul(n, unit(y)))
	}
	x := o.cols[1]
	sumX, varX, cov := number(v[3]), joint(number(v[4]), number(v[3]), number(v[3])), joint(number(v[5]), sumY, number(v[3]))
	switch o.fn {
	case "COVAR_POP":
		return div(cov, mul(mul(n, n), mul(unit(y), unit(x))))
	case "CORR", "REGR_R2":
		if varX.Sign() == 0 || varY.Sign() == 0 {
			return nil
		}
		r := div(cov, sqrt(mul(varX, varY)))
		if o.fn == "REGR_R2" {
			r = mul(r, r)
		}
		return r
	}
	if varX.Sign() == 0 {
		return nil
	}
	slope := div(mul(div(cov, varX), unit(x)), unit(y))
	if o.fn == "REGR_SLOPE" {
		return slope
	}
	return sub(div(sumY, mul(n, unit(y))), mul(slope, div(sumX, mul(n, unit(x)))))
}

// percentile interpolates in the cumulative counts of the bins.
func (o output) percentile(counts []sql.NullFloat64) *big.Float {
	c, total := o.cols[0], 0.0
	for _, n := range counts {
		total += n.Float64
	}
	target, below := total*float64(o.micro)/1e6, 0.0
	for i, n := range counts {
		if n.Float64 > 0 && below+n.Float64 >= target {
			x := float64(c.bins[i]) + (target-below)/n.Float64*float64(c.bins[i+1]-c.bins[i])
			return big.NewFloat(x / float64(pow10(c.scale)))
		}
		below += n.Float64
	}
	return nil
}

// decimals are those that a figure is cut at when it has no noise.
func (o output) decimals() int {
	scale := func(i int) int { return o.cols[i].scale }
	switch o.fn {
	case "COUNT":
		return 0
	case "SUM":
		return scale(0)
	case "AVG", "STDDEV_POP", "REGR_INTERCEPT", "PERCENTILE":
		return scale(0) + 2
	case "VAR_POP":
		return 2*scale(0) + 2
	case "COVAR_POP":
		return scale(0) + scale(1) + 2
	case "REGR_SLOPE":
		return 12
	}
	return 6
}

// near reports whether a released figure is the true one, rounded.
func (o output) near(text string, want *big.Float) bool {
	got, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return false
	}
	w, _ := want.Float64()
	return math.Abs(got-w) <= 0.5*math.Pow10(-o.decimals())+1e-9*(1+math.Abs(w))
}
