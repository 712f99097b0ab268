package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// Plans for the secret-shared engine. The query is read against a View of its datasets, by the same code as for one
// dataset; only conditions differ, because here numbers are compared and not looked up in bins. What comes out is a
// program for the nodes (joint_compile.go) beside the measures and outputs that every plan has.
//
// A person's rows of all datasets are protected together. The base is the dataset whose rows are counted; it may have m
// rows of a person, and each of the others has one at most, so that a person is in at most m rows of the join and moves
// every sum by at most m·Δ, exactly as without a join.

// joint is what planning for this engine adds to a builder.
type joint struct {
	sources   []Source
	manifests []*enclave.Manifest
	base      int
	where     *condition // nil = every row
}

// shared reports whether a dataset was sealed in share form for the grant's scenario.
func shared(m *enclave.Manifest, g *operators.Grant) bool {
	_, ok := sharesOf(m, g)
	return ok
}

func sharesOf(m *enclave.Manifest, g *operators.Grant) (*enclave.Layout, bool) {
	for i := range m.Layouts {
		if l := &m.Layouts[i]; l.Kind == enclave.Shares && l.CheckShares() == nil && l.Shares.Scenario == g.Scenario {
			return l, true
		}
	}
	return nil, false
}

func buildJoint(r Request) (*enclave.Plan, error) {
	j := &joint{sources: r.sources()}
	for _, s := range j.sources {
		j.manifests = append(j.manifests, s.Manifest)
	}
	b := &builder{Request: r, joint: j, moments: map[enclave.Moment]bool{enclave.CountMoment: true}}
	for i, s := range j.sources {
		b.source(i, s)
	}
	b.Manifest = enclave.View(j.manifests)
	if b.has(CodeArtefact) {
		return nil, b.refused()
	}
	b.use = b.granted()
	b.epsilon()
	if stmt := b.parse(); stmt != nil {
		b.statement(stmt)
	}
	if len(b.reasons) > 0 {
		return nil, b.refused()
	}
	j.choose(b)
	b.Keyset = j.sources[j.base].Keyset
	b.measure()
	first := j.sources[0]
	p := &enclave.Plan{
		Query: r.Query, AskedMicro: b.asked, Operator: r.Grant.Operator, Scenario: r.Grant.Scenario, Grant: r.GrantDigest,
		Dataset: first.Manifest.Dataset, Manifest: first.ManifestDigest, Keyset: first.KeysetDigest, Epoch: first.Keyset.Epoch, Params: first.Keyset.Params,
		Axis: names(b.groups), Groups: names(b.groups), Measures: b.measures, Outputs: b.outputs, Having: b.having, OrderBy: b.order, Limit: b.limit,
		EntityRows: b.Keyset.EntityRows, MinCohort: r.Grant.MinCohort, MarginMilli: r.Grant.MarginMilli,
	}
	for _, m := range b.measures {
		p.EpsilonMicro += m.EpsilonMicro
	}
	p.Keep = enclave.Runs(b.cells())
	if len(p.Keep) == 0 && !b.has(CodeEmpty) {
		b.refuse(CodeEmpty, Pos{}, "no cell of GROUP BY satisfies the condition", "check for contradictions joined by AND")
	}
	if len(b.reasons) > 0 {
		return nil, b.refused()
	}
	prog := b.compile(p)
	if len(b.reasons) > 0 {
		return nil, b.refused()
	}
	if _, err := prog.Check(); err != nil { // never announce what the nodes could not run
		b.refuse(CodeOverflow, Pos{}, err.Error(), "ask the stewards for narrower bounds or fewer decimals, or for fewer aggregates")
		return nil, b.refused()
	}
	body, err := canon.Marshal(prog)
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	p.Joint = &enclave.Joint{Sources: []enclave.Source{}, Base: int64(j.base), Program: body}
	for _, s := range j.sources {
		l, _ := sharesOf(s.Manifest, r.Grant)
		p.Joint.Sources = append(p.Joint.Sources, enclave.Source{Dataset: s.Manifest.Dataset, Manifest: s.ManifestDigest, Keyset: s.KeysetDigest,
			Epoch: s.Keyset.Epoch, EntityRows: s.Keyset.EntityRows, Layout: l.Name})
	}
	if _, _, err := p.Expand(b.Manifest); err != nil {
		b.refuse(CodeArtefact, Pos{}, err.Error(), "ask the stewards to seal the datasets again")
		return nil, b.refused()
	}
	return p, nil
}

// source checks one dataset: its artefacts, its shares, and that its rows may be matched.
func (b *builder) source(i int, s Source) {
	one := &builder{Request: b.Request}
	one.Keyset, one.KeysetDigest, one.Manifest, one.ManifestDigest = s.Keyset, s.KeysetDigest, s.Manifest, s.ManifestDigest
	one.artefacts()
	if one.ask() > s.Keyset.BudgetMicro {
		one.refuse(CodeEpsilon, Pos{}, fmt.Sprintf("ε %s is more than the whole budget %s of dataset %q", micro(one.ask()), micro(s.Keyset.BudgetMicro), s.Manifest.Dataset), "ask for less")
	}
	if l, ok := sharesOf(s.Manifest, b.Grant); !ok {
		one.refuse(CodeEngine, Pos{}, fmt.Sprintf("dataset %q was not sealed in share form for this scenario", s.Manifest.Dataset), "ask its steward for `seal --form shares`")
	} else if first, ok := sharesOf(b.joint.sources[0].Manifest, b.Grant); ok && !slices.Equal(l.Shares.Nodes, first.Shares.Nodes) {
		one.refuse(CodeArtefact, Pos{}, fmt.Sprintf("dataset %q was split among nodes %q, %q among %q", s.Manifest.Dataset, l.Shares.Nodes,
			b.joint.sources[0].Manifest.Dataset, first.Shares.Nodes), "ask the stewards to seal for the same nodes")
	}
	if len(b.joint.sources) > 1 && !one.has(CodeArtefact) {
		if key, ok := entityColumn(s.Manifest); !ok || !key.May(operators.UseJoin) {
			one.refuse(CodeRule, Pos{}, fmt.Sprintf("rows of dataset %q may not be matched: its key has no declared identifier", s.Manifest.Dataset), "ask its steward to seal with one")
		} else if !one.use.May(key.Name, operators.UseJoin) {
			one.refuse(CodeGrant, Pos{}, fmt.Sprintf("rows of dataset %q may not be matched in this scenario", s.Manifest.Dataset),
				fmt.Sprintf("apply for a scenario with %s=join", key.Name))
		}
	}
	for _, r := range one.reasons {
		b.refuse(r.Code, r.Pos, r.Text, r.Hint)
	}
}

func entityColumn(m *enclave.Manifest) (enclave.Column, bool) {
	for _, c := range m.Columns {
		if c.Type == enclave.TypeKey {
			return c, true
		}
	}
	return enclave.Column{}, false
}

// granted is what the grant allows, under the names of the view.
func (b *builder) granted() operators.DatasetUse {
	out := operators.DatasetUse{Dataset: b.Manifest.Dataset}
	for _, c := range b.Manifest.Columns {
		src, own, _ := enclave.Origin(b.joint.manifests, c.Name) // View made it
		use, _, _ := b.Grant.Dataset(b.joint.manifests[src].Dataset)
		for _, u := range use.Columns {
			if u.Column == own.Name {
				out.Columns = append(out.Columns, operators.ColumnUse{Column: c.Name, Uses: u.Uses})
			}
		}
	}
	return out
}

// qualify turns dataset.column into the view's name of the column, so that the parser sees one name.
func (j *joint) qualify(in []token) []token {
	name := func(t token) string {
		if t.kind == quotedIdent {
			return strings.ReplaceAll(strings.Trim(t.text, `"`), `""`, `"`)
		}
		return t.text
	}
	var out []token
	for i := 0; i < len(in); i++ {
		if i+2 < len(in) && isName(in[i]) && in[i+1].kind == symbol && in[i+1].text == "." && isName(in[i+2]) {
			full := name(in[i]) + "." + name(in[i+2])
			src := slices.IndexFunc(j.manifests, func(m *enclave.Manifest) bool { return m.Dataset == name(in[i]) })
			if src >= 0 {
				view := enclave.View(j.manifests)
				if s, _, ok := enclave.Origin(j.manifests, name(in[i+2])); ok && s == src {
					full = name(in[i+2])
				}
				if _, ok := view.Column(full); ok {
					out = append(out, token{quotedIdent, quoteName(full), in[i].pos})
					i += 2
					continue
				}
			}
		}
		out = append(out, in[i])
	}
	return out
}

// tables reads the datasets after FROM, in order.
func (b *builder) tables(s *sql.SelectStatement) []string {
	var out []string
	var walk func(src sql.Source)
	walk = func(src sql.Source) {
		switch src := src.(type) {
		case *sql.JoinClause:
			b.joinClause(src)
			walk(src.X)
			walk(src.Y)
		case *sql.QualifiedTableName:
			name, ok := b.table(src)
			switch {
			case !ok:
			case slices.Contains(out, name):
				b.refuse(CodeDataset, b.at(src.Name.NamePos), fmt.Sprintf("dataset %q stands twice after FROM", clip(name)), "a dataset is not joined with itself")
			default:
				out = append(out, name)
			}
		case nil:
			b.refuse(CodeDataset, Pos{}, "the query names no dataset", "add FROM and the dataset's name")
		default:
			b.refuse(CodeUnsupported, b.at(s.From), "a subquery may not stand after FROM", "name datasets")
		}
	}
	walk(s.Source)
	if len(out) > maxSources {
		b.refuse(CodeUnsupported, b.at(s.From), fmt.Sprintf("%d datasets are joined; at most %d may be", len(out), maxSources), "split the query")
	}
	return out
}

// maxSources bounds a join.
const maxSources = 4

func (b *builder) joinAt(j *sql.JoinClause) Pos {
	if j.Operator.Comma.IsValid() {
		return b.at(j.Operator.Comma)
	}
	return b.at(j.Operator.Join)
}

// joinClause allows what rows of one entity need: [INNER] JOIN dataset ON entity.
func (b *builder) joinClause(j *sql.JoinClause) {
	const hint = "write FROM a JOIN b ON entity: rows are matched by the entity key, and only where both have it"
	op := j.Operator
	if op.Comma.IsValid() || op.Natural.IsValid() || op.Left.IsValid() || op.Outer.IsValid() || op.Cross.IsValid() {
		b.refuse(CodeUnsupported, b.joinAt(j), "only an inner join on the entity is part of the language", hint)
		return
	}
	on, ok := j.Constraint.(*sql.OnConstraint)
	if !ok {
		b.refuse(CodeUnsupported, b.joinAt(j), "JOIN needs ON entity", hint)
		return
	}
	if id, ok := b.unparen(on.X).(*sql.Ident); !ok || !strings.EqualFold(id.Name, "entity") {
		b.refuse(CodeUnsupported, b.at(on.On), "datasets are joined ON entity and in no other way", hint)
	}
}

// match checks that the datasets given are those of the query.
func (j *joint) match(b *builder, names []string) bool {
	var want []string
	for _, m := range j.manifests {
		want = append(want, m.Dataset)
	}
	if !b.has(CodeDataset) && !slices.Equal(names, want) {
		b.refuse(CodeDataset, Pos{}, fmt.Sprintf("the query is about %s, this job about %s", list(names), list(want)), "submit the query against its own datasets")
		return false
	}
	return true
}

// choose finds the base: the one dataset that may have several rows of an entity, or else the one with most shared
// columns in use, because looked-up columns cost most.
func (j *joint) choose(b *builder) {
	var many []int
	for i, s := range j.sources {
		if s.Keyset.EntityRows > 1 {
			many = append(many, i)
		}
	}
	if len(many) > 1 {
		b.refuse(CodeUnsupported, Pos{}, fmt.Sprintf("datasets %q and %q may both have several rows of an entity, and their product would have no bound that noise could be sized by",
			j.manifests[many[0]].Dataset, j.manifests[many[1]].Dataset), "join datasets of which at most one has several rows of an entity")
		return
	}
	if len(many) == 1 {
		j.base = many[0]
		return
	}
	width := make([]int, len(j.sources))
	count := func(name string) {
		if src, c, ok := enclave.Origin(j.manifests, name); ok {
			width[src] += max(1, len(c.Values()))
		}
	}
	for _, g := range b.groups {
		count(g.Name)
	}
	for m := range b.moments {
		if letter, cols := m.Split(); letter != "n" || len(cols) > 0 {
			count(cols[0])
		}
	}
	for i, w := range width {
		if w > width[j.base] {
			j.base = i
		}
	}
}

// cells lists the cells of GROUP BY that WHERE does not exclude by itself: what is excluded for certain is not counted.
func (b *builder) cells() []int64 {
	var out []int64
	idx := make([]int, len(b.groups))
	for k := range volume(b.groups) {
		rest := k
		for i := len(b.groups) - 1; i >= 0; i-- {
			idx[i] = rest % b.groups[i].Size()
			rest /= b.groups[i].Size()
		}
		if b.joint.where == nil || b.joint.where.possible(b.groups, idx) {
			out = append(out, int64(k))
		}
	}
	if len(out) > maxJointCells {
		b.refuse(CodeTerms, Pos{}, fmt.Sprintf("GROUP BY has %d cells; at most %d are allowed", len(out), maxJointCells), "group by fewer columns")
		return nil
	}
	return out
}

// maxJointCells bounds the cells of a release: each costs a pass over all rows.
const maxJointCells = 4096

// endFractions are the fractions of functions that name one. The very ends are single rows, which noise must drown.
var endFractions = map[string]int64{"MEDIAN": 500_000, "MIN": 10_000, "MAX": 990_000}

// quantile reads a call that is answered by bisection.
func (b *builder) quantile(c *sql.Call, written string, arg sql.Expr, p int64, report bool) (what selected, name string, cols []enclave.Column, ok bool) {
	col, ok := b.argument(written, b.unparen(arg), report)
	if !ok {
		return what, "", nil, false
	}
	if col.Type != enclave.TypeNumber || col.Nullable {
		b.refuse(CodeColumn, b.at(c.Name.NamePos), fmt.Sprintf("%s needs a number that is never missing, and %q is not one", written, col.Name), "use another column")
		return what, "", nil, false
	}
	what = selected{fn: "QUANTILE", args: []string{col.Name}, micro: p}
	name = fmt.Sprintf("%s(%s)", written, col.Name)
	if strings.HasPrefix(written, "PERCENTILE") {
		name = fmt.Sprintf("%s(%s, %s)", written, col.Name, enclave.FormatScaled(p, 6))
	}
	return what, name, []enclave.Column{col}, true
}

// distinct reads COUNT(DISTINCT x). The key may be counted where rows may be matched by it: how many people is no one's
// identity.
func (b *builder) distinct(c *sql.Call, report bool) (what selected, name string, cols []enclave.Column, ok bool) {
	at := b.at(c.Name.NamePos)
	if strings.ToUpper(c.Name.Name) != "COUNT" || len(c.Args) != 1 || c.Filter != nil || c.Over != nil {
		b.refuse(CodeUnsupported, b.at(c.Distinct), "DISTINCT stands in COUNT(DISTINCT x) only", "write COUNT(DISTINCT x)")
		return what, "", nil, false
	}
	id, isName := b.unparen(c.Args[0]).(*sql.Ident)
	if !isName {
		b.foreignExpr(b.unparen(c.Args[0]), "an aggregate")
		return what, "", nil, false
	}
	col, found := b.Manifest.Column(id.Name)
	switch {
	case found && col.Type == enclave.TypeKey:
		if !col.May(operators.UseJoin) || !b.use.May(col.Name, operators.UseJoin) {
			b.refuse(CodeGrant, at, fmt.Sprintf("entities of %q may not be told apart in this scenario", col.Name), fmt.Sprintf("apply for a scenario with %s=join", col.Name))
			return what, "", nil, false
		}
	case found && col.Type == enclave.TypeCategory:
		if col, ok = b.column(id.Name, at, operators.UseGroup); !ok {
			return what, "", nil, false
		}
	default:
		if col, ok = b.column(id.Name, at, operators.UseAggregate); !ok {
			return what, "", nil, false
		}
	}
	return selected{fn: "COUNT_DISTINCT", args: []string{col.Name}}, fmt.Sprintf("COUNT(DISTINCT %s)", col.Name), []enclave.Column{col}, true
}

// Program reads the program of a joint plan.
func Program(p *enclave.Plan) (*mpc.Program, error) {
	if p.Joint == nil {
		return nil, errors.New("the plan is not for the secret-shared engine")
	}
	var out mpc.Program
	if err := canon.Unmarshal(p.Joint.Program, &out); err != nil {
		return nil, fmt.Errorf("program of the plan: %w", err)
	}
	return &out, nil
}

// noiseOf is a measure's noise: any two of the nodes' three parts make a full sample.
func noiseOf(entityRows int64, m enclave.Measure) mpc.Noise {
	return mpc.Noise{Rows: entityRows, Delta: m.Delta, EpsilonMicro: m.EpsilonMicro}
}

// leastCount is the noised count from which a cell is shown, as program.Keep has it.
func leastCount(p *enclave.Plan) (int64, bool) {
	margin := dp.NewLaplacePart(p.EntityRows, 1, p.Measures[0].EpsilonMicro).Margin(p.MarginMilli)
	if !margin.IsInt64() || margin.Int64() > mpc.MaxBound/8 || p.MinCohort > canon.MaxInt/p.EntityRows {
		return 0, false
	}
	return p.MinCohort*p.EntityRows + margin.Int64(), true
}
