package enclave_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
)

func TestExpandOrder(t *testing.T) {
	count := enclave.Measure{Moment: "n", Delta: 1, EpsilonMicro: 1, Stage: 1}
	for name, c := range map[string]struct {
		change func(*enclave.Plan)
		want   []string
	}{
		"cube: cells in row-major order of the groups, measures in each": {func(p *enclave.Plan) {}, []string{
			"城桥镇 n/0: n[0 1 2 3]", "城桥镇 s:m3/0: s:m3[0 1 2 3]",
			"堡镇 n/0: n[4 5 6 7]", "堡镇 s:m3/0: s:m3[4 5 6 7]",
			"庙镇 n/0: n[8 9 10 11]", "庙镇 s:m3/0: s:m3[8 9 10 11]"}},
		"groups in query order, not in that of the axis": {func(p *enclave.Plan) {
			p.Groups, p.Measures = []string{"kind", "town"}, []enclave.Measure{count}
		}, []string{"flat,城桥镇 n/0: n[0 1]", "flat,堡镇 n/0: n[4 5]", "flat,庙镇 n/0: n[8 9]",
			",城桥镇 n/0: n[2 3]", ",堡镇 n/0: n[6 7]", ",庙镇 n/0: n[10 11]"}},
		"a group that WHERE excludes is no cell": {func(p *enclave.Plan) {
			p.Keep, p.Measures = []enclave.Run{{From: 1, Count: 1}, {From: 9, Count: 3}}, []enclave.Measure{count}
		}, []string{"城桥镇 n/0: n[1]", "庙镇 n/0: n[9 10 11]"}},
		"no group: one cell": {func(p *enclave.Plan) { p.Groups, p.Measures = []string{}, []enclave.Measure{count} },
			[]string{" n/0: n[0 1 2 3 4 5 6 7 8 9 10 11]"}},
		"bins of a measure, without those that WHERE excludes": {func(p *enclave.Plan) {
			p.Keep = []enclave.Run{{Count: 3}, {From: 4, Count: 1}}
			p.Measures = []enclave.Measure{count, {Moment: "n", By: "m3", Delta: 1, EpsilonMicro: 1, Stage: 2}}
		}, []string{"城桥镇 n/0: n[0 1 2]", "城桥镇 n/0: n[0 2]", "城桥镇 n/1: n[1]", "堡镇 n/0: n[4]", "堡镇 n/0: n[4]"}},
		"rows: indicator times value; a count is the indicator": {func(p *enclave.Plan) {
			p.Layout, p.Axis, p.Keep = "rows", []string{"town"}, []enclave.Run{{Count: 1}, {From: 2, Count: 1}}
		}, []string{"城桥镇 n/0: i:town:0", "城桥镇 s:m3/0: s:m3 × i:town:0", "庙镇 n/0: i:town:2", "庙镇 s:m3/0: s:m3 × i:town:2"}},
		"rows: several indicators are added before the product": {func(p *enclave.Plan) {
			p.Layout, p.Axis, p.Keep = "rows", []string{"kind", "town"}, []enclave.Run{{Count: 2}, {From: 3, Count: 2}}
		}, []string{"城桥镇 n/0: i:kind,town:0+i:kind,town:3", "城桥镇 s:m3/0: s:m3 × i:kind,town:0+i:kind,town:3",
			"堡镇 n/0: i:kind,town:1+i:kind,town:4", "堡镇 s:m3/0: s:m3 × i:kind,town:1+i:kind,town:4"}},
		"rows: the empty axis has one cell, the whole table": {func(p *enclave.Plan) {
			p.Layout, p.Axis, p.Groups, p.Keep = "rows", []string{}, []string{}, []enclave.Run{{Count: 1}}
		}, []string{" n/0: n", " s:m3/0: s:m3"}},
		"rows: a second indicator on a count": {func(p *enclave.Plan) {
			p.Layout, p.Axis, p.Keep, p.Measures = "rows", []string{"town"}, []enclave.Run{{Count: 2}}, []enclave.Measure{count}
			p.Also = &enclave.Factor{Axis: []string{"m3"}, Keep: []enclave.Run{{From: 1, Count: 1}}}
		}, []string{"城桥镇 n/0: i:town:0 × i:m3:1", "堡镇 n/0: i:town:1 × i:m3:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := water()
			p := countByTown(m)
			c.change(p)
			cells, terms := expand(t, p, m)
			var got []string
			for _, term := range terms {
				got = append(got, describe(p, m, cells, term))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestExpandRefuses(t *testing.T) {
	const all = 1<<63 - 1
	for name, c := range map[string]struct {
		change func(*enclave.Plan, *enclave.Manifest)
		want   string
	}{
		"layout":               {func(p *enclave.Plan, m *enclave.Manifest) { p.Layout = "cubes" }, `layout "cubes", which the manifest does not have`},
		"column":               {func(p *enclave.Plan, m *enclave.Manifest) { p.Axis = []string{"town", "street"} }, `column "street", which the manifest does not have`},
		"column of no size":    {func(p *enclave.Plan, m *enclave.Manifest) { p.Axis = []string{"debt"} }, "neither a domain nor bins"},
		"too many cells":       {func(p *enclave.Plan, m *enclave.Manifest) { p.Axis = slices.Repeat([]string{"town"}, 13) }, "more than 1048576 cells"},
		"no such axis":         {func(p *enclave.Plan, m *enclave.Manifest) { p.Axis, p.Keep = []string{"town"}, p.Keep[:1:1] }, "outside 3 cells"},
		"axis of no vectors":   {func(p *enclave.Plan, m *enclave.Manifest) { p.Axis = []string{"kind", "town", "m3"} }, "has no axis"},
		"nothing kept":         {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = nil }, "no cell satisfies"},
		"empty run":            {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: 1}} }, "is empty"},
		"negative run":         {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: 1, Count: -1 << 63}} }, "is empty"},
		"run from below":       {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: -1, Count: 2}} }, "out of order"},
		"run past the end":     {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: 11, Count: 2}} }, "outside 12 cells"},
		"run that overflows":   {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: 11, Count: all}} }, "outside 12 cells"},
		"runs out of order":    {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{From: 4, Count: 1}, {Count: 1}} }, "out of order"},
		"runs that overlap":    {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{Count: 4}, {From: 3, Count: 1}} }, "out of order"},
		"runs that touch":      {func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{Count: 4}, {From: 4, Count: 1}} }, "not maximal"},
		"group off the axis":   {func(p *enclave.Plan, m *enclave.Manifest) { p.Groups = []string{"note"} }, `group column "note" is not on axis`},
		"bins off the axis":    {func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[0].By = "debt" }, `bin column "debt" is not on axis`},
		"moment of the cube":   {func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].Moment = "s:note" }, `no vector "s:note"`},
		"moment by bins":       {func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].Moment, p.Measures[1].By = "s:note", "m3" }, `no vector "s:note"`},
		"also on a cube":       {func(p *enclave.Plan, m *enclave.Manifest) { p.Also = &enclave.Factor{Axis: []string{"m3"}} }, "second indicator on layout"},
		"moment of rows":       {rows(func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].Moment = "q:m3" }), `no vector "q:m3"`},
		"indicator is missing": {rows(func(p *enclave.Plan, m *enclave.Manifest) { drop(m, "i:town:1") }), "no indicator i:town:1"},
		"count is missing": {rows(func(p *enclave.Plan, m *enclave.Manifest) {
			drop(m, "n")
			p.Axis, p.Groups, p.Keep = []string{}, []string{}, []enclave.Run{{Count: 1}}
		}), `no vector "n"`},
		"two products": {rows(func(p *enclave.Plan, m *enclave.Manifest) {
			p.Also = &enclave.Factor{Axis: []string{"m3"}, Keep: []enclave.Run{{Count: 1}}}
		}), "needs two products"},
		"also: column":    {rows(also([]string{"street"}, enclave.Run{Count: 1})), `column "street"`},
		"also: runs":      {rows(also([]string{"m3"}, enclave.Run{Count: 3})), "outside 2 cells"},
		"also: nothing":   {rows(also([]string{"m3"})), "no cell satisfies"},
		"also: no vector": {rows(also([]string{"kind"}, enclave.Run{Count: 1})), "no indicator i:kind:0"},
	} {
		t.Run(name, func(t *testing.T) {
			m := water()
			p := countByTown(m)
			c.change(p, m)
			cells, terms, err := p.Expand(m)
			if err == nil || !strings.Contains(err.Error(), c.want) || cells != nil || terms != nil {
				t.Errorf("expanded to %d cells and %d terms with error %v, want %q", len(cells), len(terms), err, c.want)
			}
		})
	}
}

// rows puts the plan on the rows layout by town before a change.
func rows(change func(*enclave.Plan, *enclave.Manifest)) func(*enclave.Plan, *enclave.Manifest) {
	return func(p *enclave.Plan, m *enclave.Manifest) {
		p.Layout, p.Axis, p.Keep = "rows", []string{"town"}, []enclave.Run{{Count: 3}}
		change(p, m)
	}
}

func also(axis []string, keep ...enclave.Run) func(*enclave.Plan, *enclave.Manifest) {
	return func(p *enclave.Plan, m *enclave.Manifest) {
		p.Measures, p.Also = p.Measures[:1], &enclave.Factor{Axis: axis, Keep: keep}
	}
}

func drop(m *enclave.Manifest, vector string) {
	l := &m.Layouts[1]
	l.Vectors = slices.DeleteFunc(l.Vectors, func(v enclave.Vector) bool { return v.Name == vector })
}

// Every kept cell of the axis is in exactly one term of each measure, the one of its group and bin, and no other cell is
// in any.
func TestExpandPartitionsTheKeptCells(t *testing.T) {
	m := water()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t, m)
		cells, terms := expand2(t, p, m)
		cols, size, err := m.Dims(p.Axis)
		if err != nil {
			t.Fatal(err)
		}
		l, _ := m.Layout(p.Layout)
		for k := range size {
			kept := slices.ContainsFunc(p.Keep, func(r enclave.Run) bool { return r.From <= k && k < r.From+r.Count })
			coords := map[string]int{}
			for i, rest := len(cols)-1, k; i >= 0; i-- {
				coords[cols[i].Name] = int(rest) % cols[i].Size()
				rest /= int64(cols[i].Size())
			}
			found := make([]int, len(p.Measures))
			for _, term := range terms {
				in := slices.Contains(term.Cells, k)
				if l.Kind == enclave.Rows {
					v := l.Find(enclave.IndicatorName(p.Axis, k))
					in = len(p.Axis) == 0 || slices.Contains(term.A, v) || slices.Contains(term.B, v)
				}
				if !in {
					continue
				}
				found[term.Measure]++
				for i, g := range p.Groups {
					if cells[term.Cell][i] != coords[g] {
						t.Fatalf("cell %d of the axis is in group %v, but its %s is %d", k, cells[term.Cell], g, coords[g])
					}
				}
				if by := p.Measures[term.Measure].By; by != "" && term.Bin != coords[by] {
					t.Fatalf("cell %d of the axis is in bin %d of %s, but it is %d", k, term.Bin, by, coords[by])
				}
			}
			for i, n := range found {
				if kept && n != 1 || !kept && n != 0 {
					t.Fatalf("cell %d of the axis, kept: %v, is in %d terms of measure %d", k, kept, n, i)
				}
			}
		}
		if !slices.IsSortedFunc(cells, func(a, b enclave.Cell) int { return slices.Compare(a, b) }) {
			t.Fatalf("cells %v are not in row-major order", cells)
		}
	})
}

func expand2(t *rapid.T, p *enclave.Plan, m *enclave.Manifest) ([]enclave.Cell, []enclave.Term) {
	cells, terms, err := p.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	return cells, terms
}

// drawPlan draws an axis, kept cells, groups and measures that belong together.
func drawPlan(t *rapid.T, m *enclave.Manifest) *enclave.Plan {
	p := countByTown(m)
	l := rapid.SampledFrom(m.Layouts).Draw(t, "layout")
	p.Layout, p.Axis = l.Name, rapid.SampledFrom(l.Axes).Draw(t, "axis")
	_, size, err := m.Dims(p.Axis)
	if err != nil {
		t.Fatal(err)
	}
	var keep []int64
	for k := range size {
		if rapid.Bool().Draw(t, "keep") || k == size-1 && len(keep) == 0 {
			keep = append(keep, k)
		}
	}
	p.Keep = enclave.Runs(keep)
	p.Groups = []string{}
	for _, name := range rapid.Permutation(p.Axis).Draw(t, "groups") {
		if rapid.Bool().Draw(t, "group") {
			p.Groups = append(p.Groups, name)
		}
	}
	p.Measures = []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 1, Stage: 1}}
	if rapid.Bool().Draw(t, "sum") {
		p.Measures = append(p.Measures, enclave.Measure{Moment: "s:m3", Delta: 1000, EpsilonMicro: 1, Stage: 2})
	}
	if len(p.Axis) > 0 && rapid.Bool().Draw(t, "bins") {
		by := rapid.SampledFrom(p.Axis).Draw(t, "by")
		p.Measures = append(p.Measures, enclave.Measure{Moment: "n", By: by, Delta: 1, EpsilonMicro: 1, Stage: 2})
	}
	return p
}

func TestRunsAreMaximal(t *testing.T) {
	for _, c := range []struct {
		in   []int64
		want []enclave.Run
	}{
		{nil, nil},
		{[]int64{7}, []enclave.Run{{From: 7, Count: 1}}},
		{[]int64{0, 1, 2, 4, 6, 7}, []enclave.Run{{Count: 3}, {From: 4, Count: 1}, {From: 6, Count: 2}}},
	} {
		if diff := cmp.Diff(c.want, enclave.Runs(c.in)); diff != "" {
			t.Errorf("runs of %v (-want +got)\n%s", c.in, diff)
		}
	}
}

func TestInputsInOrderOfFirstUse(t *testing.T) {
	m := water()
	p := onRows(m, []string{"town"}, 3)
	_, terms := expand(t, p, m)
	l, _ := m.Layout("rows")
	blobs, vectors := l.Inputs(terms)
	var names []string
	for i, v := range vectors {
		names = append(names, l.Vectors[v].Name)
		if blobs[i] != l.Vectors[v].Blob {
			t.Errorf("input %d is blob %s, its vector's is %s", i, blobs[i], l.Vectors[v].Blob)
		}
	}
	if diff := cmp.Diff([]string{"i:town:0", "s:m3", "i:town:1", "i:town:2"}, names); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	p = countByTown(m)
	_, terms = expand(t, p, m)
	l, _ = m.Layout("cube")
	if _, vectors = l.Inputs(terms); !slices.Equal(vectors, []int{0, 1}) {
		t.Errorf("a cube's inputs are vectors %v, want 0 and 1", vectors)
	}
}

// A rows layout of the largest kind: expanding reads the layout once, not once per term.
func BenchmarkExpandRows4096(b *testing.B) {
	m := &enclave.Manifest{Columns: []enclave.Column{{Name: "k", Type: enclave.TypeCategory, Domain: make([]string, 4096)}}}
	m.Layouts = []enclave.Layout{layout(m, "rows", enclave.Rows, []string{"n", "s:x"}, []string{"k"})}
	p := &enclave.Plan{Layout: "rows", Axis: []string{"k"}, Keep: []enclave.Run{{Count: 4096}}, Groups: []string{"k"},
		Measures: []enclave.Measure{{Moment: "n"}, {Moment: "s:x"}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Expand(m); err != nil {
			b.Fatal(err)
		}
	}
}
