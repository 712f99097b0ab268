package plan_test

import (
	"slices"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// fixture is a water meter dataset with one column for every way to be refused.
func fixture() plan.Request {
	uses := func(s string) (out []operators.Use) {
		for _, r := range s {
			out = append(out, map[rune]operators.Use{'a': operators.UseAggregate, 'f': operators.UseFilter, 'g': operators.UseGroup}[r])
		}
		return out
	}
	m := &enclave.Manifest{
		Dataset: "water", Version: 1, Owner: "水务局", Keyset: canon.Sum([]byte("keyset")), RowsBound: 1 << 20,
		Catalog: enclave.Catalog{Title: "居民用水"},
		Columns: []enclave.Column{
			{Name: "meter", Type: enclave.TypeKey},
			{Name: "note", Type: enclave.TypeOther},
			{Name: "district", Title: "区域", Type: enclave.TypeCategory, Domain: []string{"浦东", "徐汇", "静安"}, Uses: uses("fg")},
			{Name: "kind", Type: enclave.TypeCategory, Domain: []string{"", "residential", "business", "industry"}, Nullable: true, Uses: uses("fg")},
			{Name: "month", Type: enclave.TypeNumber, Min: 1, Max: 12, Bins: []int64{1, 4, 7, 10, 12}, Uses: uses("fg")},
			{Name: "usage", Type: enclave.TypeNumber, Max: 10000, Scale: 1, Bins: []int64{0, 1000, 2000, 5000, 10000}, Uses: uses("afg")},
			{Name: "fee", Type: enclave.TypeNumber, Max: 20000, Scale: 2, Uses: uses("a")},
			{Name: "debt", Type: enclave.TypeNumber, Min: -1000, Max: 1000, Nullable: true, Uses: uses("a")},
			{Name: "pressure", Type: enclave.TypeNumber, Max: 800, Uses: uses("af")},
			{Name: "trade", Type: enclave.TypeCategory, Domain: []string{"food", "steel", "it's"}, Uses: uses("fg")},
			{Name: "secret", Type: enclave.TypeCategory, Domain: []string{"x", "y"}},
			{Name: "tariff", Type: enclave.TypeCategory, Domain: []string{"A", "B"}, Uses: uses("fg")},
			{Name: "wide", Type: enclave.TypeNumber, Max: 1 << 40, Uses: uses("a")},
			{Name: "huge", Type: enclave.TypeNumber, Max: 1 << 52, Uses: uses("a")},
			{Name: "面积", Type: enclave.TypeNumber, Max: 200, Uses: uses("a")},
		},
	}
	moments := []string{"n", "s:usage", "q:usage", "s:fee", "q:fee", "p:fee,usage", "n:debt", "s:debt", "q:debt", "s:wide", "q:wide", "s:huge", "q:huge", "s:面积"}
	m.Layouts = []enclave.Layout{
		layout(m, "everything", enclave.Cube, []string{"n"}, []string{"district", "kind", "month", "usage"}),
		layout(m, "by-place", enclave.Cube, moments, []string{"district", "kind", "month"}),
		layout(m, "bins", enclave.Cube, []string{"n", "s:usage"}, []string{"district", "usage"}),
		layout(m, "fine", enclave.Rows, []string{"s:usage", "q:usage", "s:pressure", "q:pressure"}, []string{"district"}, []string{"trade"}, []string{"month"}),
	}
	g := &operators.Grant{
		Operator: "数联科技", Scenario: canon.Sum([]byte("scenario")),
		Limits:       []operators.Limit{{Dataset: "water", EpsilonMicro: 3_000_000}},
		EpsilonMicro: 4_000_000, JobEpsilonMicro: 1_000_000, MinCohort: 20, MarginMilli: 3000,
	}
	use := operators.DatasetUse{Dataset: "water"}
	for _, c := range m.Columns {
		if c.Name != "tariff" && c.Type != enclave.TypeKey {
			use.Columns = append(use.Columns, operators.ColumnUse{Column: c.Name, Uses: uses("afg")})
		}
	}
	g.Datasets = []operators.DatasetUse{use}
	ks := &enclave.Keyset{
		Dataset: "water", Owner: "水务局", Params: enclave.DefaultParams, Custodians: []string{"a", "b", "c"}, Quorum: 2,
		Pieces: []enclave.Piece{{Without: []int{0}}, {Without: []int{1}}, {Without: []int{2}}}, EntityRows: 1, BudgetMicro: 10_000_000, Epoch: 1,
	}
	return plan.Request{Grant: g, GrantDigest: canon.Sum([]byte("grant")), Keyset: ks, KeysetDigest: m.Keyset,
		Manifest: m, ManifestDigest: canon.Sum([]byte("manifest"))}
}

func layout(m *enclave.Manifest, name, kind string, vectors []string, axes ...[]string) enclave.Layout {
	l := enclave.Layout{Name: name, Kind: kind, Axes: axes}
	if kind == enclave.Rows {
		for _, a := range axes {
			_, size, err := m.Dims(a)
			if err != nil {
				panic(err)
			}
			for k := range size {
				vectors = append(vectors, enclave.IndicatorName(a, k))
			}
		}
	}
	for _, v := range vectors {
		chunks := int64(64)
		if kind == enclave.Cube {
			chunks = 1
		}
		l.Vectors = append(l.Vectors, enclave.Vector{Name: v, Blob: canon.Sum([]byte(name + v)), Bytes: chunks << 19, Chunks: chunks})
	}
	return l
}

func without(r plan.Request, layouts ...string) plan.Request {
	r.Manifest.Layouts = slices.DeleteFunc(r.Manifest.Layouts, func(l enclave.Layout) bool { return slices.Contains(layouts, l.Name) })
	return r
}

func build(t testing.TB, r plan.Request, query string) *enclave.Plan {
	t.Helper()
	r.Query = query
	p, err := plan.Build(r)
	if err != nil {
		t.Fatalf("%s\n%v", query, err)
	}
	return p
}
