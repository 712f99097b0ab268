package enclave_test

import (
	"fmt"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// water is the manifest of a small water table, sealed once as a cube and once as rows.
func water() *enclave.Manifest {
	uses := []operators.Use{operators.UseFilter, operators.UseGroup}
	m := &enclave.Manifest{Dataset: "water", Version: 2, Previous: digest("manifest 1"), Keyset: digest("keyset"), Owner: "水务局", RowsBound: 1 << 14,
		Catalog: enclave.Catalog{Title: "居民用水", Format: "csv", Classification: "水务", Level: 2, Sharing: "conditional", Opening: "closed",
			UpdateCycle: "monthly", Unit: "水务局", LegalBasis: "art. 6"},
		Columns: []enclave.Column{
			{Name: "household", Type: enclave.TypeKey},
			{Name: "town", Title: "乡镇", Type: enclave.TypeCategory, Domain: []string{"城桥镇", "堡镇", "庙镇"}, Uses: uses},
			{Name: "kind", Type: enclave.TypeCategory, Domain: []string{"flat", ""}, Nullable: true, Uses: uses},
			{Name: "m3", Type: enclave.TypeNumber, Max: 2000, Scale: 1, Bins: []int64{0, 500, 2000}, Uses: append([]operators.Use{operators.UseAggregate}, uses...)},
			{Name: "debt", Type: enclave.TypeNumber, Min: -999, Max: 1000, Nullable: true, Uses: []operators.Use{operators.UseAggregate}},
			{Name: "note", Type: enclave.TypeOther},
		},
		By: "lin.hua", Made: at("2026-11-02T08:00:00Z")}
	m.Layouts = []enclave.Layout{
		layout(m, "cube", enclave.Cube, []string{"n", "s:m3", "q:m3", "n:debt", "s:debt", "q:debt", "p:m3,x"}, []string{"town", "kind", "m3"}),
		layout(m, "rows", enclave.Rows, []string{"n", "s:m3", "n:debt", "s:debt"}, []string{}, []string{"town"}, []string{"m3"}, []string{"kind", "town"}),
	}
	return m
}

// layout names a blob for every moment and, for rows, for every indicator of the axes.
func layout(m *enclave.Manifest, name, kind string, moments []string, axes ...[]string) enclave.Layout {
	l := enclave.Layout{Name: name, Kind: kind, Axes: axes}
	if kind == enclave.Rows {
		for _, a := range axes {
			_, size, err := m.Dims(a)
			if err != nil {
				panic(err)
			}
			for k := range size {
				if len(a) > 0 {
					moments = append(moments, enclave.IndicatorName(a, k))
				}
			}
		}
	}
	for _, v := range moments {
		l.Vectors = append(l.Vectors, enclave.Vector{Name: v, Blob: digest("blob " + name + v), Bytes: 4096 + 1<<19, Chunks: 1})
	}
	return l
}

// countByTown is SELECT town, COUNT(*), AVG(m3) … GROUP BY town on the cube, without Outputs.
func countByTown(m *enclave.Manifest) *enclave.Plan {
	return &enclave.Plan{Query: "SELECT town, COUNT(*), AVG(m3) FROM water GROUP BY town", AskedMicro: 2_000_000, Operator: "崇明数科", Scenario: digest("scenario"),
		Grant: digest("grant"), Dataset: m.Dataset, Manifest: canon.DigestOf(m), Keyset: m.Keyset, Epoch: 1, Params: enclave.DefaultParams,
		Layout: "cube", Axis: []string{"town", "kind", "m3"}, Keep: []enclave.Run{{Count: 12}}, Groups: []string{"town"},
		Measures: []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 1_000_000, Stage: 1}, {Moment: "s:m3", Delta: 1000, EpsilonMicro: 1_000_000, Stage: 2}},
		Outputs:  []enclave.Output{{Name: "town", Func: "group", Args: []string{"town"}}, {Name: "COUNT(*)", Func: "COUNT"}, {Name: "AVG(m3)", Func: "AVG", Args: []string{"m3"}}},
		Having:   []enclave.Having{{Output: 1, Op: ">=", Value: "20"}}, OrderBy: []enclave.Order{{Output: 2, Desc: true}}, Limit: 10,
		EntityRows: 1, EpsilonMicro: 2_000_000, MinCohort: 10, MarginMilli: 2000}
}

// onRows is the same plan without its second measure's need for a cube.
func onRows(m *enclave.Manifest, axis []string, cells int64) *enclave.Plan {
	p := countByTown(m)
	p.Layout, p.Axis, p.Keep, p.Groups = "rows", axis, []enclave.Run{{Count: cells}}, axis
	return p
}

func digest(text string) enclave.Digest { return canon.Sum([]byte(text)) }

func at(text string) (t canon.Time) {
	if err := t.UnmarshalText([]byte(text)); err != nil {
		panic(err)
	}
	return t
}

func expand(t testing.TB, p *enclave.Plan, m *enclave.Manifest) ([]enclave.Cell, []enclave.Term) {
	t.Helper()
	cells, terms, err := p.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	return cells, terms
}

// describe writes a term for people: which cell, measure and bin, and what is added up or multiplied.
func describe(p *enclave.Plan, m *enclave.Manifest, cells []enclave.Cell, t enclave.Term) string {
	l, _ := m.Layout(p.Layout)
	names := func(vs []int) string {
		var out []string
		for _, v := range vs {
			out = append(out, l.Vectors[v].Name)
		}
		return strings.Join(out, "+")
	}
	s := fmt.Sprintf("%s %s/%d: ", strings.Join(p.Labels(m, cells[t.Cell]), ","), p.Measures[t.Measure].Moment, t.Bin)
	switch {
	case l.Kind == enclave.Cube:
		return s + fmt.Sprint(l.Vectors[t.Vector].Name, t.Cells)
	case t.B == nil:
		return s + names(t.A)
	}
	return s + names(t.A) + " × " + names(t.B)
}
