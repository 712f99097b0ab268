package plan

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rqlite/sql"
)

const grammar = "SELECT columns and aggregates FROM dataset [WHERE …] [GROUP BY …] [HAVING …] [ORDER BY …] [LIMIT n]"

// parse reads the query as one SELECT statement, or reports why not and returns nil.
func (b *builder) parse() *sql.SelectStatement {
	if b.src = b.lex(); b.src == nil {
		return nil
	}
	stmt, err := b.syntax()
	if err != nil {
		b.syntaxReason(err)
		return nil
	}
	switch s := stmt.(type) {
	case *sql.SelectStatement:
		return s
	case *sql.ExplainStatement:
		b.refuse(CodeUnsupported, b.src.tokens[0].pos, "EXPLAIN is not part of the language", "leave it out: every plan comes with an explanation")
	default:
		b.refuse(CodeUnsupported, b.src.tokens[0].pos, fmt.Sprintf("%s is not a query", strings.ToUpper(clip(b.src.tokens[0].text))),
			"only SELECT is possible: nobody changes sealed data with SQL")
	}
	return nil
}

// syntax runs the parser, whose internal assertions panic on input it did not foresee; to a caller that is one more
// way of not being SQL.
func (b *builder) syntax() (stmt sql.Statement, err error) {
	defer func() {
		if recover() != nil {
			stmt, err = nil, errors.New("not a statement of the grammar")
		}
	}()
	return sql.NewParser(strings.NewReader(string(b.src.text))).ParseStatement()
}

func (b *builder) syntaxReason(err error) {
	var at Pos
	msg := err.Error()
	var pe *sql.Error
	if errors.As(err, &pe) {
		at, msg = b.at(pe.Pos), pe.Msg
	}
	msg = strings.Replace(msg, "semicolon or EOF", "the end of the query", 1)
	hint := grammar
	for _, t := range b.src.tokens {
		if t.pos != at {
			continue
		}
		switch {
		case t.is("HAVING"):
			hint = "HAVING stands after GROUP BY"
		case t.is("WHERE"), t.is("GROUP"), t.is("FROM"), t.is("LIMIT"), t.is("ORDER"):
			hint = "the order is " + grammar
		case t.kind == word || t.kind == symbol && t.text == "-":
			hint = `names that are keywords or contain signs stand in double quotes; ` + grammar
		}
	}
	if strings.Contains(msg, "range expression") {
		hint = "write x BETWEEN number AND number"
	}
	b.refuse(CodeSyntax, at, clipMessage(msg), hint)
}

func clipMessage(s string) string {
	if r := []rune(s); len(r) > 120 {
		return string(r[:120]) + "…"
	}
	return s
}

// at leads from a place in the parser's text back to the query.
func (b *builder) at(p sql.Pos) Pos {
	if !p.IsValid() || len(b.src.places) == 0 {
		return Pos{}
	}
	return b.src.places[min(max(p.Offset, 0), len(b.src.places)-1)]
}

// unparen takes parentheses off and makes sure that the closing one is one.
func (b *builder) unparen(e sql.Expr) sql.Expr {
	for {
		p, ok := e.(*sql.ParenExpr)
		if !ok {
			return e
		}
		if o := p.Rparen.Offset; o < 0 || o >= len(b.src.text) || b.src.text[o] != ')' {
			b.refuse(CodeSyntax, b.at(p.Rparen), "expected a closing parenthesis here", "close the one opened at "+b.at(p.Lparen).String())
		}
		e = p.X
	}
}

// place is where an expression begins.
func (b *builder) place(e sql.Expr) Pos {
	switch e := e.(type) {
	case *sql.Ident:
		return b.at(e.NamePos)
	case *sql.QualifiedRef:
		return b.at(e.Table.NamePos)
	case *sql.Call:
		return b.at(e.Name.NamePos)
	case *sql.StringLit:
		return b.at(e.ValuePos)
	case *sql.NumberLit:
		return b.at(e.ValuePos)
	case *sql.BlobLit:
		return b.at(e.ValuePos)
	case *sql.BoolLit:
		return b.at(e.ValuePos)
	case *sql.NullLit:
		return b.at(e.Pos)
	case *sql.UnaryExpr:
		return b.at(e.OpPos)
	case *sql.BinaryExpr:
		return b.place(e.X)
	case *sql.Null:
		return b.place(e.X)
	case *sql.Range:
		return b.place(e.X)
	case *sql.ParenExpr:
		return b.at(e.Lparen)
	case *sql.ExprList:
		return b.at(e.Lparen)
	case *sql.CastExpr:
		return b.at(e.Cast)
	case *sql.CaseExpr:
		return b.at(e.Case)
	case *sql.Raise:
		return b.at(e.Raise)
	case *sql.Exists:
		if e.Not.IsValid() {
			return b.at(e.Not)
		}
		return b.at(e.Exists)
	case sql.SelectExpr:
		return b.at(e.Select)
	}
	return Pos{}
}

// foreignExpr refuses an expression that stands where only simpler things may.
func (b *builder) foreignExpr(e sql.Expr, where string) {
	at := b.place(e)
	switch e := e.(type) {
	case sql.SelectExpr, *sql.Exists:
		b.refuse(CodeUnsupported, at, "subqueries are not part of the language", "write the values out, or run two queries")
	case *sql.CaseExpr:
		b.refuse(CodeUnsupported, at, "CASE is not part of the language", "put the condition in WHERE, or group by the column")
	case *sql.CastExpr:
		b.refuse(CodeUnsupported, at, "CAST is not part of the language", "columns keep their declared type")
	case *sql.BinaryExpr:
		switch e.Op {
		case sql.PLUS, sql.MINUS, sql.STAR, sql.SLASH, sql.REM, sql.CONCAT, sql.BITAND, sql.BITOR, sql.LSHIFT, sql.RSHIFT:
			b.refuse(CodeUnsupported, b.at(e.OpPos), fmt.Sprintf("arithmetic (%s) is not part of the language", e.Op),
				"select the aggregates and calculate with the released figures")
			return
		}
		b.refuse(CodeUnsupported, b.at(e.OpPos), fmt.Sprintf("a condition may not stand in %s", where), "put it in WHERE")
	case *sql.UnaryExpr:
		b.refuse(CodeUnsupported, at, fmt.Sprintf("operator %s may not stand in %s", e.Op, where), "remove it")
	case *sql.QualifiedRef:
		if e.Star.IsValid() {
			b.star(b.at(e.Star))
			return
		}
		b.refuse(CodeUnsupported, at, "a column is named alone, for there is one dataset", fmt.Sprintf("write %q", clip(e.Column.Name)))
	case *sql.NullLit, *sql.Null:
		b.refuse(CodeUnsupported, at, "NULL is not part of the language", "COUNT(x) counts rows where x is present")
	case *sql.StringLit:
		b.refuse(CodeUnsupported, at, fmt.Sprintf("text may not stand in %s", where), "names stand in double quotes or none")
	default:
		b.refuse(CodeUnsupported, at, fmt.Sprintf("this expression may not stand in %s", where), grammar)
	}
}

func (b *builder) star(at Pos) {
	b.refuse(CodeUnsupported, at, "* would select rows, and nobody sees a row", "name GROUP BY columns and aggregates such as COUNT(*)")
}
