package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// selected is what an output computes, without its name: HAVING and ORDER BY find outputs by it.
type selected struct {
	fn    string
	args  []string
	micro int64
}

func (s selected) equal(t selected) bool {
	return s.fn == t.fn && s.micro == t.micro && slices.Equal(s.args, t.args)
}

const groupFunc = "group"

// columns reads the select list.
func (b *builder) columns(s *sql.SelectStatement) {
	taken := map[string]bool{}
	aggregates := 0
	for _, c := range s.Columns {
		if c.Star.IsValid() {
			b.star(b.at(c.Star))
			b.partial = true
			continue
		}
		e := b.unparen(c.Expr)
		what, name, ok := b.output(e)
		if !ok {
			b.partial = true
			continue
		}
		at := b.place(e)
		if c.Alias != nil {
			name, at = c.Alias.Name, b.at(c.Alias.NamePos)
		}
		if name == "" || taken[name] {
			b.refuse(CodeName, at, fmt.Sprintf("two outputs are named %q", clip(name)), "give each its own name with AS")
		}
		taken[name] = true
		if what.fn != groupFunc {
			aggregates++
		}
		b.selected = append(b.selected, what)
		b.outputs = append(b.outputs, enclave.Output{Name: name, Func: what.fn, Args: what.args, ParamMicro: what.micro})
	}
	if aggregates == 0 && !b.partial && len(s.Columns) > 0 {
		b.refuse(CodeNoAggregate, b.place(b.unparen(s.Columns[0].Expr)), "the query computes nothing", "add an aggregate such as COUNT(*)")
	}
}

func (b *builder) output(e sql.Expr) (what selected, name string, ok bool) {
	switch e := e.(type) {
	case *sql.Ident:
		return b.plain(e)
	case *sql.Call:
		what, name, cols, ok := b.call(e, true)
		if !ok || !b.open(what, cols, b.place(e)) {
			return what, "", false
		}
		return what, name, true
	}
	b.foreignExpr(e, "the select list")
	return selected{}, "", false
}

func (b *builder) plain(id *sql.Ident) (selected, string, bool) {
	at := b.at(id.NamePos)
	if _, ok := b.Manifest.Column(id.Name); !ok {
		b.column(id.Name, at, operators.UseGroup) // for its reason
		return selected{}, "", false
	}
	if !slices.Contains(names(b.groups), id.Name) {
		if b.refusedAt(id.Name) {
			return selected{}, "", false
		}
		b.refuse(CodeNotGrouped, at, fmt.Sprintf("column %q stands alone but is not in GROUP BY", id.Name),
			fmt.Sprintf("add GROUP BY %s, or aggregate it: AVG(%s)", id.Name, id.Name))
		return selected{}, "", false
	}
	return selected{fn: groupFunc, args: []string{id.Name}}, id.Name, true
}

// refusedAt reports whether a reason already names the column: the same fault is told once.
func (b *builder) refusedAt(name string) bool {
	return slices.ContainsFunc(b.reasons, func(r Reason) bool { return strings.Contains(r.Text, fmt.Sprintf("column %q", name)) })
}

// Functions of other dialects, and what to write here.
var otherFunctions = map[string]string{
	"MEAN": "AVG", "AVERAGE": "AVG", "TOTAL": "SUM", "VARIANCE": "VAR_POP", "VAR": "VAR_POP", "VAR_SAMP": "VAR_POP",
	"STDDEV": "STDDEV_POP", "STDEV": "STDDEV_POP", "STD": "STDDEV_POP", "STDDEV_SAMP": "STDDEV_POP", "COVAR_SAMP": "COVAR_POP",
	"PERCENTILE_CONT": "PERCENTILE", "PERCENTILE_DISC": "PERCENTILE", "QUANTILE": "PERCENTILE", "APPROX_PERCENTILE": "PERCENTILE",
	"REGR_COUNT": "COUNT", "COUNTIF": "COUNT", "COUNT_IF": "COUNT",
}

var engineFunctions = []string{"MIN", "MAX", "GREATEST", "LEAST", "MODE", "RANK", "DENSE_RANK", "ROW_NUMBER", "NTILE", "FIRST", "LAST",
	"FIRST_VALUE", "LAST_VALUE", "LAG", "LEAD", "TOP_K", "APPROX_COUNT_DISTINCT", "ANY_VALUE"}

// call resolves a call to an aggregate. With report unset it only resolves: HAVING and ORDER BY name what is selected.
func (b *builder) call(c *sql.Call, report bool) (what selected, name string, cols []enclave.Column, ok bool) {
	fn, at := strings.ToUpper(c.Name.Name), b.at(c.Name.NamePos)
	written := fn
	before := len(b.reasons)
	if c.Distinct.IsValid() && b.joint != nil {
		return b.distinct(c, report)
	}
	if c.Distinct.IsValid() {
		b.refuse(CodeEngine, b.at(c.Distinct), "DISTINCT needs the secret-shared engine", "COUNT(*) counts rows")
	}
	if c.Filter != nil {
		b.refuse(CodeUnsupported, b.at(c.Filter.Filter), "FILTER is not part of the language", "put the condition in WHERE")
	}
	if c.Over != nil {
		b.refuse(CodeUnsupported, b.at(c.Over.Over), "window functions are not part of the language", "GROUP BY the columns instead")
	}
	if len(b.reasons) > before {
		return what, "", nil, false
	}
	if b.joint != nil {
		if p, ok := endFractions[fn]; ok && len(c.Args) == 1 {
			return b.quantile(c, written, c.Args[0], p, report)
		}
		if fn == "PERCENTILE" || fn == "PERCENTILE_CONT" {
			if len(c.Args) != 2 {
				b.refuse(CodeUnsupported, at, fn+" takes a column and a fraction", "write PERCENTILE_CONT(x, 0.9)")
				return what, "", nil, false
			}
			p, ok := b.fraction(c.Args[1])
			if !ok {
				return what, "", nil, false
			}
			return b.quantile(c, written, c.Args[0], p, report)
		}
	}
	if fn == "MEDIAN" {
		fn, what.micro = "PERCENTILE", 500_000
	}
	f, err := enclave.LookupFunction(fn)
	if err != nil || f.Joint {
		b.noFunction(fn, at)
		return what, "", nil, false
	}
	what.fn = fn
	args := c.Args
	if fn == "PERCENTILE" && written == fn {
		if len(args) != 2 {
			b.refuse(CodeUnsupported, at, "PERCENTILE takes a column and a fraction", "write PERCENTILE(x, 0.9)")
			return what, "", nil, false
		}
		if what.micro, ok = b.fraction(args[1]); !ok {
			return what, "", nil, false
		}
		args = args[:1]
	}
	if c.Star.IsValid() {
		if fn != "COUNT" {
			b.refuse(CodeUnsupported, b.at(c.Star), fmt.Sprintf("%s needs a column, not *", written), fmt.Sprintf("write %s(x)", written))
			return what, "", nil, false
		}
		return what, "COUNT(*)", nil, true
	}
	if want := max(f.Args, 1); len(args) != want {
		b.refuse(CodeUnsupported, at, fmt.Sprintf("%s takes %d column(s) and was given %d", written, want, len(args)), usage(f))
		return what, "", nil, false
	}
	for _, a := range args {
		col, ok := b.argument(written, b.unparen(a), report)
		if !ok {
			return what, "", nil, false
		}
		what.args, cols = append(what.args, col.Name), append(cols, col)
	}
	name = written + "(" + strings.Join(what.args, ", ") + ")"
	if written == "PERCENTILE" {
		name = fmt.Sprintf("PERCENTILE(%s, %s)", what.args[0], enclave.FormatScaled(what.micro, 6))
	}
	return what, name, cols, true
}

func (b *builder) noFunction(fn string, at Pos) {
	if slices.Contains(engineFunctions, fn) {
		b.refuse(CodeEngine, at, fmt.Sprintf("%s compares single values and needs the secret-shared engine", fn),
			"PERCENTILE(x, 0.01) and PERCENTILE(x, 0.99) over declared bins are near the ends")
		return
	}
	hint := "functions: " + functionNames()
	if other := otherFunctions[fn]; other != "" {
		hint = "use " + other
	}
	b.refuse(CodeUnsupported, at, fmt.Sprintf("%q is not an aggregate of the language", clip(fn)), hint)
}

func functionNames() string {
	var out []string
	for _, f := range enclave.Functions() {
		if !f.Joint {
			out = append(out, f.Name)
		}
	}
	return strings.Join(append(out, "MEDIAN"), ", ")
}

func usage(f enclave.Function) string {
	switch f.Args {
	case 0:
		return "write COUNT(*) or COUNT(x)"
	case 1:
		return fmt.Sprintf("write %s(x)", f.Name)
	}
	return fmt.Sprintf("write %s(y, x)", f.Name)
}

func (b *builder) argument(fn string, e sql.Expr, report bool) (enclave.Column, bool) {
	id, ok := e.(*sql.Ident)
	if !ok {
		if _, isNumber := e.(*sql.NumberLit); isNumber && fn == "COUNT" {
			b.refuse(CodeUnsupported, b.place(e), "COUNT takes a column or *", "write COUNT(*)")
		} else {
			b.foreignExpr(e, "an aggregate")
		}
		return enclave.Column{}, false
	}
	at := b.at(id.NamePos)
	if col, ok := b.Manifest.Column(id.Name); ok && !report {
		return col, true
	}
	if col, ok := b.Manifest.Column(id.Name); ok && col.Type == enclave.TypeCategory {
		hint := fmt.Sprintf("GROUP BY %s and select COUNT(*)", col.Name)
		b.refuse(CodeColumn, at, fmt.Sprintf("%s needs a number, and column %q is a category", fn, col.Name), hint)
		return col, false
	}
	return b.column(id.Name, at, operators.UseAggregate)
}

// fraction reads PERCENTILE's second argument.
func (b *builder) fraction(e sql.Expr) (int64, bool) {
	n, ok := b.unparen(e).(*sql.NumberLit)
	if ok {
		if micro, err := parseDecimal(n.Value, 6); err == nil && micro > 0 && micro < 1_000_000 {
			return micro, true
		}
	}
	b.refuse(CodeDomain, b.place(b.unparen(e)), "PERCENTILE's fraction is a number between 0 and 1, exclusive, with at most 6 decimals",
		"write PERCENTILE(x, 0.9); the ends are MIN and MAX, which need the secret-shared engine")
	return 0, false
}

// open notes what must be opened for an aggregate.
func (b *builder) open(what selected, cols []enclave.Column, at Pos) bool {
	f, _ := enclave.LookupFunction(what.fn) // resolved by call
	if what.fn == "QUANTILE" {
		b.moments[enclave.QuantileMoment(cols[0].Name, what.micro)] = true
		return true
	}
	moments, err := f.Moments(cols)
	if err != nil {
		code := CodeColumn
		if f.Ordered {
			code = CodeBins
		}
		b.refuse(code, at, err.Error(), "ask the steward for a column that fits, or use another aggregate")
		return false
	}
	for _, m := range moments {
		b.moments[m] = true
	}
	if f.Ordered && !slices.Contains(names(b.ranked), cols[0].Name) {
		b.ranked = append(b.ranked, cols[0])
	}
	return true
}
