package plan

import (
	"fmt"
	"slices"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// WHERE is read into a tree whose leaves say, for each value of one column, whether it passes. The tree is evaluated at
// every combination of values, so what counts afterwards is a set: conditions that mean the same make the same plan.

// cond is a condition: a leaf with a verdict per value of col, or a connective of one kind over kids.
type cond struct {
	op      sql.Token // AND, OR, NOT; 0 = leaf
	kids    []*cond
	col     enclave.Column
	verdict []bool
}

// where reads the condition and evaluates it.
func (b *builder) where(e sql.Expr, at Pos) {
	before := len(b.reasons)
	c := b.cond(e)
	if c == nil || len(b.reasons) > before {
		return
	}
	b.filter = b.evaluate(c, at)
}

// cond reads a condition; nil after a refusal. Both sides of a connective are always read.
func (b *builder) cond(e sql.Expr) *cond {
	e = b.unparen(e)
	switch e := e.(type) {
	case *sql.UnaryExpr:
		if e.Op == sql.NOT {
			return negate(b.cond(e.X))
		}
	case *sql.BinaryExpr:
		if e.Op == sql.AND || e.Op == sql.OR {
			x, y := b.cond(e.X), b.cond(e.Y)
			if x == nil || y == nil {
				return nil
			}
			return &cond{op: e.Op, kids: []*cond{x, y}}
		}
		// NOT binds weaker than a comparison, but the parser reads NOT x = 1 as (NOT x) = 1.
		if not, ok := e.X.(*sql.UnaryExpr); ok && not.Op == sql.NOT {
			inner := *e
			inner.X = not.X
			return negate(b.cond(&inner))
		}
		return b.comparison(e)
	case *sql.Null:
		b.refuse(CodeUnsupported, b.place(e), "IS NULL is not part of the language",
			"a missing category is the label '': write x = ''; COUNT(x) counts present numbers")
		return nil
	case *sql.Ident, *sql.NumberLit, *sql.StringLit, *sql.BoolLit:
		b.refuse(CodeUnsupported, b.place(e), "WHERE needs a comparison here", "write column = 'label', or leave WHERE out for all rows")
		return nil
	case *sql.Call:
		b.refuse(CodeUnsupported, b.place(e), "a function may not stand in WHERE", "conditions on released aggregates go in HAVING")
		return nil
	}
	b.foreignExpr(e, "WHERE")
	return nil
}

func negate(c *cond) *cond {
	if c == nil {
		return nil
	}
	return &cond{op: sql.NOT, kids: []*cond{c}}
}

var flipped = map[sql.Token]sql.Token{sql.EQ: sql.EQ, sql.NE: sql.NE, sql.LT: sql.GT, sql.GT: sql.LT, sql.LE: sql.GE, sql.GE: sql.LE}

// comparison reads column op literal in either order, IN and BETWEEN.
func (b *builder) comparison(e *sql.BinaryExpr) *cond {
	op, left, right := e.Op, b.unparen(e.X), b.unparen(e.Y)
	switch op {
	case sql.IN, sql.NOTIN, sql.BETWEEN, sql.NOTBETWEEN:
	case sql.EQ, sql.NE, sql.LT, sql.LE, sql.GT, sql.GE:
		_, leftText, leftNumber := b.literal(left)
		if _, isColumn := right.(*sql.Ident); isColumn && (leftText || leftNumber) {
			op, left, right = flipped[op], right, left
		}
	case sql.LIKE, sql.NOTLIKE, sql.GLOB, sql.NOTGLOB, sql.REGEXP, sql.NOTREGEXP, sql.MATCH, sql.NOTMATCH:
		b.refuse(CodeUnsupported, b.at(e.OpPos), fmt.Sprintf("%s is not part of the language", e.Op), "list the labels: x IN ('a', 'b')")
		return nil
	case sql.IS, sql.ISNOT:
		b.refuse(CodeUnsupported, b.at(e.OpPos), "IS is not part of the language", "write = or <>; a missing category is the label ''")
		return nil
	default:
		b.foreignExpr(e, "WHERE")
		return nil
	}
	id, ok := left.(*sql.Ident)
	if !ok {
		if _, isCall := left.(*sql.Call); isCall {
			b.refuse(CodeUnsupported, b.place(left), "an aggregate may not stand in WHERE", "conditions on released aggregates go in HAVING")
		} else if _, isText, isNumber := b.literal(left); isText || isNumber {
			b.refuse(CodeUnsupported, b.place(left), "a comparison needs a column", "write column = 'label'")
		} else {
			b.foreignExpr(left, "WHERE")
		}
		return nil
	}
	at := b.at(id.NamePos)
	if other, isColumn := right.(*sql.Ident); isColumn {
		if other.Quoted {
			if _, known := b.Manifest.Column(other.Name); !known {
				b.refuse(CodeSyntax, b.at(other.NamePos), fmt.Sprintf("%q in double quotes is a name, and no column has it", clip(other.Name)), "write text in single quotes")
				return nil
			}
		}
		b.refuse(CodeEngine, b.at(e.OpPos), "comparing two columns needs the secret-shared engine", "compare each with declared values")
		return nil
	}
	col, ok := b.column(id.Name, at, operators.UseFilter)
	if !ok || !b.dimension(col, at, "filtered by") {
		return nil
	}
	if col.Type == enclave.TypeCategory {
		return b.category(col, op, e, right)
	}
	return b.numeric(col, op, e, right)
}

// literal reads a string, or a number with its sign.
func (b *builder) literal(e sql.Expr) (value string, isText, isNumber bool) {
	switch e := b.unparen(e).(type) {
	case *sql.StringLit:
		return e.Value, true, false
	case *sql.NumberLit:
		return e.Value, false, true
	case *sql.UnaryExpr:
		if n, ok := e.X.(*sql.NumberLit); ok && e.Op == sql.MINUS {
			return "-" + n.Value, false, true
		} else if ok && e.Op == sql.PLUS {
			return n.Value, false, true
		}
	}
	return "", false, false
}

// values lists the literals to compare with: of an IN list, or the one operand.
func (b *builder) values(op sql.Token, right sql.Expr) []sql.Expr {
	if op != sql.IN && op != sql.NOTIN {
		return []sql.Expr{right}
	}
	list, ok := right.(*sql.ExprList)
	if !ok || len(list.Exprs) == 0 {
		b.refuse(CodeUnsupported, b.place(right), "IN needs a list of values", "write x IN ('a', 'b')")
		return nil
	}
	return list.Exprs
}

func (b *builder) category(col enclave.Column, op sql.Token, e *sql.BinaryExpr, right sql.Expr) *cond {
	leaf := &cond{col: col, verdict: make([]bool, col.Size())}
	switch op {
	case sql.EQ, sql.NE, sql.IN, sql.NOTIN:
	default:
		b.refuse(CodeUnsupported, b.at(e.OpPos), fmt.Sprintf("labels of %q have no order to compare by %s", col.Name, op), "list the labels: "+col.Name+" IN ('a', 'b')")
		return nil
	}
	values, ok := b.values(op, right), true
	for _, v := range values {
		label, isText, isNumber := b.literal(v)
		i := slices.Index(col.Domain, label)
		switch {
		case isText && i >= 0:
			leaf.verdict[i] = true
			continue
		case isText:
			b.refuse(CodeDomain, b.place(v), fmt.Sprintf("%q is not a label of %q", clip(label), col.Name), "labels: "+nearest(label, col.Domain))
		case isNumber:
			b.refuse(CodeDomain, b.place(v), fmt.Sprintf("labels of %q are text", col.Name), fmt.Sprintf("write '%s' in single quotes", clip(label)))
		default:
			b.notLiteral(v)
		}
		ok = false
	}
	if !ok || len(values) == 0 {
		return nil
	}
	if op == sql.NE || op == sql.NOTIN {
		return negate(leaf)
	}
	return leaf
}

func (b *builder) notLiteral(e sql.Expr) {
	switch e := b.unparen(e).(type) {
	case *sql.NullLit:
		b.refuse(CodeUnsupported, b.place(e), "nothing equals NULL", "a missing category is the label ''")
	case *sql.Ident:
		b.refuse(CodeUnsupported, b.place(e), "a condition compares a column with values", "write text in single quotes")
	default:
		b.foreignExpr(e, "WHERE")
	}
}
