package plan_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// jointFixture is a register of residents and medical costs, sealed in share form for one scenario.
func jointFixture() plan.Request {
	uses := []operators.Use{operators.UseAggregate, operators.UseFilter}
	cats := []operators.Use{operators.UseFilter, operators.UseGroup}
	key := enclave.Column{Name: "person", Type: enclave.TypeKey, Uses: []operators.Use{operators.UseJoin}}
	columns := map[string][]enclave.Column{
		"residents": {key, {Name: "town", Title: "乡镇", Type: enclave.TypeCategory, Domain: []string{"城桥镇", "堡镇", "新村乡"}, Uses: cats},
			{Name: "age", Title: "年龄", Type: enclave.TypeNumber, Max: 120, Bins: []int64{0, 18, 60, 120}, Uses: append(uses, operators.UseGroup)},
			{Name: "alone", Title: "独居", Type: enclave.TypeCategory, Domain: []string{"是", "否"}, Uses: cats}},
		"health": {key, {Name: "insurance", Type: enclave.TypeCategory, Domain: []string{"居民医保", "职工医保"}, Uses: cats},
			{Name: "cost", Title: "医疗费用", Type: enclave.TypeNumber, Max: 50_000_000, Scale: 2, Uses: uses},
			{Name: "age", Type: enclave.TypeNumber, Max: 120, Uses: uses},
			{Name: "debt", Type: enclave.TypeNumber, Min: -1000, Max: 1000, Nullable: true, Uses: uses}},
	}
	g := &operators.Grant{Operator: "数联科技", Scenario: canon.Sum([]byte("scenario")), EpsilonMicro: 4_000_000, JobEpsilonMicro: 2_000_000, MinCohort: 20, MarginMilli: 3000}
	source := func(dataset, owner string) plan.Source {
		ks := &enclave.Keyset{Dataset: dataset, Owner: owner, Params: enclave.DefaultParams, Custodians: []string{"a", "b", "c"}, Quorum: 2,
			Pieces: []enclave.Piece{{Without: []int{0}}, {Without: []int{1}}, {Without: []int{2}}}, EntityRows: 1, BudgetMicro: 10_000_000, Epoch: 1}
		m := &enclave.Manifest{Dataset: dataset, Version: 1, Owner: owner, Keyset: canon.DigestOf(ks), Columns: columns[dataset], RowsBound: 1 << 20, Catalog: enclave.Catalog{Title: dataset}}
		l := enclave.Layout{Name: "joint", Kind: enclave.Shares, Axes: [][]string{},
			Shares: &enclave.ShareSet{Scenario: g.Scenario, Rows: 600_064, Nodes: ks.Custodians, Keys: make([][]byte, 6)}}
		names := []string{"n", "e"}
		use := operators.DatasetUse{Dataset: dataset}
		for _, c := range m.Columns {
			names = append(names, c.Values()...)
			use.Columns = append(use.Columns, operators.ColumnUse{Column: c.Name, Uses: c.Uses})
		}
		for _, n := range names {
			d := canon.Sum([]byte(dataset + n))
			l.Vectors = append(l.Vectors, enclave.Vector{Name: n, Blob: d, Bytes: 1, Chunks: 1, Commitments: []enclave.Digest{d, d, d}})
		}
		m.Layouts = []enclave.Layout{l}
		g.Datasets, g.Limits = append(g.Datasets, use), append(g.Limits, operators.Limit{Dataset: dataset, EpsilonMicro: 3_000_000})
		return plan.Source{Keyset: ks, KeysetDigest: m.Keyset, Manifest: m, ManifestDigest: canon.Sum([]byte("manifest of " + dataset))}
	}
	first, second := source("residents", "区公安分局"), source("health", "区卫生健康委")
	return plan.Request{Grant: g, GrantDigest: canon.Sum([]byte("grant")), Keyset: first.Keyset, KeysetDigest: first.KeysetDigest, Manifest: first.Manifest,
		ManifestDigest: first.ManifestDigest, Others: []plan.Source{second}}
}

var jointAccepted = []struct{ name, query string }{
	{"care", `SELECT town, COUNT(*), MEDIAN(cost), PERCENTILE_CONT(cost, 0.9) AS p90 FROM residents JOIN health ON entity
		WHERE residents.age > 60 AND alone = '是' GROUP BY town`},
	{"mixed", `SELECT insurance, COUNT(DISTINCT residents.person), AVG(cost), MIN(cost), MAX(cost) FROM residents JOIN health ON entity
		WHERE residents.age <> health.age OR (town IN ('堡镇') AND NOT debt < 0) GROUP BY insurance ORDER BY AVG(cost) DESC LIMIT 1`},
	{"bins", `SELECT residents.age, COUNT(*) FROM residents JOIN health ON entity WHERE residents.age BETWEEN 18 AND 60 AND debt BETWEEN -10 AND 10 GROUP BY residents.age`},
}

func TestJointAccepted(t *testing.T) {
	for _, tc := range jointAccepted {
		t.Run(tc.name, func(t *testing.T) {
			r := jointFixture()
			p := build(t, r, tc.query)
			golden(t, filepath.Join("plans", "joint-"+tc.name+".json"), indent(canon.MustMarshal(p)))
			var back enclave.Plan
			if err := canon.Unmarshal(canon.MustMarshal(p), &back); err != nil {
				t.Fatal(err)
			}
			r.EpsilonMicro = p.AskedMicro
			if again := build(t, r, back.Query); canon.DigestOf(again) != canon.DigestOf(p) {
				t.Error("rebuilding gives another plan")
			}
			prog, err := plan.Program(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := prog.EpsilonMicro(); got != p.EpsilonMicro {
				t.Errorf("the program spends ε %d, the plan says %d", got, p.EpsilonMicro)
			}
			manifests := []*enclave.Manifest{r.Manifest, r.Others[0].Manifest}
			e, err := plan.ExplainJoint(p, manifests, []*enclave.Keyset{r.Keyset, r.Others[0].Keyset}, r.Grant)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("explain", "joint-"+tc.name+".txt"), []byte(e.Text("en")+"\n"+e.Text("zh")))
		})
	}
}

// A dataset sealed in both forms goes to the homomorphic engine where that can serve the query.
func TestCheaperEngine(t *testing.T) {
	r := jointFixture()
	r.Others = nil
	r.Manifest.Layouts = append([]enclave.Layout{layout(r.Manifest, "cube", enclave.Cube, []string{"n"}, []string{"town", "age"})}, r.Manifest.Layouts...)
	for query, joint := range map[string]bool{
		`SELECT town, COUNT(*) FROM residents GROUP BY town`:                   false,
		`SELECT town, COUNT(*) FROM residents WHERE age >= 18 GROUP BY town`:   false,
		`SELECT town, COUNT(*) FROM residents WHERE age > 18 GROUP BY town`:    true, // cuts a bin
		`SELECT town, COUNT(*) FROM residents WHERE alone = '是' GROUP BY town`: true, // no cube has it
		`SELECT COUNT(DISTINCT age) FROM residents`:                            true,
		`SELECT SUM(age) FROM residents`:                                       true,
	} {
		if p := build(t, r, query); (p.Joint != nil) != joint {
			t.Errorf("%s: secret-shared is %t", query, p.Joint != nil)
		}
	}
	other := *r.Grant
	other.Scenario = canon.Sum([]byte("another"))
	r.Grant, r.Query = &other, `SELECT SUM(age) FROM residents`
	if _, err := plan.Build(r); err == nil || !strings.Contains(err.Error(), "no sealed layout serves the query") {
		t.Errorf("shares of another scenario are used: %v", err)
	}
}

// Two datasets that may both have several rows of a person have no bounded join.
func TestJoinOfManyToMany(t *testing.T) {
	r := jointFixture()
	r.Query = jointAccepted[0].query
	r.Keyset.EntityRows, r.Others[0].Keyset.EntityRows = 2, 3
	if _, err := plan.Build(r); err == nil || !strings.Contains(err.Error(), "may both have several rows") {
		t.Errorf("got %v", err)
	}
	r.Others[0].Keyset.EntityRows = 1
	p := build(t, r, r.Query)
	if p.EntityRows != 2 || p.Joint.Base != 0 {
		t.Errorf("base %d with %d rows of an entity; want that of two", p.Joint.Base, p.EntityRows)
	}
	r.Keyset.EntityRows, r.Others[0].Keyset.EntityRows = 1, 4
	if p = build(t, r, r.Query); p.EntityRows != 4 || p.Joint.Base != 1 {
		t.Errorf("base %d with %d rows of an entity; want that of four", p.Joint.Base, p.EntityRows)
	}
	for _, m := range p.Measures {
		if slices.Contains([]string{"n"}, string(m.Moment)) && m.Delta != 1 {
			t.Errorf("measure %+v", m)
		}
	}
}

func TestDatasets(t *testing.T) {
	got, err := plan.Datasets(`SELECT COUNT(*) FROM a JOIN "b-c" ON entity JOIN d ON entity`)
	if err != nil || !slices.Equal(got, []string{"a", "b-c", "d"}) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := plan.Datasets(`SELECT COUNT(*) FROM a JOIN "b-c" ON entity WHERE (a.x BETWEEN 1 AND 2 OR "b-c".y NOT BETWEEN -1 AND +2 AND z = 'q')`); err != nil {
		t.Errorf("BETWEEN of a column with its dataset's name: %v", err)
	}
	if _, err := plan.Datasets(`SELECT COUNT(*) FROM a JOIN b ON entity JOIN c ON entity JOIN d ON entity JOIN e ON entity`); err == nil {
		t.Error("five datasets are joined")
	}
}
