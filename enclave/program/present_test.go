package program_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program"
)

// town is a table of six cells with the given counts and sums of x; in cells of NULL averages the count is 0.
func town(t *testing.T, change func(p *enclave.Plan), keep []bool) (*enclave.Table, error) {
	t.Helper()
	col := enclave.Column{Name: "town", Type: enclave.TypeCategory, Domain: []string{"f", "e", "d", "c", "b", "a"}}
	m := manifest(col, enclave.Column{Name: "x", Type: enclave.TypeNumber, Min: -100, Max: 100})
	p := query(t, m, []string{"town"}, out("group", "town"), out("COUNT"), out("AVG", "x"))
	counts, sums := []int64{20, 10, 0, 20, 30, 0}, []int64{40, 50, 0, 20, 60, 0}
	cells, _, err := p.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	rules := make([]string, len(cells))
	values := program.NewValues(len(cells), len(p.Measures))
	for i := range cells {
		values.Set(i, 0, 0, counts[i])
		if keep[i] {
			values.Set(i, 1, 0, sums[i])
		} else {
			rules[i] = "small"
		}
	}
	change(p)
	return program.Tabulate(p, m, 0, cells, keep, rules, values)
}

func TestHavingOrderLimit(t *testing.T) {
	yes := []bool{true, true, true, true, true, true}
	for _, c := range []struct {
		name   string
		keep   []bool
		having []enclave.Having
		order  []enclave.Order
		limit  int64
		want   string
	}{
		{"cells in declared order", yes, nil, nil, 0, "f e d c b a"},
		{"labels in declared order", yes, nil, []enclave.Order{{Output: 0}}, 0, "f e d c b a"},
		{"labels descending", yes, nil, []enclave.Order{{Output: 0, Desc: true}}, 0, "a b c d e f"},
		{"ties in order of cells", yes, nil, []enclave.Order{{Output: 1}}, 0, "d a e f c b"},
		{"ties in order of cells, descending", yes, nil, []enclave.Order{{Output: 1, Desc: true}}, 0, "b f c e d a"},
		{"numeric and not lexical, NULL last", yes, nil, []enclave.Order{{Output: 2}}, 0, "c f b e d a"},
		{"NULL last, descending too", yes, nil, []enclave.Order{{Output: 2, Desc: true}}, 0, "e f b c d a"},
		{"second key", yes, nil, []enclave.Order{{Output: 2, Desc: true}, {Output: 0, Desc: true}}, 0, "e b f c a d"},
		{"limit", yes, nil, []enclave.Order{{Output: 1, Desc: true}}, 2, "b f"},
		{"limit beyond the end", yes, nil, nil, 99, "f e d c b a"},
		{"having", yes, []enclave.Having{{Output: 1, Op: ">=", Value: "20"}}, nil, 0, "f c b"},
		{"having drops NULL", yes, []enclave.Having{{Output: 2, Op: "<>", Value: "2"}}, nil, 0, "e c"},
		{"having takes decimals", yes, []enclave.Having{{Output: 2, Op: "<", Value: "1.50"}}, nil, 0, "c"},
		{"having equal", yes, []enclave.Having{{Output: 2, Op: "=", Value: "2.0"}}, nil, 0, "f b"},
		{"having at most", yes, []enclave.Having{{Output: 1, Op: "<=", Value: "10"}}, nil, 0, "e d a"},
		{"having both", yes, []enclave.Having{{Output: 1, Op: ">", Value: "-1"}, {Output: 1, Op: "<", Value: "20"}}, nil, 0, "e d a"},
		{"having before limit", yes, []enclave.Having{{Output: 1, Op: ">", Value: "0"}}, []enclave.Order{{Output: 0, Desc: true}}, 2, "b c"},
		{"suppressed are listed whatever HAVING and LIMIT", []bool{true, false, true, true, false, false},
			[]enclave.Having{{Output: 1, Op: ">", Value: "1000"}}, nil, 1, "| e b a"},
		{"suppressed do not count for LIMIT", []bool{false, true, true, true, false, true}, nil, nil, 3, "e d c | f b"},
	} {
		table, err := town(t, func(p *enclave.Plan) { p.Having, p.OrderBy, p.Limit = c.having, c.order, c.limit }, c.keep)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, r := range table.Rows {
			got = append(got, r.Values[0].Text)
		}
		for i, s := range table.Suppressed {
			if i == 0 {
				got = append(got, "|")
			}
			got = append(got, strings.Join(s.Labels, ","))
		}
		if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestPresentRefuses(t *testing.T) {
	yes := []bool{true, true, true, true, true, true}
	for want, change := range map[string]func(p *enclave.Plan){
		`"group" is a label`:           func(p *enclave.Plan) { p.Having = []enclave.Having{{Output: 0, Op: "=", Value: "1"}} },
		`no comparison "!="`:           func(p *enclave.Plan) { p.Having = []enclave.Having{{Output: 1, Op: "!=", Value: "1"}} },
		`"1e9" is not a plain decimal`: func(p *enclave.Plan) { p.Having = []enclave.Having{{Output: 1, Op: "=", Value: "1e9"}} },
		"HAVING: output 3 of 3":        func(p *enclave.Plan) { p.Having = []enclave.Having{{Output: 3, Op: "=", Value: "1"}} },
		"ORDER BY: output -1 of 3":     func(p *enclave.Plan) { p.OrderBy = []enclave.Order{{Output: -1}} },
		"LIMIT -1 is negative":         func(p *enclave.Plan) { p.Limit = -1 },
	} {
		if _, err := town(t, change, yes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}
