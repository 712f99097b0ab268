package plan_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/plan"
)

var update = flag.Bool("update", false, "rewrite the golden plans and explanations")

// accepted are queries with golden plans: the bytes that custodians compare.
var accepted = []struct{ name, query string }{
	{"count", `SELECT COUNT(*) FROM water`},
	{"count-group", `SELECT district, COUNT(*) AS n FROM water GROUP BY district;`},
	{"chinese", `SELECT district AS 区域, AVG(usage) 平均, COUNT(*) AS "户 数" FROM "water" GROUP BY 区域 ORDER BY 平均 DESC, 1 LIMIT 5`},
	{"chinese-column", `SELECT SUM(面积) FROM water`},
	{"all-functions", `SELECT district, COUNT(usage), SUM(usage), AVG(fee), VAR_POP(usage), STDDEV_POP(fee), COVAR_POP(fee, usage), CORR(usage, fee),
		REGR_SLOPE(fee, usage), REGR_INTERCEPT(fee, usage), REGR_R2(fee, usage) FROM water GROUP BY district`},
	{"nullable", `SELECT COUNT(debt), AVG(debt) FROM water WHERE kind <> ''`},
	{"percentile", `SELECT district, MEDIAN(usage), PERCENTILE(usage, 0.95) AS p95 FROM water GROUP BY district`},
	{"where-bins", `SELECT COUNT(*) FROM water WHERE usage BETWEEN 100 AND 500 AND district IN ('浦东', '静安')`},
	{"between-or", `SELECT COUNT(*) FROM water WHERE usage BETWEEN 100 AND 200 OR usage NOT BETWEEN 0 AND 500 AND NOT district = '徐汇'`},
	{"between-last", `SELECT COUNT(*) FROM water WHERE usage BETWEEN 500 AND 1000`},
	{"comparisons", `SELECT COUNT(*) FROM water WHERE usage >= 100 AND 500.0 > usage AND month <= 6 AND month > 3`},
	{"bin-label", `SELECT COUNT(*) FROM water WHERE usage IN ('[0,100)', '[500,1000]')`},
	{"group-bins", `SELECT usage, district, COUNT(*) FROM water GROUP BY usage, district`},
	{"having", `SELECT district, COUNT(*) AS n, SUM(fee) FROM water GROUP BY district HAVING n >= 0100 AND 1000.50 < SUM(fee) AND (COUNT(*) <> -0)`},
	{"order", `SELECT district, SUM(fee) FROM water GROUP BY district ORDER BY SUM(fee) DESC, district ASC`},
	{"rows-sum", `SELECT district, AVG(pressure) FROM water GROUP BY district`},
	{"rows-total", `SELECT STDDEV_POP(pressure) FROM water`},
	{"rows-count", `SELECT trade, COUNT(*) FROM water WHERE trade <> 'it''s' GROUP BY trade`},
	{"rows-pair", `SELECT district, COUNT(*) FROM water WHERE trade IN ('food', 'steel') AND district <> '静安' GROUP BY district`},
	{"tautology", `SELECT COUNT(*) FROM water WHERE kind = 'business' OR NOT kind = 'business'`},
	{"comments", "select -- all\n count(*) /* of */ from water where (((district)) = ('浦东'))"},
}

func TestAccepted(t *testing.T) {
	for _, tc := range accepted {
		t.Run(tc.name, func(t *testing.T) {
			r := fixture()
			p := build(t, r, tc.query)
			got, err := canon.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("plans", tc.name+".json"), indent(got))
			check(t, r, p)
		})
	}
}

// check holds for every plan: it parses back, expands, spends no more than asked and is the same again.
func check(t testing.TB, r plan.Request, p *enclave.Plan) {
	t.Helper()
	body := canon.MustMarshal(p)
	var back enclave.Plan
	if err := canon.Unmarshal(body, &back); err != nil {
		t.Fatal(err)
	}
	if _, terms, err := p.Expand(r.Manifest); err != nil || len(terms) == 0 || len(terms) > plan.MaxTerms {
		t.Fatalf("%d terms, %v", len(terms), err)
	}
	if p.Measures[0].Moment != enclave.CountMoment || p.Measures[0].Stage != 1 || p.EpsilonMicro > p.AskedMicro || p.EpsilonMicro <= 0 {
		t.Fatalf("measures %+v of %d for %d", p.Measures, p.EpsilonMicro, p.AskedMicro)
	}
	r.Query, r.EpsilonMicro = back.Query, back.AskedMicro // what a custodian does
	again, err := plan.Build(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(canon.MustMarshal(again), body) {
		t.Fatalf("built again, the plan differs: %s", cmp.Diff(p, again))
	}
}

func indent(data []byte) []byte {
	var out bytes.Buffer
	_ = json.Indent(&out, data, "", "  ") // canonical bytes are JSON
	out.WriteByte('\n')
	return out.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}

func TestMeaning(t *testing.T) {
	// Pairs that must keep the same cells, though the parser alone would read the left one differently.
	for _, pair := range [][2]string{
		{`usage BETWEEN 100 AND 500 AND month >= 4`, `(usage >= 100 AND usage < 500) AND (month >= 4)`},
		{`usage BETWEEN 100 AND 500 OR month >= 4`, `(usage >= 100 AND usage < 500) OR (month >= 4)`},
		{`NOT usage BETWEEN 100 AND 500 AND month >= 4`, `(usage < 100 OR usage >= 500) AND (month >= 4)`},
		{`usage NOT BETWEEN 500 AND 1000`, `usage < 500`},
		{`NOT kind = 'business' AND month >= 4`, `(kind <> 'business') AND (month >= 4)`},
		{`NOT kind IN ('business', '') OR month >= 4`, `(kind = 'industry' OR kind = 'residential') OR NOT (month < 4)`},
		{`NOT NOT kind = 'business'`, `kind = 'business'`},
		{`month <= 3`, `month < 4`},
		{`month <= 12 AND kind == 'business'`, `kind = 'business'`},
		{`kind = 'business' AND kind != 'industry'`, `'business' = kind`},
	} {
		left := build(t, fixture(), `SELECT COUNT(*) FROM water WHERE `+pair[0])
		right := build(t, fixture(), `SELECT COUNT(*) FROM water WHERE `+pair[1])
		left.Query = right.Query
		if diff := cmp.Diff(left, right); diff != "" {
			t.Errorf("%s\n%s\n%s", pair[0], pair[1], diff)
		}
	}
}

func TestEpsilon(t *testing.T) {
	r := fixture()
	r.EpsilonMicro = 100
	p := build(t, r, `SELECT AVG(usage), VAR_POP(usage) FROM water`)
	for _, m := range p.Measures {
		if m.EpsilonMicro != 33 {
			t.Errorf("%q gets ε %d", m.Moment, m.EpsilonMicro)
		}
	}
	if p.EpsilonMicro != 99 || p.AskedMicro != 100 {
		t.Errorf("spends %d of %d", p.EpsilonMicro, p.AskedMicro)
	}
}

func TestDelta(t *testing.T) {
	p := build(t, fixture(), `SELECT CORR(fee, usage), AVG(debt) FROM water`)
	want := map[enclave.Moment]int64{"n": 1, "n:debt": 1, "s:usage": 5000, "q:usage": 5000 * 5000, "s:fee": 10000, "q:fee": 10000 * 10000,
		"p:fee,usage": 10000 * 5000, "s:debt": 1000}
	got := map[enclave.Moment]int64{}
	for _, m := range p.Measures {
		got[m.Moment] = m.Delta
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWideParams(t *testing.T) {
	r := fixture()
	r.Keyset.Params = "bgv14-t58"
	p := build(t, r, `SELECT AVG(usage) FROM water`)
	if p.Params != "bgv14-t58" {
		t.Error(p.Params)
	}
	if _, err := enclave.LookupParams("bgv14-t58"); err != nil { // the planner recommends it
		t.Error(err)
	}
}

func TestEmptyAxis(t *testing.T) {
	r := without(fixture(), "everything", "by-place", "bins")
	l := &r.Manifest.Layouts[0]
	l.Axes = append(l.Axes, []string{})
	l.Vectors = append(l.Vectors, enclave.Vector{Name: "n", Chunks: 64})
	p := build(t, r, `SELECT SUM(pressure) FROM water`)
	if len(p.Axis) != 0 || !slices.Equal(p.Keep, []enclave.Run{{From: 0, Count: 1}}) {
		t.Errorf("axis %q, keep %v", p.Axis, p.Keep)
	}
	check(t, r, p)
}

func TestDataset(t *testing.T) {
	for query, want := range map[string]string{
		`SELECT COUNT(*) FROM water`:         "water",
		`SELECT x FROM "水 务" WHERE a = 1`:    "水 务",
		`SELECT COUNT(*) FROM 水务表;`:          "水务表",
		`SELECT COUNT(*) FROM a JOIN b`:      "",
		`SELECT COUNT(*) FROM a; DROP x`:     "",
		`SELECT COUNT(*) FROM (SELECT 1)`:    "",
		`DELETE FROM water`:                  "",
		`SELECT COUNT(*) FROM water w`:       "",
		`SELECT COUNT(*) FROM main.water`:    "",
		`SELECT COUNT(*) FROM f(1)`:          "",
		``:                                   "",
		`SELECT 1`:                           "",
		`SELECT COUNT(*) FROM water LIMIT (`: "",
	} {
		got, err := plan.Dataset(query)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", query, got, err)
		}
	}
}
