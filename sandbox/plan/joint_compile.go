package plan

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
)

// compile writes the program of a joint plan. What concerns one looked-up dataset alone is computed there, before the
// join: a condition that is a factor of WHERE becomes the join's own filter, and any other one column that is brought
// along. Everything else happens in the frame of the base.
func (b *builder) compile(p *enclave.Plan) *mpc.Program {
	c := &compiler{b: b, j: b.joint, p: p, prog: &mpc.Program{}, columns: make([]map[string]bool, len(b.joint.sources)), brought: map[string]string{}, done: map[*condition]string{}}
	for i := range c.columns {
		c.columns[i] = map[string]bool{string(enclave.CountMoment): i == c.j.base}
	}
	c.gather()
	c.tables()
	who := c.join()
	cells := c.cells(who)
	c.release(who, cells)
	return c.prog
}

type compiler struct {
	b    *builder
	j    *joint
	p    *enclave.Plan
	prog *mpc.Program

	columns []map[string]bool     // shared columns needed, by source
	brought map[string]string     // "source column" of a looked-up dataset to its column in the base's frame
	bring   [][]string            // columns to look up, by source: shared ones, then flags
	flags   [][]*condition        // conditions whose flags are looked up, by source
	filters [][]*condition        // factors of WHERE of one looked-up dataset, by source
	rest    []*condition          // factors of WHERE that are left to the base's frame
	done    map[*condition]string // flags that were looked up
}

func (c *compiler) origin(name string) (int, enclave.Column) {
	src, col, ok := enclave.Origin(c.j.manifests, name)
	if !ok {
		panic(fmt.Sprintf("plan: column %q was resolved before", name))
	}
	return src, col
}

// only is the source that all columns of a condition belong to.
func (c *compiler) only(w *condition) (int, bool) {
	src, one := -1, true
	w.columns(func(col enclave.Column) {
		s, _ := c.origin(col.Name)
		if src >= 0 && s != src {
			one = false
		}
		src = s
	})
	return src, one
}

// gather decides where everything is computed and which shared columns that takes.
func (c *compiler) gather() {
	n := len(c.j.sources)
	c.bring, c.flags, c.filters = make([][]string, n), make([][]*condition, n), make([][]*condition, n)
	for _, f := range factors(c.j.where) {
		if src, one := c.only(f); one && src != c.j.base {
			c.filters[src] = append(c.filters[src], f)
			c.need(f, src)
			continue
		}
		c.rest = append(c.rest, f)
		c.split(f)
	}
	for _, g := range c.b.groups {
		c.use(g)
	}
	for _, m := range c.p.Measures {
		switch letter, cols := m.Moment.Split(); letter {
		case "t":
			cols = cols[:1]
			fallthrough
		default:
			for _, name := range cols {
				col, _ := c.b.Manifest.Column(name)
				if col.Type == enclave.TypeKey {
					c.columns[c.j.base][enclave.EntityShare] = true
					continue
				}
				c.use(col)
			}
		}
	}
	if n > 1 {
		for i := range c.columns {
			c.columns[i][enclave.EntityShare] = true
		}
	}
}

// factors takes the ANDs at the top apart.
func factors(w *condition) []*condition {
	if w == nil {
		return nil
	}
	if w.op == sql.AND {
		return append(factors(w.kids[0]), factors(w.kids[1])...)
	}
	return []*condition{w}
}

// split finds the largest parts of a condition that belong to one looked-up dataset.
func (c *compiler) split(w *condition) {
	src, one := c.only(w)
	switch {
	case one && src == c.j.base:
		c.need(w, src)
	case one:
		c.flags[src] = append(c.flags[src], w)
		c.need(w, src)
	case w.op == 0: // compares columns of two datasets
		w.columns(c.use)
	default:
		for _, k := range w.kids {
			c.split(k)
		}
	}
}

// need notes the shared columns of a condition in its own dataset.
func (c *compiler) need(w *condition, src int) {
	w.columns(func(col enclave.Column) {
		_, own := c.origin(col.Name)
		for _, v := range own.Values() {
			c.columns[src][v] = true
		}
	})
}

// use notes a column that is needed in the base's frame.
func (c *compiler) use(col enclave.Column) {
	src, own := c.origin(col.Name)
	for _, v := range own.Values() {
		c.columns[src][v] = true
		if src != c.j.base && !slices.Contains(c.bring[src], v) {
			c.bring[src] = append(c.bring[src], v)
		}
	}
}

// tables lists the shared columns of every dataset in the order of its layout.
func (c *compiler) tables() {
	for i, s := range c.j.sources {
		l, _ := sharesOf(s.Manifest, c.b.Grant)
		t := mpc.Table{Name: s.Manifest.Dataset, Rows: l.Shares.Rows}
		for _, v := range l.Vectors {
			if !c.columns[i][v.Name] {
				continue
			}
			col := mpc.Column{Name: v.Name, Kind: mpc.Number}
			bound, ok := s.Manifest.ShareBound(v.Name)
			if !ok {
				c.b.refuse(CodeArtefact, Pos{}, fmt.Sprintf("dataset %q has a shared column %q of no column", s.Manifest.Dataset, v.Name), "ask the steward to seal again")
			}
			if v.Name == enclave.EntityShare {
				col.Kind = mpc.Word
			} else {
				col.Bound = bound
			}
			t.Columns = append(t.Columns, col)
			c.columns[i][v.Name] = false // found
		}
		for name, missing := range c.columns[i] {
			if missing {
				c.b.refuse(CodeLayout, Pos{}, fmt.Sprintf("layout %q of dataset %q has no shares of %q", l.Name, s.Manifest.Dataset, name), "ask the steward to seal again")
			}
		}
		c.prog.Tables = append(c.prog.Tables, t)
	}
}

func (c *compiler) table(src int) string              { return c.prog.Tables[src].Name }
func (c *compiler) share(src int, name string) string { return c.table(src) + "." + name }

// join looks the other datasets up and returns the number 1 in the rows that count.
func (c *compiler) join() (who string) {
	p, base := c.prog, c.j.base
	in := []string{p.Bit(c.share(base, string(enclave.CountMoment)))}
	for src := range c.j.sources {
		if src == base {
			continue
		}
		at := frame{c, src, false}
		where := ""
		if fs := c.filters[src]; len(fs) > 0 {
			where = p.Number(at.all(fs))
		}
		var columns []string
		for _, v := range c.bring[src] {
			columns = append(columns, c.share(src, v))
		}
		for _, f := range c.flags[src] {
			columns = append(columns, p.Number(at.bit(f)))
		}
		e := enclave.EntityShare
		matched, values := p.Join([]string{c.share(src, e)}, where, columns, []string{c.share(base, e)})
		in = append(in, p.Bit(matched))
		for i, v := range c.bring[src] {
			c.brought[c.share(src, v)] = values[i]
		}
		for i, f := range c.flags[src] {
			c.done[f] = values[len(c.bring[src])+i]
		}
	}
	at := frame{c, base, true}
	for _, f := range c.rest {
		in = append(in, at.bit(f))
	}
	return p.Number(tree(in, p.And))
}

// tree combines bits in as few rounds as there are levels.
func tree(bits []string, op func(a, b string) string) string {
	for len(bits) > 1 {
		var next []string
		for i := 0; i+1 < len(bits); i += 2 {
			next = append(next, op(bits[i], bits[i+1]))
		}
		if len(bits)%2 == 1 {
			next = append(next, bits[len(bits)-1])
		}
		bits = next
	}
	return bits[0]
}

// frame is where conditions are evaluated: in a looked-up dataset before the join, or in the base after it.
type frame struct {
	*compiler
	src    int
	joined bool
}

// column finds a shared column of a column of the view here.
func (f frame) column(col enclave.Column, share func(own enclave.Column) string) string {
	src, own := f.origin(col.Name)
	name := f.compiler.share(src, share(own))
	if f.joined && src != f.j.base {
		return f.brought[name]
	}
	return name
}

func (f frame) value(col enclave.Column) string {
	return f.column(col, func(own enclave.Column) string { return enclave.ValueShare(own.Name) })
}

func (f frame) present(col enclave.Column) string {
	return f.column(col, func(own enclave.Column) string { return string(enclave.PresentMoment(own.Name)) })
}

func (f frame) label(col enclave.Column, k int) string {
	return f.column(col, func(own enclave.Column) string { return enclave.IndicatorName([]string{own.Name}, int64(k)) })
}

func (f frame) constant(v int64) string { return f.prog.Constant(f.table(f.src), v) }

func (f frame) all(ws []*condition) string {
	var bits []string
	for _, w := range ws {
		bits = append(bits, f.bit(w))
	}
	return tree(bits, f.prog.And)
}

// bit is a condition as a bit of every row. Padding rows may have either: who leaves them out.
func (f frame) bit(w *condition) string {
	p := f.prog
	if flag, ok := f.done[w]; ok && f.joined {
		return p.Bit(flag)
	}
	switch {
	case w.op == sql.AND:
		return p.And(f.bit(w.kids[0]), f.bit(w.kids[1]))
	case w.op == sql.OR:
		return p.Or(f.bit(w.kids[0]), f.bit(w.kids[1]))
	case w.pass != nil:
		return f.labels(w)
	case w.other != nil:
		return f.known(f.compare(w), w.col, *w.other)
	}
	in := f.within(w.col, w.lo, w.hi)
	if w.outside {
		in = p.Not(in)
	}
	return f.known(in, w.col)
}

// known adds that nullable columns are there.
func (f frame) known(bit string, cols ...enclave.Column) string {
	bits := []string{bit}
	for _, c := range cols {
		if c.Nullable {
			bits = append(bits, f.prog.Bit(f.present(c)))
		}
	}
	return tree(bits, f.prog.And)
}

// labels adds up the indicators of the labels that pass, or of the others where those are fewer.
func (f frame) labels(w *condition) string {
	var in, out []string
	for k, pass := range w.pass {
		if pass {
			in = append(in, f.label(w.col, k))
		} else {
			out = append(out, f.label(w.col, k))
		}
	}
	switch {
	case len(in) == 0:
		return f.prog.Bit(f.constant(0))
	case len(out) == 0:
		return f.prog.Bit(f.constant(1))
	case len(in) <= len(out):
		return f.prog.Bit(f.prog.Sum(in...))
	}
	return f.prog.Not(f.prog.Bit(f.prog.Sum(out...)))
}

// within is lo <= x <= hi, with no comparison at a bound that the declared range keeps by itself.
func (f frame) within(col enclave.Column, lo, hi int64) string {
	p := f.prog
	if lo > hi || lo > col.Max || hi < col.Min {
		return p.Bit(f.constant(0))
	}
	var bits []string
	if lo > col.Min {
		bits = append(bits, p.Not(p.Less(f.value(col), f.constant(lo))))
	}
	if hi < col.Max {
		bits = append(bits, p.Not(p.Less(f.constant(hi), f.value(col))))
	}
	if len(bits) == 0 {
		return p.Bit(f.constant(1))
	}
	return tree(bits, p.And)
}

// compare is a comparison of two columns, brought to the finer of their units.
func (f frame) compare(w *condition) string {
	p := f.prog
	unit := max(w.col.Scale, w.other.Scale)
	scaled := func(col enclave.Column) string {
		v := f.value(col)
		if col.Scale == unit {
			return v
		}
		return p.Linear(0, []int64{int64(math.Pow10(int(unit - col.Scale)))}, v)
	}
	x, y := scaled(w.col), scaled(*w.other)
	switch {
	case w.equal && w.differ:
		return p.Not(p.Equal(x, y))
	case w.equal:
		return p.Equal(x, y)
	case w.strict:
		return p.Less(x, y)
	}
	return p.Not(p.Less(y, x)) // x <= y
}

// cells makes the one-hot columns of the kept cells; none without GROUP BY.
func (c *compiler) cells(who string) []string {
	at := frame{c, c.j.base, true}
	if len(c.b.groups) == 0 {
		return nil
	}
	hot := make([][]string, len(c.b.groups))
	for g, col := range c.b.groups {
		hot[g] = make([]string, col.Size())
		for k := range hot[g] {
			if col.Type == enclave.TypeCategory {
				hot[g][k] = at.label(col, k)
				continue
			}
			lo, hi := binRange(col, k)
			hot[g][k] = c.prog.Number(at.within(col, lo, hi))
		}
	}
	var out []string
	idx := make([]int, len(hot))
	for _, r := range c.p.Keep {
		for k := r.From; k < r.From+r.Count; k++ {
			rest := int(k)
			for g := len(hot) - 1; g >= 0; g-- {
				idx[g] = rest % len(hot[g])
				rest /= len(hot[g])
			}
			cell := hot[0][idx[0]]
			for g := 1; g < len(hot); g++ {
				cell = c.prog.Mul(cell, hot[g][idx[g]])
			}
			out = append(out, cell)
		}
	}
	return out
}

// release writes what is opened: one release, measures in the plan's order.
func (c *compiler) release(who string, cells []string) {
	p, at := c.prog, frame{c, c.j.base, true}
	least, ok := leastCount(c.p)
	if !ok {
		c.b.refuse(CodeOverflow, Pos{}, "the cohort and its margin are beyond any count", "ask for a larger ε")
	}
	r := mpc.Release{Name: "result", Cells: cells, Who: who, Count: noiseOf(c.p.EntityRows, c.p.Measures[0]), MinCount: least}
	centred := map[string]string{} // who times value minus centre, by column
	value := func(name string) string {
		if v, ok := centred[name]; ok {
			return v
		}
		col, _ := c.b.Manifest.Column(name)
		x := p.Linear(-col.Centre(), []int64{1}, at.value(col))
		in := who
		if col.Nullable {
			in = p.Mul(who, at.present(col))
		}
		centred[name] = p.Mul(in, x)
		return centred[name]
	}
	plain := func(name string) string {
		col, _ := c.b.Manifest.Column(name)
		return p.Linear(-col.Centre(), []int64{1}, at.value(col))
	}
	for _, m := range c.p.Measures[1:] {
		noise := noiseOf(c.p.EntityRows, m)
		letter, cols := m.Moment.Split()
		switch letter {
		case "t":
			col, _ := c.b.Manifest.Column(cols[0])
			// The answer is below what is found, so that the greatest value can be one.
			q := mpc.Quantile{Column: at.value(col), Min: col.Min, Max: col.Max + 1, Unit: QuantileUnit(col), Noise: noise}
			micro, err := strconv.ParseInt(cols[1], 10, 64)
			if err != nil {
				panic("plan: its own moment " + string(m.Moment))
			}
			q.Fractions = []int64{micro}
			r.Quantiles = append(r.Quantiles, q)
			continue
		case "n":
			col, _ := c.b.Manifest.Column(cols[0])
			r.Sums = append(r.Sums, mpc.Sum{Column: p.Mul(who, at.present(col)), Noise: noise})
		case "s":
			r.Sums = append(r.Sums, mpc.Sum{Column: value(cols[0]), Noise: noise})
		case "q":
			r.Sums = append(r.Sums, mpc.Sum{Column: p.Mul(value(cols[0]), plain(cols[0])), Noise: noise})
		case "p":
			r.Sums = append(r.Sums, mpc.Sum{Column: p.Mul(value(cols[0]), plain(cols[1])), Noise: noise})
		case "d":
			r.Sums = append(r.Sums, mpc.Sum{Column: c.distinct(at, who, cols[0], cells), Noise: noise})
		}
	}
	p.Releases = []mpc.Release{r}
}

// QuantileUnit is how finely a quantile of a column is found, in scaled units: in sixteen bisections at most, for each of
// them costs its part of ε.
func QuantileUnit(col enclave.Column) int64 {
	const steps = 16
	width := col.Max + 1 - col.Min
	return (width + 1<<steps - 1) >> steps
}

// distinct flags one row of each value in each cell among the rows that count.
func (c *compiler) distinct(at frame, who, name string, cells []string) string {
	p := c.prog
	col, _ := c.b.Manifest.Column(name)
	var key string
	switch col.Type {
	case enclave.TypeKey: // of any dataset: they were matched by it
		key = c.share(c.j.base, enclave.EntityShare)
	case enclave.TypeCategory:
		var factors []int64
		var hot []string
		for k := range col.Domain {
			factors, hot = append(factors, int64(k)), append(hot, at.label(col, k))
		}
		key = p.Word(p.Linear(0, factors, hot...))
	default:
		key = p.Word(at.value(col))
		if col.Nullable {
			who = p.Mul(who, at.present(col))
		}
	}
	by := []string{key}
	if len(cells) > 0 {
		factors := make([]int64, len(cells))
		for k := range cells {
			factors[k] = int64(k + 1)
		}
		by = []string{p.Word(p.Linear(0, factors, cells...)), key}
	}
	return p.Distinct(by, who)
}
