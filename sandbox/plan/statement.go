package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// statement reads every clause and goes on after a refusal, so that the analyst sees all reasons at once.
func (b *builder) statement(s *sql.SelectStatement) {
	b.leftOut(s)
	b.from(s)
	b.groupBy(s)
	b.columns(s)
	switch {
	case s.WhereExpr == nil:
	case b.joint != nil:
		b.joint.where = b.condition(s.WhereExpr)
	default:
		b.where(s.WhereExpr, b.at(s.Where))
	}
	if s.HavingExpr != nil {
		b.readHaving(s.HavingExpr)
	}
	b.orderBy(s)
	b.readLimit(s)
}

// leftOut refuses whole clauses.
func (b *builder) leftOut(s *sql.SelectStatement) {
	no := func(p sql.Pos, text, hint string) {
		if p.IsValid() {
			b.refuse(CodeUnsupported, b.at(p), text+" is not part of the language", hint)
		}
	}
	if s.WithClause != nil {
		no(s.WithClause.With, "WITH", "write one SELECT, or submit several jobs")
	}
	no(s.Values, "VALUES", "write SELECT … FROM …")
	if s.Distinct.IsValid() {
		b.refuse(CodeEngine, b.at(s.Distinct), "DISTINCT needs the secret-shared engine", "GROUP BY the columns instead")
	}
	no(s.Window, "WINDOW", "GROUP BY the columns instead")
	no(s.Union, "UNION", "submit each query as a job of its own")
	no(s.Intersect, "INTERSECT", "put both conditions in one WHERE with AND")
	no(s.Except, "EXCEPT", "put the second condition in WHERE with AND NOT")
	for _, p := range []sql.Pos{s.Offset, s.OffsetComma} {
		no(p, "OFFSET", "ask for more rows with LIMIT; result rows are few")
	}
}

// from reads the one dataset.
func (b *builder) from(s *sql.SelectStatement) (string, bool) {
	if b.joint != nil {
		return "", b.joint.match(b, b.tables(s))
	}
	switch src := s.Source.(type) {
	case nil:
		b.refuse(CodeDataset, Pos{}, "the query names no dataset", "add FROM and the dataset's name")
	case *sql.QualifiedTableName:
		return b.table(src)
	case *sql.JoinClause:
		b.refuse(CodeEngine, b.joinAt(src), "joining datasets needs the secret-shared engine", "name one dataset after FROM")
	case *sql.ParenSource, *sql.SelectStatement:
		b.refuse(CodeUnsupported, b.at(s.From), "a subquery may not stand after FROM", "name one dataset")
	default:
		b.refuse(CodeUnsupported, b.at(s.From), "only a dataset may stand after FROM", "name one dataset")
	}
	return "", false
}

func (b *builder) table(t *sql.QualifiedTableName) (string, bool) {
	at := b.at(t.Name.NamePos)
	switch {
	case t.Schema != nil:
		b.refuse(CodeUnsupported, b.at(t.Schema.NamePos), "a dataset's name has no schema", fmt.Sprintf(`write "%s.%s" in double quotes if the dot is part of it`, clip(t.Schema.Name), clip(t.Name.Name)))
		return "", false
	case t.Alias != nil:
		b.refuse(CodeUnsupported, b.at(t.Alias.NamePos), "a dataset needs no alias", "leave it out and name columns alone")
		return "", false
	case t.Index != nil || t.NotIndexed.IsValid():
		b.refuse(CodeUnsupported, at, "sealed data has no index", "leave INDEXED out")
		return "", false
	}
	if m := b.Manifest; m != nil && b.joint == nil && t.Name.Name != m.Dataset {
		b.refuse(CodeDataset, at, fmt.Sprintf("dataset %q is not the one of this job, %q", clip(t.Name.Name), m.Dataset),
			fmt.Sprintf("write FROM %s, or submit the query against the other dataset", quoteName(m.Dataset)))
	}
	return t.Name.Name, true
}

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// groupBy reads columns, or aliases of plain columns of the select list.
func (b *builder) groupBy(s *sql.SelectStatement) {
	for _, e := range s.GroupByExprs {
		e = b.unparen(e)
		id, ok := e.(*sql.Ident)
		if !ok {
			if _, isNumber := e.(*sql.NumberLit); isNumber {
				b.refuse(CodeUnsupported, b.place(e), "GROUP BY takes names, not ordinals", "write the column's name")
				continue
			}
			b.foreignExpr(e, "GROUP BY")
			continue
		}
		name := id.Name
		if _, ok := b.Manifest.Column(name); !ok {
			name = aliased(s, name)
		}
		col, ok := b.column(name, b.at(id.NamePos), operators.UseGroup)
		switch {
		case !ok:
		case slices.Contains(names(b.groups), col.Name):
			b.refuse(CodeName, b.at(id.NamePos), fmt.Sprintf("column %q stands twice in GROUP BY", col.Name), "name it once")
		case b.dimension(col, b.at(id.NamePos), "grouped by"):
			b.groups = append(b.groups, col)
		}
	}
}

func aliased(s *sql.SelectStatement, alias string) string {
	for _, c := range s.Columns {
		if id, ok := c.Expr.(*sql.Ident); ok && c.Alias != nil && c.Alias.Name == alias {
			return id.Name
		}
	}
	return alias
}

// column finds a column that may be used this way by the steward's rule and by the grant.
func (b *builder) column(name string, at Pos, use operators.Use) (enclave.Column, bool) {
	col, ok := b.Manifest.Column(name)
	if !ok {
		b.refuse(CodeColumn, at, fmt.Sprintf("dataset %q has no column %q", b.Manifest.Dataset, clip(name)),
			"its columns: "+nearest(name, columnNames(b.Manifest)))
		return col, false
	}
	verb := map[operators.Use]string{operators.UseGroup: "grouped by", operators.UseFilter: "filtered by", operators.UseAggregate: "aggregated"}[use]
	switch {
	case col.Type != enclave.TypeCategory && col.Type != enclave.TypeNumber:
		b.refuse(CodeColumn, at, fmt.Sprintf("column %q is of type %q and was never sealed", name, col.Type),
			"use another column; counting people is COUNT(*)")
	case !col.May(use):
		b.refuse(CodeRule, at, fmt.Sprintf("column %q may not be %s: the steward's disclosure rule", name, verb),
			"columns that may: "+b.allowed(use, func(c enclave.Column) bool { return true }))
	case !b.use.May(name, use):
		b.refuse(CodeGrant, at, fmt.Sprintf("column %q may not be %s in this scenario", name, verb),
			"granted columns: "+b.allowed(use, func(c enclave.Column) bool { return b.use.May(c.Name, use) })+"; or apply for a scenario that names it")
	default:
		return col, true
	}
	return col, false
}

func (b *builder) allowed(use operators.Use, also func(enclave.Column) bool) string {
	var out []string
	for _, c := range b.Manifest.Columns {
		if c.May(use) && also(c) {
			out = append(out, c.Name)
		}
	}
	return list(out)
}

// dimension checks that a column has few declared values.
func (b *builder) dimension(col enclave.Column, at Pos, verb string) bool {
	if col.Size() > 0 {
		why := uncovered(col)
		if why != "" {
			b.refuse(CodeBins, at, fmt.Sprintf("column %q may not be %s: %s", col.Name, verb, why), "ask the steward to seal the dataset again")
		}
		return why == ""
	}
	b.refuse(CodeBins, at, fmt.Sprintf("column %q may not be %s: it has no declared bins", col.Name, verb),
		"ask the steward to declare bins; comparing single numbers needs the secret-shared engine")
	return false
}

// uncovered says which rows would be in no cell of an axis with this column. The sealing tool refuses such columns; a
// count over such an axis would silently leave rows out.
func uncovered(col enclave.Column) string {
	switch {
	case col.Type != enclave.TypeNumber:
	case col.Nullable:
		return "it may be missing, and a missing number is in no bin"
	case col.Bins[0] > col.Min || col.Bins[len(col.Bins)-1] < col.Max:
		return "its bins do not cover its declared range"
	}
	return ""
}

func columnNames(m *enclave.Manifest) []string { return names(m.Columns) }

// list names a few of many.
func list(items []string) string {
	const most = 12
	if len(items) == 0 {
		return "none"
	}
	quoted := make([]string, 0, most)
	for _, s := range items[:min(len(items), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	out := strings.Join(quoted, ", ")
	if len(items) > most {
		out += fmt.Sprintf(" and %d more", len(items)-most)
	}
	return out
}

// nearest lists the candidates most like name first, by edit distance and then in declared order.
func nearest(name string, candidates []string) string {
	sorted := slices.Clone(candidates)
	want := []rune(strings.ToLower(clip(name)))
	distance := make(map[string]int, len(sorted))
	for _, c := range sorted {
		distance[c] = editDistance(want, []rune(strings.ToLower(clip(c))))
	}
	slices.SortStableFunc(sorted, func(x, y string) int { return distance[x] - distance[y] })
	return list(sorted)
}

// editDistance is Levenshtein's.
func editDistance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
