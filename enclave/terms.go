package enclave

import (
	"fmt"
	"slices"

	"yingzhou.dev/lab/internal/canon"
)

// Term is one ciphertext to compute and to open: a sum of sealed vectors, or the product of two such sums, added up
// over all rows. Vectors are indices into the plan's layout.
type Term struct {
	Cell    int // index into the plan's cells
	Measure int
	Bin     int // bin of Measure.By, else 0

	Vector int     // cube: the moment's vector
	Cells  []int64 // cube: cells of the axis to add up, ascending

	A, B []int // rows: Σ over slots of (Σ A)·(Σ B); B empty = Σ A alone; ascending
}

// Cell is one cell of the GROUP BY: an index per group column.
type Cell []int

// Labels names a cell's values.
func (p *Plan) Labels(m *Manifest, c Cell) []string {
	out := make([]string, len(c))
	for i, name := range p.Groups {
		col, _ := m.Column(name)
		out[i] = col.Label(c[i])
	}
	return out
}

// Expand lists a plan's cells and terms in their one order: cells in row-major order of the group columns, leaving out
// those that WHERE excludes altogether; in each cell the measures, in each measure the bins. Everything that executes,
// opens or prices a plan goes through here. For a joint plan, m is the View of its sources.
func (p *Plan) Expand(m *Manifest) ([]Cell, []Term, error) {
	if p.Joint != nil {
		return p.expandJoint(m)
	}
	layout, ok := m.Layout(p.Layout)
	if !ok {
		return nil, nil, fmt.Errorf("plan uses layout %q, which the manifest does not have", p.Layout)
	}
	cols, size, err := m.Dims(p.Axis)
	if err != nil {
		return nil, nil, fmt.Errorf("expanding plan: %w", err)
	}
	if err := checkRuns(p.Keep, size); err != nil {
		return nil, nil, fmt.Errorf("expanding plan: %w", err)
	}
	if !slices.ContainsFunc(layout.Axes, func(a []string) bool { return slices.Equal(a, p.Axis) }) {
		return nil, nil, fmt.Errorf("expanding plan: layout %q has no axis %q", p.Layout, p.Axis)
	}
	groups := make([]int, len(p.Groups)) // positions of the group columns in the axis
	for i, g := range p.Groups {
		if groups[i] = slices.Index(p.Axis, g); groups[i] < 0 {
			return nil, nil, fmt.Errorf("expanding plan: group column %q is not on axis %q", g, p.Axis)
		}
	}
	by := make([]int, len(p.Measures)) // positions of the bin columns, -1 = none
	for i, me := range p.Measures {
		by[i] = -1
		if me.By == "" {
			continue
		}
		if by[i] = slices.Index(p.Axis, me.By); by[i] < 0 {
			return nil, nil, fmt.Errorf("expanding plan: bin column %q is not on axis %q", me.By, p.Axis)
		}
	}
	e := expansion{p: p, m: m, layout: layout, cols: cols, by: by, index: layout.index()}
	if err := e.also(); err != nil {
		return nil, nil, err
	}
	cells, members := e.group(groups)
	var terms []Term
	for ci := range cells {
		for mi := range p.Measures {
			ts, err := e.terms(ci, mi, members[ci])
			if err != nil {
				return nil, nil, fmt.Errorf("expanding plan: %w", err)
			}
			terms = append(terms, ts...)
		}
	}
	return cells, terms, nil
}

type expansion struct {
	p      *Plan
	m      *Manifest
	layout *Layout
	cols   []Column
	by     []int
	index  map[string]int // the layout's vectors by name
	second []int          // rows: vectors of Also
}

// find looks a vector up as Layout.Find does. A rows layout has thousands of indicators and a plan asks for each of
// them, so a scan for every one would be quadratic.
func (e *expansion) find(name string) int {
	if v, ok := e.index[name]; ok {
		return v
	}
	return -1
}

func (e *expansion) also() error {
	f := e.p.Also
	if f == nil {
		return nil
	}
	if e.layout.Kind != Rows {
		return fmt.Errorf("expanding plan: a second indicator on layout %q of kind %q", e.layout.Name, e.layout.Kind)
	}
	_, size, err := e.m.Dims(f.Axis)
	if err != nil {
		return fmt.Errorf("expanding plan: %w", err)
	}
	if err := checkRuns(f.Keep, size); err != nil {
		return fmt.Errorf("expanding plan: %w", err)
	}
	for k := range each(f.Keep) {
		v := e.find(IndicatorName(f.Axis, k))
		if v < 0 {
			return fmt.Errorf("expanding plan: layout %q has no indicator %s", e.layout.Name, IndicatorName(f.Axis, k))
		}
		e.second = append(e.second, v)
	}
	slices.Sort(e.second)
	return nil
}

// group assigns every kept cell of the axis to its cell of the GROUP BY.
func (e *expansion) group(pos []int) ([]Cell, [][]int64) {
	type slot struct {
		cell    Cell
		members []int64
	}
	slots := map[int64]*slot{}
	var order []int64
	idx := make([]int, len(e.cols))
	for k := range each(e.p.Keep) {
		e.coords(k, idx)
		var id int64
		for _, g := range pos {
			id = id*int64(e.cols[g].Size()) + int64(idx[g])
		}
		s := slots[id]
		if s == nil {
			cell := make(Cell, len(pos))
			for i, g := range pos {
				cell[i] = idx[g]
			}
			s = &slot{cell: cell}
			slots[id] = s
			order = append(order, id)
		}
		s.members = append(s.members, k)
	}
	slices.Sort(order)
	cells := make([]Cell, len(order))
	members := make([][]int64, len(order))
	for i, id := range order {
		cells[i], members[i] = slots[id].cell, slots[id].members
	}
	return cells, members
}

func (e *expansion) coords(k int64, idx []int) {
	for i := len(e.cols) - 1; i >= 0; i-- {
		n := int64(e.cols[i].Size())
		idx[i] = int(k % n)
		k /= n
	}
}

func (e *expansion) terms(cell, measure int, members []int64) ([]Term, error) {
	me := e.p.Measures[measure]
	if e.by[measure] < 0 {
		t, err := e.term(Term{Cell: cell, Measure: measure}, me.Moment, members)
		return []Term{t}, err
	}
	split := make([][]int64, e.cols[e.by[measure]].Size())
	idx := make([]int, len(e.cols))
	for _, k := range members {
		e.coords(k, idx)
		b := idx[e.by[measure]]
		split[b] = append(split[b], k)
	}
	var out []Term
	for b, ks := range split {
		if len(ks) == 0 { // WHERE excludes this bin
			continue
		}
		t, err := e.term(Term{Cell: cell, Measure: measure, Bin: b}, me.Moment, ks)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (e *expansion) term(t Term, moment Moment, members []int64) (Term, error) {
	if e.layout.Kind == Cube {
		t.Vector, t.Cells = e.find(string(moment)), members
		if t.Vector < 0 {
			return t, fmt.Errorf("layout %q has no vector %q", e.layout.Name, moment)
		}
		return t, nil
	}
	if len(e.p.Axis) > 0 {
		for _, k := range members {
			v := e.find(IndicatorName(e.p.Axis, k))
			if v < 0 {
				return t, fmt.Errorf("layout %q has no indicator %s", e.layout.Name, IndicatorName(e.p.Axis, k))
			}
			t.A = append(t.A, v)
		}
	}
	value := -1
	if moment != CountMoment || len(t.A) == 0 {
		if value = e.find(string(moment)); value < 0 {
			return t, fmt.Errorf("layout %q has no vector %q", e.layout.Name, moment)
		}
	}
	switch {
	case value >= 0 && e.second != nil:
		return t, fmt.Errorf("moment %q under two indicators needs two products", moment)
	case value >= 0 && len(t.A) == 0:
		t.A = []int{value}
	case value >= 0:
		t.B = []int{value}
	case e.second != nil:
		t.B = e.second
	}
	slices.Sort(t.A)
	if t.B != nil && slices.Compare(t.A, t.B) > 0 { // a product commutes: one order, one noise key
		t.A, t.B = t.B, t.A
	}
	return t, nil
}

func checkRuns(runs []Run, size int64) error {
	next := int64(-1) // a maximal run cannot touch the one before
	for _, r := range runs {
		if r.From <= next || r.Count <= 0 || r.From > size-r.Count {
			return fmt.Errorf("run %d+%d is empty, out of order, not maximal or outside %d cells", r.From, r.Count, size)
		}
		next = r.From + r.Count
	}
	if len(runs) == 0 {
		return fmt.Errorf("no cell satisfies the condition")
	}
	return nil
}

// Runs compresses ascending indices.
func Runs(indices []int64) []Run {
	var out []Run
	for _, k := range indices {
		if n := len(out); n > 0 && out[n-1].From+out[n-1].Count == k {
			out[n-1].Count++
		} else {
			out = append(out, Run{From: k, Count: 1})
		}
	}
	return out
}

func each(runs []Run) func(yield func(int64) bool) {
	return func(yield func(int64) bool) {
		for _, r := range runs {
			for k := r.From; k < r.From+r.Count; k++ {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// Inputs lists the blobs that terms read, and their vectors, in order of first use: what a Receipt names.
func (l *Layout) Inputs(terms []Term) (blobs []Digest, vectors []int) {
	seen := make([]bool, len(l.Vectors))
	use := func(v int) {
		if !seen[v] {
			seen[v] = true
			blobs, vectors = append(blobs, l.Vectors[v].Blob), append(vectors, v)
		}
	}
	for _, t := range terms {
		if l.Kind == Cube {
			use(t.Vector)
		}
		for _, v := range t.A {
			use(v)
		}
		for _, v := range t.B {
			use(v)
		}
	}
	return blobs, vectors
}

// NoiseKey is the normal form of one question to one version of the data: two plans that ask for the same sum over the
// same sealed vectors with the same noise have the same key, hence the same noise and the same share bytes, and the
// dataset is charged for it once. Equivalent questions answered from different vectors get different keys (charged
// twice: safe); different questions never share one, because the key names every ciphertext that is added up.
func (p *Plan) NoiseKey(m *Manifest, t Term) Digest {
	me := p.Measures[t.Measure]
	layout, _ := m.Layout(p.Layout)
	names := func(vs []int) []string {
		var out []string
		for _, v := range vs {
			out = append(out, layout.Vectors[v].Blob.String()+" "+layout.Vectors[v].Name)
		}
		return out
	}
	form := struct {
		Kind    string   `json:"kind"`
		Keyset  Digest   `json:"keyset"`
		Epoch   int64    `json:"epoch"`
		Data    Digest   `json:"manifest"`
		Params  string   `json:"params"`
		Moment  Moment   `json:"moment"`
		Rows    int64    `json:"entity_rows"`
		Delta   int64    `json:"delta"`
		Epsilon int64    `json:"epsilon_micro"`
		Cells   []Run    `json:"cells,omitempty"`
		A       []string `json:"a,omitempty"`
		B       []string `json:"b,omitempty"`
	}{Kind: "yingzhou.noise-key.v1", Keyset: p.Keyset, Epoch: p.Epoch, Data: p.Manifest, Params: p.Params, Moment: me.Moment,
		Rows: p.EntityRows, Delta: me.Delta, Epsilon: me.EpsilonMicro}
	if layout.Kind == Cube {
		form.Cells, form.A = Runs(t.Cells), names([]int{t.Vector})
	} else {
		form.A, form.B = names(t.A), names(t.B)
	}
	return canon.DigestOf(form)
}
