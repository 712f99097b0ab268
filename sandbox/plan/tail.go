package plan

import (
	"fmt"
	"slices"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
)

// HAVING, ORDER BY and LIMIT work on the released table: they cost nothing and see nothing that the operator does not.

// find resolves an expression to an output: by alias or name, by the aggregate itself, or not at all.
func (b *builder) find(e sql.Expr, clause string) (int64, bool) {
	switch e := e.(type) {
	case *sql.Ident:
		if i := slices.IndexFunc(b.outputs, func(o enclave.Output) bool { return o.Name == e.Name }); i >= 0 {
			return int64(i), true
		}
		if i := slices.IndexFunc(b.selected, selected{fn: groupFunc, args: []string{e.Name}}.equal); i >= 0 {
			return int64(i), true
		}
		if !b.partial {
			b.refuse(CodeName, b.at(e.NamePos), fmt.Sprintf("%s names %q, which is not an output", clause, clip(e.Name)),
				"outputs: "+list(outputNames(b.outputs)))
		}
	case *sql.Call:
		what, name, _, ok := b.call(e, false)
		if !ok {
			return 0, false
		}
		if i := slices.IndexFunc(b.selected, what.equal); i >= 0 {
			return int64(i), true
		}
		if !b.partial {
			b.refuse(CodeName, b.at(e.Name.NamePos), fmt.Sprintf("%s uses %s, which is not selected", clause, clip(name)),
				"add it to the select list: every figure used is released and paid for")
		}
	default:
		b.foreignExpr(e, clause)
	}
	return 0, false
}

func outputNames(outputs []enclave.Output) []string {
	out := make([]string, len(outputs))
	for i, o := range outputs {
		out[i] = o.Name
	}
	return out
}

var havingOps = map[sql.Token]struct{ op, flipped string }{
	sql.EQ: {"=", "="}, sql.NE: {"<>", "<>"}, sql.LT: {"<", ">"}, sql.LE: {"<=", ">="}, sql.GT: {">", "<"}, sql.GE: {">=", "<="},
}

// readHaving reads comparisons of released values with numbers, joined by AND.
func (b *builder) readHaving(e sql.Expr) {
	const hint = "write aggregate > number, joined by AND"
	e = b.unparen(e)
	bin, ok := e.(*sql.BinaryExpr)
	if !ok {
		b.refuse(CodeUnsupported, b.place(e), "HAVING takes comparisons of selected aggregates with numbers", hint)
		return
	}
	if bin.Op == sql.AND {
		b.readHaving(bin.X)
		b.readHaving(bin.Y)
		return
	}
	ops, ok := havingOps[bin.Op]
	if !ok {
		b.refuse(CodeUnsupported, b.at(bin.OpPos), fmt.Sprintf("%s may not stand in HAVING", bin.Op), hint)
		return
	}
	op, left, right := ops.op, b.unparen(bin.X), b.unparen(bin.Y)
	value, _, isNumber := b.literal(right)
	if !isNumber {
		if value, _, isNumber = b.literal(left); isNumber {
			op, left = ops.flipped, right
		}
	}
	if !isNumber {
		b.refuse(CodeUnsupported, b.at(bin.OpPos), "HAVING compares with a number only", hint)
		return
	}
	i, ok := b.find(left, "HAVING")
	if !ok {
		return
	}
	if b.outputs[i].Func == groupFunc {
		b.refuse(CodeUnsupported, b.place(left), fmt.Sprintf("HAVING may not test the group column %q", b.outputs[i].Args[0]), "put the condition in WHERE")
		return
	}
	canonical, err := canonicalDecimal(value)
	if err != nil {
		b.refuse(CodeSyntax, b.place(right), fmt.Sprintf("%q is %v", clip(value), err), "write at most 40 digits")
		return
	}
	b.having = append(b.having, enclave.Having{Output: i, Op: op, Value: canonical})
}

func (b *builder) orderBy(s *sql.SelectStatement) {
	for _, t := range s.OrderingTerms {
		if t.Collation != nil {
			b.refuse(CodeUnsupported, b.at(t.Collation.Collate), "COLLATE is not part of the language", "leave it out")
		}
		if t.Nulls.IsValid() {
			b.refuse(CodeUnsupported, b.at(t.Nulls), "NULLS FIRST and LAST are not part of the language", "leave it out")
		}
		e := b.unparen(t.X)
		i, ok := int64(0), false
		if n, isNumber := e.(*sql.NumberLit); isNumber {
			i, ok = b.ordinal(n)
		} else {
			i, ok = b.find(e, "ORDER BY")
		}
		if !ok {
			continue
		}
		if slices.ContainsFunc(b.order, func(o enclave.Order) bool { return o.Output == i }) {
			b.refuse(CodeName, b.place(e), "ORDER BY names the same output twice", "name it once")
			continue
		}
		b.order = append(b.order, enclave.Order{Output: i, Desc: t.Desc.IsValid()})
	}
}

func (b *builder) ordinal(n *sql.NumberLit) (int64, bool) {
	v, err := parseDecimal(n.Value, 0)
	if err == nil && v >= 1 && v <= int64(len(b.outputs)) {
		return v - 1, true
	}
	if !b.partial {
		b.refuse(CodeName, b.at(n.ValuePos), fmt.Sprintf("ORDER BY %s is not an output", clip(n.Value)), fmt.Sprintf("write 1 to %d, or a name", len(b.outputs)))
	}
	return 0, false
}

func (b *builder) readLimit(s *sql.SelectStatement) {
	if s.LimitExpr == nil {
		return
	}
	e := b.unparen(s.LimitExpr)
	if n, ok := e.(*sql.NumberLit); ok {
		if v, err := parseDecimal(n.Value, 0); err == nil && v >= 1 && v <= enclave.MaxCells {
			b.limit = v
			return
		}
	}
	b.refuse(CodeDomain, b.place(e), fmt.Sprintf("LIMIT takes a whole number from 1 to %d", enclave.MaxCells), "write LIMIT 10, or leave it out for all rows")
}
