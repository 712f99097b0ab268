package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// Conditions for the secret-shared engine: a tree in which NOT has been pushed to the leaves. A comparison with a missing
// number is not true, and neither is its negation, as in SQL.

// condition is a leaf (op 0) or AND or OR over kids.
type condition struct {
	op   sql.Token
	kids []*condition

	col enclave.Column
	// pass of a category: labels that satisfy the leaf.
	pass []bool
	// lo and hi of a number: lo <= x <= hi in scaled units; outside negates it, for x <> v and NOT BETWEEN.
	lo, hi  int64
	outside bool
	// other compares two numbers: col < other if strict, col <= other if not, col = other if equal, col <> other if both.
	other         *enclave.Column
	strict, equal bool
	differ        bool
}

// condition reads an expression; nil after a refusal.
func (b *builder) condition(e sql.Expr) *condition {
	before := len(b.reasons)
	c := b.logical(e, false)
	if len(b.reasons) > before {
		return nil
	}
	return c
}

func (b *builder) logical(e sql.Expr, negated bool) *condition {
	e = b.unparen(e)
	switch e := e.(type) {
	case *sql.UnaryExpr:
		if e.Op == sql.NOT {
			return b.logical(e.X, !negated)
		}
	case *sql.BinaryExpr:
		if e.Op == sql.AND || e.Op == sql.OR {
			x, y := b.logical(e.X, negated), b.logical(e.Y, negated)
			if x == nil || y == nil {
				return nil
			}
			op := e.Op
			if negated { // De Morgan
				op = sql.AND + sql.OR - op
			}
			return &condition{op: op, kids: []*condition{x, y}}
		}
		// NOT binds weaker than a comparison, but the parser reads NOT x = 1 as (NOT x) = 1.
		if not, ok := e.X.(*sql.UnaryExpr); ok && not.Op == sql.NOT {
			inner := *e
			inner.X = not.X
			return b.logical(&inner, !negated)
		}
		return b.compare(e, negated)
	}
	b.cond(e) // for its reason
	if len(b.reasons) == 0 {
		b.foreignExpr(e, "WHERE")
	}
	return nil
}

func (b *builder) compare(e *sql.BinaryExpr, negated bool) *condition {
	op, left, right := e.Op, b.unparen(e.X), b.unparen(e.Y)
	_, leftText, leftNumber := b.literal(left)
	if _, isColumn := right.(*sql.Ident); isColumn && (leftText || leftNumber) && flipped[op] != 0 {
		op, left, right = flipped[op], right, left
	}
	id, ok := left.(*sql.Ident)
	if _, known := flipped[op]; !ok || !known && op != sql.IN && op != sql.NOTIN && op != sql.BETWEEN && op != sql.NOTBETWEEN {
		b.comparison(e) // for its reason
		return nil
	}
	col, ok := b.column(id.Name, b.at(id.NamePos), operators.UseFilter)
	if !ok {
		return nil
	}
	if other, isColumn := right.(*sql.Ident); isColumn {
		return b.between2(col, op, other, negated, b.at(e.OpPos))
	}
	if col.Type == enclave.TypeCategory {
		c := b.category(col, op, e, right)
		if c == nil {
			return nil
		}
		pass := c.evaluate([]enclave.Column{col}, col.Size())
		for i := range pass {
			pass[i] = pass[i] != negated
		}
		return &condition{col: col, pass: pass}
	}
	return b.number(col, op, e, right, negated)
}

// between2 compares two number columns.
func (b *builder) between2(col enclave.Column, op sql.Token, id *sql.Ident, negated bool, at Pos) *condition {
	other, ok := b.column(id.Name, b.at(id.NamePos), operators.UseFilter)
	if !ok {
		return nil
	}
	if col.Type != enclave.TypeNumber || other.Type != enclave.TypeNumber {
		b.refuse(CodeColumn, at, fmt.Sprintf("%q and %q are not both numbers, and labels are compared with labels only", col.Name, other.Name), "write the label in single quotes")
		return nil
	}
	c := &condition{col: col, other: &other}
	if negated {
		op = map[sql.Token]sql.Token{sql.EQ: sql.NE, sql.NE: sql.EQ, sql.LT: sql.GE, sql.GE: sql.LT, sql.GT: sql.LE, sql.LE: sql.GT}[op]
	}
	switch op {
	case sql.EQ, sql.NE:
		c.equal, c.differ = true, op == sql.NE
	case sql.GT, sql.GE:
		c.col, *c.other = other, col
		c.strict = op == sql.GT
	case sql.LT, sql.LE:
		c.strict = op == sql.LT
	default:
		b.refuse(CodeUnsupported, at, fmt.Sprintf("%s compares a column with values", op), "write x < y, or x >= y AND x <= z")
		return nil
	}
	return c
}

// number compares a number column with literals.
func (b *builder) number(col enclave.Column, op sql.Token, e *sql.BinaryExpr, right sql.Expr, negated bool) *condition {
	leaf := func(lo, hi int64, outside bool) *condition {
		return &condition{col: col, lo: lo, hi: hi, outside: outside != negated}
	}
	if op == sql.BETWEEN || op == sql.NOTBETWEEN {
		lo, hi, ok := b.ends(col, e, right)
		if !ok {
			return nil
		}
		return leaf(lo, hi, op == sql.NOTBETWEEN)
	}
	var all []*condition
	for _, x := range b.values(op, right) {
		lo, hi, ok := b.range1(col, op, x)
		if !ok {
			return nil
		}
		all = append(all, leaf(lo, hi, op == sql.NE || op == sql.NOTIN))
	}
	if len(all) == 0 {
		return nil
	}
	out := all[0]
	join := sql.Token(sql.OR)
	if all[0].outside {
		join = sql.AND
	}
	for _, c := range all[1:] {
		out = &condition{op: join, kids: []*condition{out, c}}
	}
	return out
}

// range1 is the interval that a comparison with one value leaves. Values finer than the column's units are allowed here:
// x < 39.5 is x <= 39 for whole numbers.
func (b *builder) range1(col enclave.Column, op sql.Token, e sql.Expr) (lo, hi int64, ok bool) {
	s, isText, isNumber := b.literal(e)
	at := b.place(b.unparen(e))
	if isText && len(col.Bins) > 0 && (op == sql.EQ || op == sql.NE || op == sql.IN || op == sql.NOTIN) {
		for i := range col.Size() {
			if col.Label(i) == s {
				lo, hi = binRange(col, i)
				return lo, hi, true
			}
		}
	}
	if !isNumber {
		if isText {
			b.refuse(CodeDomain, at, fmt.Sprintf("%q is a number and is compared with text", col.Name), "write the number without quotes")
		} else {
			b.notLiteral(e)
		}
		return 0, 0, false
	}
	v, err := parseDecimal(s, col.Scale)
	whole := true
	if errors.Is(err, errFiner) {
		var fine int64
		if fine, err = parseDecimal(s, 12); err == nil {
			unit := int64(math.Pow10(int(12 - col.Scale)))
			v, whole = fine/unit, false
			if fine < 0 {
				v-- // floor
			}
		}
	}
	if err != nil {
		b.refuse(CodeDomain, at, fmt.Sprintf("%s is out of the range of numbers, or finer than twelve decimals", clip(s)), "write a plain decimal")
		return 0, 0, false
	}
	lo, hi = math.MinInt64, math.MaxInt64
	switch op {
	case sql.LT, sql.LE:
		if hi = v; whole && op == sql.LT {
			hi = v - 1
		}
	case sql.GT, sql.GE:
		if lo = v; !whole || op == sql.GT {
			lo = v + 1
		}
	default:
		if lo, hi = v, v; !whole {
			lo, hi = 1, 0 // nothing equals it
		}
	}
	return lo, hi, true
}

func binRange(col enclave.Column, i int) (lo, hi int64) {
	lo, hi = col.Bins[i], col.Bins[i+1]-1
	if i == col.Size()-1 {
		hi++
	}
	return lo, hi
}

// ends reads BETWEEN a AND b. It includes both, as in SQL, but where both are bin edges of the column: there it is
// [a, b) as for the other engine, so that a query never changes its meaning with the engine.
func (b *builder) ends(col enclave.Column, e *sql.BinaryExpr, right sql.Expr) (lo, hi int64, ok bool) {
	r, isRange := right.(*sql.Range)
	if !isRange {
		b.refuse(CodeSyntax, b.at(e.OpPos), "BETWEEN needs two numbers", "write x BETWEEN number AND number")
		return 0, 0, false
	}
	lo, _, ok = b.range1(col, sql.GE, r.X)
	if !ok {
		return 0, 0, false
	}
	if _, hi, ok = b.range1(col, sql.LE, r.Y); !ok {
		return 0, 0, false
	}
	edge := func(v int64) bool { return slices.Contains(col.Bins, v) }
	if edge(lo) && edge(hi) && hi != col.Bins[len(col.Bins)-1] {
		hi--
	}
	return lo, hi, true
}

// possible reports whether rows of a cell of GROUP BY may satisfy the condition, judging by the group columns alone.
func (c *condition) possible(groups []enclave.Column, cell []int) bool {
	switch c.op {
	case sql.AND:
		return c.kids[0].possible(groups, cell) && c.kids[1].possible(groups, cell)
	case sql.OR:
		return c.kids[0].possible(groups, cell) || c.kids[1].possible(groups, cell)
	}
	g := slices.IndexFunc(groups, func(x enclave.Column) bool { return x.Name == c.col.Name })
	switch {
	case g < 0 || c.other != nil:
		return true
	case c.pass != nil:
		return c.pass[cell[g]]
	}
	lo, hi := binRange(groups[g], cell[g])
	if c.outside {
		return lo < c.lo || hi > c.hi
	}
	return lo <= c.hi && hi >= c.lo
}

// columns visits the columns of every leaf.
func (c *condition) columns(visit func(enclave.Column)) {
	for _, k := range c.kids {
		k.columns(visit)
	}
	if c.op == 0 {
		visit(c.col)
		if c.other != nil {
			visit(*c.other)
		}
	}
}
