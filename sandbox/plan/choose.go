package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
)

// A cube answers by additions alone and is tried first, the smallest first. Rows layouts multiply an indicator by a
// value, once per term. Ties go to the order of the manifest, so that every machine chooses alike.

// axis is one index space of one layout, and whether it fits.
type axis struct {
	layout *enclave.Layout
	names  []string
	cols   []enclave.Column
	size   int64
	why    string // it cannot serve any query of these columns; "" = it can
}

// choose fills the plan's layout, axis and kept cells, or refuses with a reason per layout.
func (b *builder) choose(p *enclave.Plan) {
	var rejected []string
	cubes, rows := b.axes()
	for _, a := range cubes {
		why := b.serve(p, a)
		if why == "" {
			b.terms(p, a.cols)
			return
		}
		rejected = append(rejected, fmt.Sprintf("cube %q %s", a.layout.Name, why))
	}
	for _, as := range rows {
		why := ""
		for _, a := range as {
			if why = b.serve(p, a); why == "" {
				b.terms(p, a.cols)
				return
			}
		}
		if cols, ok := b.pair(p, as); ok {
			b.terms(p, cols)
			return
		}
		rejected = append(rejected, fmt.Sprintf("rows %q %s", as[0].layout.Name, b.whyNot(as, why)))
	}
	if len(rejected) == 0 {
		rejected = []string{"the manifest has none"}
	}
	hint := "ask the steward to seal a cube over " + list(b.needed())
	if sums := b.sums(); len(sums) > 0 {
		hint += " with " + list(sums)
	}
	b.refuse(CodeLayout, Pos{}, "no sealed layout serves the query: "+strings.Join(rejected, "; "), hint)
}

// axes sorts the index spaces of each kind by size. Rows axes stay together by layout, because one layout serves all
// measures.
func (b *builder) axes() (cubes []axis, rows [][]axis) {
	bySize := func(x, y axis) int { return cmp.Compare(x.size, y.size) }
	for i := range b.Manifest.Layouts {
		l := &b.Manifest.Layouts[i]
		var here []axis
		for _, n := range l.Axes {
			here = append(here, b.axis(l, n))
		}
		slices.SortStableFunc(here, bySize)
		switch {
		case len(here) == 0:
		case l.Kind == enclave.Cube:
			cubes = append(cubes, here...)
		default:
			rows = append(rows, here)
		}
	}
	slices.SortStableFunc(cubes, bySize)
	return cubes, rows
}

func (b *builder) axis(l *enclave.Layout, names []string) axis {
	a := axis{layout: l, names: slices.Clone(names)}
	if a.names == nil {
		a.names = []string{}
	}
	var err error
	if a.cols, a.size, err = b.Manifest.Dims(names); err != nil {
		a.why = "is unusable: " + err.Error()
		return a
	}
	if l.Kind != enclave.Rows && (l.Kind != enclave.Cube || len(l.Axes) != 1) {
		a.why = fmt.Sprintf("is of kind %q with %d axes", l.Kind, len(l.Axes))
	}
	for i, c := range a.cols {
		if why := uncovered(c); why != "" {
			a.why = fmt.Sprintf("has column %q on its axis: %s", c.Name, why)
		}
		if slices.Contains(names[:i], c.Name) {
			a.why = fmt.Sprintf("has column %q twice on its axis", c.Name)
		}
	}
	return a
}

// needed lists the columns that an axis must have: groups, percentiles and what WHERE depends on, in manifest order.
func (b *builder) needed() []string {
	var out []string
	for _, c := range b.Manifest.Columns {
		of := func(cols []enclave.Column) bool { return slices.Contains(names(cols), c.Name) }
		if of(b.groups) || of(b.ranked) || b.filter != nil && of(b.filter.cols) {
			out = append(out, c.Name)
		}
	}
	return out
}

// sums lists the moments other than the row count.
func (b *builder) sums() []string {
	var out []string
	for _, m := range b.measures {
		if m.Moment != enclave.CountMoment {
			out = append(out, string(m.Moment))
		}
	}
	return out
}

// serve fills the plan from one axis, or says why it cannot.
func (b *builder) serve(p *enclave.Plan, a axis) string {
	if a.why != "" {
		return a.why
	}
	if lacks := missing(b.needed(), a.names); len(lacks) > 0 {
		return "has no " + list(lacks) + " on its axis"
	}
	if lacks := b.vectors(a); len(lacks) > 0 {
		return "lacks " + list(lacks)
	}
	keep := enclave.Runs(b.kept(b.filter, a))
	if lacks := indicators(a, keep); lacks != "" {
		return lacks
	}
	p.Layout, p.Axis, p.Keep, p.Also = a.layout.Name, a.names, keep, nil
	return ""
}

func missing(want, have []string) []string {
	var out []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			out = append(out, w)
		}
	}
	return out
}

// vectors lists the value vectors that the layout lacks. A rows layout counts with indicators alone, unless the axis is
// empty.
func (b *builder) vectors(a axis) []string {
	want := b.sums()
	if a.layout.Kind == enclave.Cube || len(a.names) == 0 {
		want = append([]string{string(enclave.CountMoment)}, want...)
	}
	return slices.DeleteFunc(want, func(v string) bool { return a.layout.Find(v) >= 0 })
}

func (b *builder) kept(f *filter, a axis) []int64 {
	if f == nil {
		f = &filter{pass: []bool{true}}
	}
	return f.over(a.cols)
}

// indicators checks that a rows layout has the indicator of every kept cell.
func indicators(a axis, keep []enclave.Run) string {
	if a.layout.Kind == enclave.Cube || len(a.names) == 0 {
		return ""
	}
	have := make(map[string]bool, len(a.layout.Vectors))
	for _, v := range a.layout.Vectors {
		have[v.Name] = true
	}
	for _, r := range keep {
		for k := r.From; k < r.From+r.Count; k++ {
			if !have[enclave.IndicatorName(a.names, k)] {
				return fmt.Sprintf("lacks indicators over %s", list(a.names))
			}
		}
	}
	return ""
}

// pair serves a query of counts whose WHERE is a condition on one axis and a condition on another: the product of two
// sums of indicators. A sum of values would need a third factor, and a ciphertext has room for one product.
func (b *builder) pair(p *enclave.Plan, as []axis) ([]enclave.Column, bool) {
	if b.filter == nil || len(b.sums()) > 0 {
		return nil, false
	}
	for _, a := range as {
		if a.why != "" || len(a.names) == 0 || len(missing(append(names(b.groups), names(b.ranked)...), a.names)) > 0 {
			continue
		}
		in, rest, ok := b.filter.split(func(c string) bool { return slices.Contains(a.names, c) })
		if !ok {
			continue
		}
		for _, z := range as {
			if z.why != "" || len(z.names) == 0 || slices.Equal(a.names, z.names) || len(missing(names(rest.cols), z.names)) > 0 {
				continue
			}
			keep, also := enclave.Runs(in.over(a.cols)), enclave.Runs(rest.over(z.cols))
			if indicators(a, keep) != "" || indicators(z, also) != "" {
				continue
			}
			p.Layout, p.Axis, p.Keep = a.layout.Name, a.names, keep
			p.Also = &enclave.Factor{Axis: z.names, Keep: also}
			return a.cols, true
		}
	}
	return nil, false
}

// whyNot puts a rows layout's failure in words.
func (b *builder) whyNot(as []axis, why string) string {
	onSome := func(c string) bool {
		return slices.ContainsFunc(as, func(a axis) bool { return a.why == "" && slices.Contains(a.names, c) })
	}
	var nowhere []string
	for _, c := range b.needed() {
		if !onSome(c) {
			nowhere = append(nowhere, c)
		}
	}
	switch {
	case len(as) == 1:
		return why
	case len(nowhere) > 0:
		return "has no indicators of " + list(nowhere)
	case len(b.vectors(as[len(as)-1])) > 0:
		return "lacks " + list(b.vectors(as[len(as)-1]))
	case len(b.sums()) > 0:
		return fmt.Sprintf("has no one axis with %s: a sum under two indicators needs two ciphertext products", list(b.needed()))
	}
	return fmt.Sprintf("has no one axis with %s, and no two axes whose conditions are joined by one AND", list(b.needed()))
}

// terms refuses plans that open too much: one ciphertext per cell and measure, or per bin that WHERE leaves of it.
func (b *builder) terms(p *enclave.Plan, cols []enclave.Column) {
	total := int64(0)
	for _, m := range b.measures {
		by := append([]enclave.Column(nil), b.groups...)
		if m.By != "" && !slices.Contains(names(by), m.By) {
			c, _ := b.Manifest.Column(m.By)
			by = append(by, c)
		}
		to, seen := indexer(cols, by), make([]bool, volume(by))
		for _, r := range p.Keep {
			for k := r.From; k < r.From+r.Count; k++ {
				if i := to(int(k)); !seen[i] {
					seen[i] = true
					total++
				}
			}
		}
	}
	params, _ := enclave.LookupParams(b.Keyset.Params)
	most := min(MaxTerms, params.OpeningCap(len(b.Keyset.Pieces)))
	if total > most {
		b.refuse(CodeTerms, Pos{}, fmt.Sprintf("the query would open %d ciphertexts; at most %d are allowed", total, most),
			"group by fewer columns, narrow WHERE, or ask for fewer aggregates")
	}
}
