package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/plan"
)

// compare asks both and reports every difference. It returns false for a query that the planner refuses for want of a
// layout or because its condition holds nowhere.
func compare(t interface{ Fatalf(string, ...any) }, s *sealed, tr *truth, q query) bool {
	got, err := s.answer(q.lab())
	var refused errRefused
	if errors.As(err, &refused) {
		switch code := refused.Reasons[0].Code; code {
		case plan.CodeEmpty, plan.CodeLayout:
			return false
		}
	}
	if err != nil {
		t.Fatalf("%s\n%v", q.lab(), err)
	}
	want, err := tr.ask(q)
	if err != nil {
		t.Fatalf("%s\n%v", q.lab(), err)
	}
	for _, row := range got.Rows {
		var labels []string
		for _, v := range row.Values[:len(q.groups)] {
			labels = append(labels, v.Text)
		}
		key := strings.Join(labels, "\x00")
		truth, there := want[key]
		if !there {
			truth = q.nobody()
		}
		delete(want, key)
		for i, v := range row.Values[len(q.groups):] {
			o := q.outputs[i]
			switch {
			case truth[i] == nil && v.Null == "":
				t.Fatalf("%s\ngroup %q: %s is %s, want NULL", q.lab(), labels, o.sql(), v.Text)
			case truth[i] != nil && (v.Null != "" || !o.near(v.Text, truth[i])):
				t.Fatalf("%s\ngroup %q: %s is %q (%s), want %s", q.lab(), labels, o.sql(), v.Text, v.Null, truth[i].Text('g', 20))
			}
		}
	}
	if len(want) > 0 {
		t.Fatalf("%s\nSQLite has %d groups more", q.lab(), len(want))
	}
	return true
}

// A random table, sealed both ways, answers random queries as SQLite does.
func TestSealedTableAnswersAsSQL(t *testing.T) {
	for _, kind := range []string{enclave.Cube, enclave.Rows} {
		for seed := range 4 {
			if testing.Short() && seed > 0 {
				break
			}
			t.Run(fmt.Sprintf("%s/%d", kind, seed), func(t *testing.T) {
				t.Parallel()
				tab := rapid.Custom(func(t *rapid.T) *plainTable { return drawTable(t, 30*(seed+1)) }).Example(seed)
				s, tr := sealTable(t, tab, kind), newTruth(t, tab)
				asked, answered := 0, 0
				rapid.Check(t, func(t *rapid.T) {
					asked++
					if compare(t, s, tr, tab.drawQuery(t)) {
						answered++
					}
				})
				if t.Logf("%d of %d queries answered", answered, asked); answered < asked/2 {
					t.Errorf("only %d of %d queries were answered", answered, asked)
				}
			})
		}
	}
}

// The same over several ciphertexts, the last one short: of rows, and of cells.
func TestSeveralCiphertextsAnswerAsSQL(t *testing.T) {
	labels := func(prefix string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint(prefix, i))
		}
		return out
	}
	for kind, c := range map[string]struct{ rows, labels int }{enclave.Rows: {20_000, 3}, enclave.Cube: {3_000, 55}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			tab := &plainTable{columns: []column{{name: "town", labels: labels("t", c.labels)}, {name: "kind", labels: labels("k", c.labels)},
				{name: "x", scale: 1, min: -50, max: 150, bins: []int64{-50, 0, 40, 150}}, {name: "y", max: 60}, {name: "z", scale: 2, min: 5, max: 95, nullable: true}}}
			rng := rand.New(rand.NewPCG(5, 6))
			for i := range c.rows {
				row := []value{{v: rng.Int64N(int64(c.labels))}, {v: rng.Int64N(int64(c.labels))}, {v: rng.Int64N(201) - 50}, {}, {v: 5 + rng.Int64N(91)}}
				row[3].v = (row[2].v + 50) / 4
				row[4].missing = i%5 == 0
				tab.rows, tab.keys = append(tab.rows, row), append(tab.keys, i)
			}
			s, tr := sealTable(t, tab, kind), newTruth(t, tab)
			for _, v := range s.request.Manifest.Layouts[0].Vectors {
				if v.Chunks < 2 {
					t.Fatalf("vector %q has one ciphertext: the test tests nothing", v.Name)
				}
			}
			x, y, z := tab.columns[2], tab.columns[3], tab.columns[4]
			where := condition{"town IN ('t1', 't2') AND NOT (x < 0 AND kind = 'k0')", "town IN ('t1', 't2') AND NOT (x < 0 AND kind = 'k0')"}
			for _, q := range []query{
				{outputs: []output{{fn: "COUNT"}, {fn: "SUM", cols: []column{x}}, {fn: "AVG", cols: []column{z}}, {fn: "COUNT", cols: []column{z}}}},
				{groups: tab.columns[:1], outputs: []output{{fn: "COUNT"}, {fn: "VAR_POP", cols: []column{x}}, {fn: "STDDEV_POP", cols: []column{z}}}},
				{groups: tab.columns[2:3], outputs: []output{{fn: "COVAR_POP", cols: []column{y, x}}, {fn: "CORR", cols: []column{y, x}}, {fn: "REGR_SLOPE", cols: []column{y, x}}}},
				{groups: tab.columns[:1], where: where, outputs: []output{{fn: "REGR_INTERCEPT", cols: []column{y, x}}, {fn: "REGR_R2", cols: []column{y, x}}, {fn: "PERCENTILE", cols: []column{x}, micro: 900_000}}},
			} {
				if !compare(t, s, tr, q) {
					t.Errorf("%s\nis refused", q.lab())
				}
			}
		})
	}
}
