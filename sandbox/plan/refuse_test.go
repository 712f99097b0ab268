package plan_test

import (
	"errors"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// refused are queries with the first reason's place, code and a part of its hint.
var refused = []struct {
	query string
	pos   string
	code  plan.Code
	hint  string
}{
	// Not a query.
	{``, "-", plan.CodeSyntax, "SELECT"},
	{`;`, "-", plan.CodeSyntax, "SELECT"},
	{`SELEC COUNT(*) FROM water`, "1:1", plan.CodeSyntax, "SELECT columns"},
	{`SELECT COUNT(*) FROM water; SELECT 1`, "1:29", plan.CodeSyntax, "one statement"},
	{`SELECT COUNT(*) FROM water;;`, "1:28", plan.CodeSyntax, "one statement"},
	{`SELECT COUNT(*) FROM water WHERE (kind = 'business'`, "1:34", plan.CodeSyntax, "close it with )"},
	{`SELECT COUNT(*) FROM water WHERE (kind = 'business' kind)`, "1:57", plan.CodeSyntax, ""},
	{`SELECT COUNT(*)) FROM water`, "1:16", plan.CodeSyntax, "remove"},
	{`SELECT COUNT(*) FROM water WHERE kind IN ('business',)`, "1:53", plan.CodeSyntax, "remove"},
	{`SELECT COUNT(*) FROM water WHERE kind = 'business`, "1:41", plan.CodeSyntax, "close it with '"},
	{`SELECT COUNT(*) AS "n FROM water`, "1:20", plan.CodeSyntax, `close it with "`},
	{`SELECT COUNT(*) /* FROM water`, "1:17", plan.CodeSyntax, "*/"},
	{`SELECT COUNT（*） FROM water`, "1:13", plan.CodeSyntax, "ASCII"},
	{`SELECT COUNT(*) FROM water WHERE kind = ?`, "1:41", plan.CodeSyntax, "write the value"},
	{"SELECT COUNT(*) FROM `water`", "1:22", plan.CodeSyntax, "double quotes"},
	{"SELECT COUNT(*) FROM water\x00", "1:27", plan.CodeSyntax, ""},
	{"SELECT COUNT(*) FROM water WHERE kind = '\xff'", "-", plan.CodeSyntax, "UTF-8"},
	{`SELECT COUNT(*) FROM water WHERE usage >= 1e2`, "1:43", plan.CodeSyntax, "plain decimal"},
	{`SELECT COUNT(*) FROM water WHERE usage >= 0x10`, "1:43", plan.CodeSyntax, "plain decimal"},
	{`SELECT COUNT(*) FROM water HAVING COUNT(*) > 1`, "1:28", plan.CodeSyntax, "after GROUP BY"},
	{`SELECT COUNT(*) FROM water GROUP BY district WHERE kind = ''`, "1:46", plan.CodeSyntax, "the order is"},
	{`SELECT COUNT(*) FROM water-usage`, "1:27", plan.CodeSyntax, "double quotes"},
	{`SELECT COUNT(*) FROM water WHERE usage BETWEEN 100`, "1:48", plan.CodeSyntax, "BETWEEN number AND number"},
	{`SELECT COUNT(*) FROM water WHERE usage BETWEEN (100) AND 200 AND kind = ''`, "1:48", plan.CodeSyntax, "BETWEEN number AND number"},
	{`SELECT COUNT(*) FROM water WHERE kind = '` + strings.Repeat("x", plan.MaxQueryBytes) + `'`, "-", plan.CodeTooLong, "split"},
	// Not SELECT, and clauses left out.
	{`DROP TABLE water`, "1:1", plan.CodeUnsupported, "only SELECT"},
	{`UPDATE water SET kind = 'x'`, "1:1", plan.CodeUnsupported, "only SELECT"},
	{`EXPLAIN SELECT COUNT(*) FROM water`, "1:1", plan.CodeUnsupported, "comes with an explanation"},
	{`WITH x AS (SELECT 1) SELECT COUNT(*) FROM water`, "1:1", plan.CodeUnsupported, "one SELECT"},
	{`VALUES (1)`, "1:1", plan.CodeUnsupported, "SELECT"},
	{`SELECT COUNT(*) FROM water UNION SELECT COUNT(*) FROM water`, "1:28", plan.CodeUnsupported, "job of its own"},
	{`SELECT COUNT(*) FROM water INTERSECT SELECT COUNT(*) FROM water`, "1:28", plan.CodeUnsupported, "AND"},
	{`SELECT COUNT(*) FROM water EXCEPT SELECT COUNT(*) FROM water`, "1:28", plan.CodeUnsupported, "AND NOT"},
	{`SELECT DISTINCT COUNT(*) FROM water`, "1:8", plan.CodeEngine, "GROUP BY"},
	{`SELECT COUNT(*) FROM water LIMIT 5 OFFSET 2`, "1:36", plan.CodeUnsupported, "LIMIT"},
	{`SELECT COUNT(*) FROM water LIMIT 2, 5`, "1:35", plan.CodeUnsupported, "LIMIT"},
	{`SELECT COUNT(*) FROM water LIMIT 0`, "1:34", plan.CodeDomain, "LIMIT 10"},
	{`SELECT COUNT(*) FROM water LIMIT 1+1`, "1:34", plan.CodeDomain, "LIMIT 10"},
	// FROM.
	{`SELECT COUNT(*)`, "-", plan.CodeDataset, ""},
	{`SELECT COUNT(*) FROM power`, "1:22", plan.CodeDataset, `FROM "water"`},
	{`SELECT COUNT(*) FROM water JOIN power ON a = b`, "1:28", plan.CodeEngine, "one dataset"},
	{`SELECT COUNT(*) FROM water, power`, "1:27", plan.CodeEngine, "one dataset"},
	{`SELECT COUNT(*) FROM (SELECT * FROM water)`, "1:17", plan.CodeUnsupported, "one dataset"},
	{`SELECT COUNT(*) FROM water AS w`, "1:31", plan.CodeUnsupported, "leave it out"},
	{`SELECT COUNT(*) FROM main.water`, "1:22", plan.CodeUnsupported, "double quotes"},
	{`SELECT COUNT(*) FROM water NOT INDEXED`, "1:22", plan.CodeUnsupported, "INDEXED"},
	{`SELECT COUNT(*) FROM generate_series(1, 2)`, "1:17", plan.CodeUnsupported, "one dataset"},
	// Select list.
	{`SELECT * FROM water`, "1:8", plan.CodeUnsupported, "COUNT(*)"},
	{`SELECT water.* FROM water`, "1:14", plan.CodeUnsupported, "COUNT(*)"},
	{`SELECT water.district FROM water`, "1:8", plan.CodeUnsupported, `"district"`},
	{`SELECT district FROM water GROUP BY district`, "1:8", plan.CodeNoAggregate, "COUNT(*)"},
	{`SELECT district, COUNT(*) FROM water`, "1:8", plan.CodeNotGrouped, "GROUP BY district"},
	{`SELECT SUM(usage) + 1 FROM water`, "1:19", plan.CodeUnsupported, "released figures"},
	{`SELECT SUM(usage + 1) FROM water`, "1:18", plan.CodeUnsupported, "released figures"},
	{`SELECT SUM(CASE WHEN kind = '' THEN 1 END) FROM water`, "1:12", plan.CodeUnsupported, "WHERE"},
	{`SELECT CAST(usage AS TEXT) FROM water`, "1:8", plan.CodeUnsupported, "declared type"},
	{`SELECT (SELECT 1) FROM water`, "1:9", plan.CodeUnsupported, "two queries"},
	{`SELECT 'x', COUNT(*) FROM water`, "1:8", plan.CodeUnsupported, "double quotes"},
	{`SELECT NULL, COUNT(*) FROM water`, "1:8", plan.CodeUnsupported, "COUNT(x)"},
	{`SELECT MIN(usage) FROM water`, "1:8", plan.CodeEngine, "PERCENTILE"},
	{`SELECT max(usage) FROM water`, "1:8", plan.CodeEngine, "PERCENTILE"},
	{`SELECT COUNT(DISTINCT kind) FROM water`, "1:14", plan.CodeEngine, "COUNT(*)"},
	{`SELECT SUM(usage) OVER () FROM water`, "1:19", plan.CodeUnsupported, "GROUP BY"},
	{`SELECT SUM(usage) FILTER (WHERE kind = '') FROM water`, "1:19", plan.CodeUnsupported, "WHERE"},
	{`SELECT STDDEV(usage) FROM water`, "1:8", plan.CodeUnsupported, "use STDDEV_POP"},
	{`SELECT load_extension(usage) FROM water`, "1:8", plan.CodeUnsupported, "functions: COUNT"},
	{`SELECT COUNT(1) FROM water`, "1:14", plan.CodeUnsupported, "COUNT(*)"},
	{`SELECT COUNT() FROM water`, "1:8", plan.CodeUnsupported, "COUNT(*)"},
	{`SELECT SUM(*) FROM water`, "1:12", plan.CodeUnsupported, "SUM(x)"},
	{`SELECT CORR(usage) FROM water`, "1:8", plan.CodeUnsupported, "CORR(y, x)"},
	{`SELECT SUM(kind) FROM water`, "1:12", plan.CodeColumn, "GROUP BY kind"},
	{`SELECT COUNT(meter) FROM water`, "1:14", plan.CodeColumn, "COUNT(*)"},
	{`SELECT SUM(usgae) FROM water`, "1:12", plan.CodeColumn, `its columns: "usage"`},
	{`SELECT CORR(debt, usage) FROM water`, "1:8", plan.CodeColumn, ""},
	{`SELECT MEDIAN(fee) FROM water`, "1:8", plan.CodeBins, ""},
	{`SELECT PERCENTILE(usage) FROM water`, "1:8", plan.CodeUnsupported, "PERCENTILE(x, 0.9)"},
	{`SELECT PERCENTILE(usage, 1) FROM water`, "1:26", plan.CodeDomain, "MIN and MAX"},
	{`SELECT PERCENTILE(usage, 90) FROM water`, "1:26", plan.CodeDomain, "PERCENTILE(x, 0.9)"},
	{`SELECT COUNT(*) AS n, SUM(usage) AS n FROM water`, "1:37", plan.CodeName, "AS"},
	// Rules and grants.
	{`SELECT secret, COUNT(*) FROM water GROUP BY secret`, "1:45", plan.CodeRule, `"district"`},
	{`SELECT COUNT(*) FROM water WHERE secret = 'x'`, "1:34", plan.CodeRule, `"kind"`},
	{`SELECT SUM(month) FROM water`, "1:12", plan.CodeRule, `"usage"`},
	{`SELECT COUNT(*) FROM water WHERE tariff = 'A'`, "1:34", plan.CodeGrant, "apply for a scenario"},
	{`SELECT COUNT(*) FROM water WHERE note = 'x'`, "1:34", plan.CodeColumn, ""},
	// GROUP BY.
	{`SELECT COUNT(*) FROM water GROUP BY 1`, "1:37", plan.CodeUnsupported, "name"},
	{`SELECT COUNT(*) FROM water GROUP BY district, district`, "1:47", plan.CodeName, "once"},
	{`SELECT COUNT(*) FROM water GROUP BY upper(district)`, "1:37", plan.CodeUnsupported, ""},
	// WHERE.
	{`SELECT COUNT(*) FROM water WHERE kind = 'busines'`, "1:41", plan.CodeDomain, `labels: "business"`},
	{`SELECT COUNT(*) FROM water WHERE kind = 3`, "1:41", plan.CodeDomain, "'3'"},
	{`SELECT COUNT(*) FROM water WHERE kind = "business"`, "1:41", plan.CodeSyntax, "single quotes"},
	{`SELECT COUNT(*) FROM water WHERE kind = business`, "1:39", plan.CodeEngine, "declared values"},
	{`SELECT COUNT(*) FROM water WHERE kind > 'a'`, "1:39", plan.CodeUnsupported, "IN"},
	{`SELECT COUNT(*) FROM water WHERE kind LIKE 'b%'`, "1:39", plan.CodeUnsupported, "IN"},
	{`SELECT COUNT(*) FROM water WHERE kind NOT LIKE 'b%'`, "1:39", plan.CodeUnsupported, "IN"},
	{`SELECT COUNT(*) FROM water WHERE kind IS NULL`, "1:34", plan.CodeUnsupported, "''"},
	{`SELECT COUNT(*) FROM water WHERE kind IS NOT NULL`, "1:39", plan.CodeUnsupported, "''"},
	{`SELECT COUNT(*) FROM water WHERE kind = NULL`, "1:41", plan.CodeUnsupported, "''"},
	{`SELECT COUNT(*) FROM water WHERE kind IN ()`, "1:42", plan.CodeUnsupported, "IN ('a'"},
	{`SELECT COUNT(*) FROM water WHERE kind IN (SELECT 'x')`, "1:43", plan.CodeUnsupported, "two queries"},
	{`SELECT COUNT(*) FROM water WHERE EXISTS (SELECT 1)`, "1:34", plan.CodeUnsupported, "two queries"},
	{`SELECT COUNT(*) FROM water WHERE kind`, "1:34", plan.CodeUnsupported, "label"},
	{`SELECT COUNT(*) FROM water WHERE 1`, "1:34", plan.CodeUnsupported, "label"},
	{`SELECT COUNT(*) FROM water WHERE 1 = 1`, "1:34", plan.CodeUnsupported, "label"},
	{`SELECT COUNT(*) FROM water WHERE usage < fee`, "1:40", plan.CodeEngine, "declared values"},
	{`SELECT COUNT(*) FROM water WHERE SUM(usage) > 1`, "1:34", plan.CodeUnsupported, "HAVING"},
	{`SELECT COUNT(*) FROM water WHERE usage * 2 > 100`, "1:40", plan.CodeUnsupported, "released figures"},
	{`SELECT COUNT(*) FROM water WHERE usage > 100 + 1`, "1:46", plan.CodeUnsupported, "released figures"},
	{`SELECT COUNT(*) FROM water WHERE pressure > 100`, "1:34", plan.CodeBins, "bins"},
	{`SELECT COUNT(*) FROM water WHERE usage > 100`, "1:42", plan.CodeBins, "edges: 0, 100, 200, 500, 1000"},
	{`SELECT COUNT(*) FROM water WHERE usage = 100`, "1:42", plan.CodeBins, "edges"},
	{`SELECT COUNT(*) FROM water WHERE usage < 1000`, "1:42", plan.CodeBins, "use <="},
	{`SELECT COUNT(*) FROM water WHERE usage < 100.05`, "1:42", plan.CodeBins, "edges"},
	{`SELECT COUNT(*) FROM water WHERE usage < 99999999999999999999`, "1:42", plan.CodeDomain, "edges"},
	{`SELECT COUNT(*) FROM water WHERE usage BETWEEN 100 AND 300`, "1:56", plan.CodeBins, "a <= x < b"},
	{`SELECT COUNT(*) FROM water WHERE usage = '[0,50)'`, "1:42", plan.CodeDomain, `"[0,100)"`},
	{`SELECT COUNT(*) FROM water WHERE usage > '100'`, "1:42", plan.CodeDomain, "without quotes"},
	{`SELECT COUNT(*) FROM water WHERE kind = '' AND NOT kind = ''`, "1:28", plan.CodeEmpty, "contradictions"},
	{`SELECT COUNT(*) FROM water WHERE usage BETWEEN 500 AND 100`, "1:28", plan.CodeEmpty, "contradictions"},
	// HAVING and ORDER BY.
	{`SELECT district, COUNT(*) FROM water GROUP BY district HAVING SUM(usage) > 1`, "1:63", plan.CodeName, "select list"},
	{`SELECT district, COUNT(*) FROM water GROUP BY district HAVING district = '浦东'`, "1:72", plan.CodeUnsupported, "number"},
	{`SELECT district, COUNT(*) FROM water GROUP BY district HAVING district > 1`, "1:63", plan.CodeUnsupported, "WHERE"},
	{`SELECT district, COUNT(*) FROM water GROUP BY district HAVING COUNT(*) > 1 OR COUNT(*) < 0`, "1:76", plan.CodeUnsupported, "AND"},
	{`SELECT district, COUNT(*) AS n FROM water GROUP BY district HAVING n BETWEEN 1 AND 2`, "1:70", plan.CodeUnsupported, "AND"},
	{`SELECT district, COUNT(*) AS n FROM water GROUP BY district HAVING n`, "1:68", plan.CodeUnsupported, "AND"},
	{`SELECT district, COUNT(*) AS n FROM water GROUP BY district HAVING m > 1`, "1:68", plan.CodeName, `outputs: "district", "n"`},
	{`SELECT COUNT(*) FROM water ORDER BY 2`, "1:37", plan.CodeName, "1 to 1"},
	{`SELECT COUNT(*) FROM water ORDER BY usage`, "1:37", plan.CodeName, "outputs"},
	{`SELECT COUNT(*) AS n FROM water ORDER BY n, 1`, "1:45", plan.CodeName, "once"},
	{`SELECT COUNT(*) AS n FROM water ORDER BY n COLLATE nocase`, "1:44", plan.CodeUnsupported, "leave it out"},
	{`SELECT COUNT(*) AS n FROM water ORDER BY n NULLS FIRST`, "1:44", plan.CodeUnsupported, "leave it out"},
	// Layouts and sizes.
	{`SELECT trade, SUM(usage) FROM water WHERE district = '浦东' GROUP BY trade`, "-", plan.CodeLayout, `cube over "district", "trade" with "s:usage"`},
	{`SELECT COUNT(*) FROM water WHERE trade = 'food' OR district = '浦东'`, "-", plan.CodeLayout, `cube over "district", "trade"`},
	{`SELECT usage, AVG(fee) FROM water GROUP BY usage`, "-", plan.CodeLayout, `with "s:fee"`},
	{`SELECT AVG(wide) FROM water`, "-", plan.CodeOverflow, "bgv14-t58"},
	{`SELECT VAR_POP(huge) FROM water`, "-", plan.CodeOverflow, "narrower bounds"},
}

func reasons(t testing.TB, err error) []plan.Reason {
	t.Helper()
	var e *plan.RefusedError
	if !errors.As(err, &e) || len(e.Reasons) == 0 {
		t.Fatalf("got %v, want a refusal", err)
	}
	if e.Error() == "" {
		t.Fatal("refusal has no text")
	}
	return e.Reasons
}

func TestRefused(t *testing.T) {
	for _, tc := range refused {
		r := fixture()
		r.Query = tc.query
		_, err := plan.Build(r)
		got := reasons(t, err)[0]
		if got.Pos.String() != tc.pos || got.Code != tc.code || !strings.Contains(got.Hint, tc.hint) {
			t.Errorf("%.120s\n\tgot  %v %s %s\n\twant %s %s … %s", tc.query, got.Pos, got.Code, got, tc.pos, tc.code, tc.hint)
		}
	}
}

func TestAllReasonsAtOnce(t *testing.T) {
	r := fixture()
	r.EpsilonMicro = 2_000_000
	r.Query = `SELECT district, MIN(usage), SUM(secret)
FROM power
WHERE kind = 'none' AND usage > 7
ORDER BY ghost LIMIT -1`
	_, err := plan.Build(r)
	var got []string
	for _, reason := range reasons(t, err) {
		got = append(got, reason.Pos.String()+" "+string(reason.Code))
	}
	want := []string{"1:8 not-grouped", "1:18 engine", "1:34 column", "2:6 dataset", "3:14 domain", "3:33 bins", "4:22 domain", "- epsilon"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestArtefacts(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*plan.Request)
		code   plan.Code
	}{
		"other keyset":     {func(r *plan.Request) { r.KeysetDigest[0]++ }, plan.CodeArtefact},
		"other owner":      {func(r *plan.Request) { r.Keyset.Owner = "x" }, plan.CodeArtefact},
		"other lineage":    {func(r *plan.Request) { r.Keyset.Dataset = "x" }, plan.CodeArtefact},
		"unknown params":   {func(r *plan.Request) { r.Keyset.Params = "x" }, plan.CodeArtefact},
		"no pieces":        {func(r *plan.Request) { r.Keyset.Pieces = nil }, plan.CodeArtefact},
		"no entity rows":   {func(r *plan.Request) { r.Keyset.EntityRows = 0 }, plan.CodeArtefact},
		"no bound":         {func(r *plan.Request) { r.Manifest.RowsBound = 0 }, plan.CodeArtefact},
		"no range":         {func(r *plan.Request) { r.Manifest.Columns[5].Max = -1 }, plan.CodeArtefact},
		"not granted":      {func(r *plan.Request) { r.Grant.Datasets[0].Dataset = "x" }, plan.CodeArtefact},
		"no limits":        {func(r *plan.Request) { r.Grant.Limits = nil }, plan.CodeArtefact},
		"no cohort":        {func(r *plan.Request) { r.Grant.MinCohort = 0 }, plan.CodeArtefact},
		"no layouts":       {func(r *plan.Request) { r.Manifest.Layouts = nil }, plan.CodeLayout},
		"negative epsilon": {func(r *plan.Request) { r.EpsilonMicro = -1 }, plan.CodeEpsilon},
		"too much":         {func(r *plan.Request) { r.EpsilonMicro = 1_000_001 }, plan.CodeEpsilon},
		"over the limit":   {func(r *plan.Request) { r.Grant.Limits[0].EpsilonMicro = 1 }, plan.CodeEpsilon},
		"over the budget":  {func(r *plan.Request) { r.Keyset.BudgetMicro = 1 }, plan.CodeEpsilon},
		"too little":       {func(r *plan.Request) { r.EpsilonMicro = 1 }, plan.CodeEpsilon},
		"too much noise":   {func(r *plan.Request) { r.EpsilonMicro, r.Keyset.EntityRows = 2, 1<<20 }, plan.CodeOverflow},
		"bins with a gap":  {func(r *plan.Request) { r.Manifest.Columns[5].Max++ }, plan.CodeBins},
		"bins and missing": {func(r *plan.Request) { r.Manifest.Columns[5].Nullable = true }, plan.CodeBins},
		"axis twice": {func(r *plan.Request) {
			r.Manifest.Layouts = r.Manifest.Layouts[2:3]
			r.Manifest.Layouts[0].Axes = [][]string{{"usage", "usage"}}
		}, plan.CodeLayout},
		"missing indicator": {func(r *plan.Request) {
			without(*r, "everything", "by-place", "bins")
			l := &r.Manifest.Layouts[0]
			l.Vectors = l.Vectors[:3]
		}, plan.CodeLayout},
	} {
		r := fixture()
		r.Query = `SELECT usage, SUM(usage) FROM water GROUP BY usage`
		tc.change(&r)
		_, err := plan.Build(r)
		if got := reasons(t, err); got[0].Code != tc.code {
			t.Errorf("%s: got %v, want %s", name, got, tc.code)
		}
	}
	if _, err := plan.Build(plan.Request{}); err == nil {
		t.Error("planned without artefacts")
	}
}

// TestMissingRows: an axis with a number that may be missing would leave rows out of every count.
func TestMissingRows(t *testing.T) {
	r := fixture()
	r.Manifest.Columns[5].Nullable = true // usage, on the axis of the smallest cube
	if p := build(t, r, `SELECT COUNT(*) FROM water`); p.Layout != "by-place" {
		t.Errorf("counts over %q", p.Layout)
	}
}

func TestTooManyTerms(t *testing.T) {
	r := fixture()
	domain := make([]string, 512)
	for i := range domain {
		domain[i] = strings.Repeat("x", i+1)
	}
	for _, name := range []string{"c1", "c2"} {
		r.Manifest.Columns = append(r.Manifest.Columns, enclave.Column{Name: name, Type: enclave.TypeCategory, Domain: domain, Uses: []operators.Use{operators.UseGroup, operators.UseFilter}})
		r.Grant.Datasets[0].Columns = append(r.Grant.Datasets[0].Columns, operators.ColumnUse{Column: name, Uses: []operators.Use{operators.UseGroup, operators.UseFilter}})
	}
	r.Manifest.Layouts = append(r.Manifest.Layouts, layout(r.Manifest, "big", enclave.Cube, []string{"n"}, []string{"c1", "c2"}))
	r.Query = `SELECT COUNT(*) FROM water GROUP BY c1, c2`
	_, err := plan.Build(r)
	if got := reasons(t, err)[0]; got.Code != plan.CodeTerms || !strings.Contains(got.Text, "262144") {
		t.Error(got)
	}
	r.Query = `SELECT COUNT(*) FROM water WHERE c1 = 'x' AND (` + strings.Repeat(`c2 = 'x' OR `, 300) + `c2 = 'xx')`
	_, err = plan.Build(r)
	if got := reasons(t, err)[0]; got.Code != plan.CodeTooLong {
		t.Error(got)
	}
	check(t, r, build(t, r, `SELECT COUNT(*) FROM water WHERE c1 = 'x' AND c2 IN ('x', 'xx') GROUP BY c1, c2`))
}

// TestHostile: the deepest and longest conditions that fit a query are answered, not crashed upon.
func TestHostile(t *testing.T) {
	const head = `SELECT COUNT(*) FROM water WHERE `
	for _, condition := range []string{
		strings.Repeat("(", 4000) + "kind = ''" + strings.Repeat(")", 4000),
		strings.Repeat("NOT ", 2000) + "kind = ''",
		strings.Repeat("NOT(", 1500) + "kind = ''" + strings.Repeat(")", 1500),
		"usage >= " + strings.Repeat("-", 1) + strings.Repeat("+ ", 3000) + "1",
		strings.Repeat("kind = '' OR ", 600) + "kind = ''",
		"kind IN (" + strings.Repeat("'', ", 2000) + "'')",
		strings.Repeat("kind = 'none' OR ", 450) + "kind = ''",
		strings.Repeat("kind BETWEEN ", 600),
		strings.Repeat("((", 4000),
		strings.Repeat("'", 8001),
	} {
		r := fixture()
		r.Query = head + condition
		p, err := plan.Build(r)
		if err == nil {
			check(t, r, p)
			continue
		}
		if n := len(reasons(t, err)); n > plan.MaxReasons {
			t.Errorf("%.40s…: %d reasons", condition, n)
		}
	}
}
