package enclave_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
)

// question is what a noise key stands for, written down independently of it: which numbers are added up under which key
// with how much noise.
func question(p *enclave.Plan, m *enclave.Manifest, t enclave.Term) string {
	me := p.Measures[t.Measure]
	l, _ := m.Layout(p.Layout)
	sum := func(vs []int) string {
		var out []string
		for _, v := range vs {
			out = append(out, l.Vectors[v].Blob.String())
		}
		slices.Sort(out)
		return strings.Join(out, "+")
	}
	what := ""
	if l.Kind == enclave.Cube {
		what = fmt.Sprint(l.Vectors[t.Vector].Blob, t.Cells)
	} else {
		factors := []string{sum(t.A), sum(t.B)}
		slices.Sort(factors)
		what = strings.Join(factors, "×")
	}
	return fmt.Sprint(p.Keyset, p.Epoch, p.Manifest, p.Params, me.Moment, p.EntityRows, me.Delta, me.EpsilonMicro, what)
}

// Equal keys, equal questions: the direction that privacy rests on, because one sample of noise for two questions can be
// subtracted. And the other direction, so that asking again gains nothing and costs nothing.
func TestNoiseKeyIsTheQuestion(t *testing.T) {
	m := water()
	rapid.Check(t, func(t *rapid.T) {
		questions := map[enclave.Digest]string{}
		keys := map[string]enclave.Digest{}
		for range 4 {
			p := drawPlan(t, m)
			for i := range p.Measures {
				p.Measures[i].EpsilonMicro = rapid.Int64Range(1, 2).Draw(t, "ε")
				p.Measures[i].Delta = rapid.Int64Range(1, 2).Draw(t, "Δ")
			}
			p.EntityRows, p.Epoch = rapid.Int64Range(1, 2).Draw(t, "m"), rapid.Int64Range(1, 2).Draw(t, "epoch")
			_, terms := expand2(t, p, m)
			for _, term := range terms {
				key, q := p.NoiseKey(m, term), question(p, m, term)
				if other, seen := questions[key]; seen && other != q {
					t.Fatalf("one key for two questions:\n%s\n%s", q, other)
				}
				if other, seen := keys[q]; seen && other != key {
					t.Fatalf("two keys for one question:\n%s", q)
				}
				questions[key], keys[q] = q, key
			}
		}
	})
}

// Other words, names, budgets and presentation make no other question.
func TestNoiseKeyOfTheSameQuestionAgain(t *testing.T) {
	m := water()
	want := noiseKey(t, m, countByTown(m), 0)
	for name, change := range map[string]func(*enclave.Plan){
		"query":        func(p *enclave.Plan) { p.Query = "select 1" },
		"operator":     func(p *enclave.Plan) { p.Operator, p.Scenario, p.Grant = "other", digest("other"), digest("other") },
		"asked":        func(p *enclave.Plan) { p.AskedMicro, p.EpsilonMicro = 7, 8 },
		"presentation": func(p *enclave.Plan) { p.Having, p.OrderBy, p.Limit, p.Outputs = nil, nil, 0, nil },
		"cohort":       func(p *enclave.Plan) { p.MinCohort, p.MarginMilli = 99, 99 },
		"measures":     func(p *enclave.Plan) { p.Measures = p.Measures[:1] },
		"grouping":     func(p *enclave.Plan) { p.Groups, p.Keep = []string{}, []enclave.Run{{Count: 4}} },
		"stage":        func(p *enclave.Plan) { p.Measures[0].Stage = 2 },
	} {
		p := countByTown(m)
		change(p)
		if noiseKey(t, m, p, 0) != want {
			t.Errorf("another %s is another question", name)
		}
	}
	swapped := onRows(m, []string{"town"}, 3)
	_, terms := expand(t, swapped, m)
	product := terms[1]
	again := product
	again.A, again.B = slices.Clone(product.A), slices.Clone(product.B)
	if swapped.NoiseKey(m, product) != swapped.NoiseKey(m, again) {
		t.Error("equal terms have different keys")
	}
}

func TestNoiseKeyOfAnotherQuestion(t *testing.T) {
	type change struct {
		name string
		do   func(*enclave.Plan, *enclave.Manifest)
	}
	for _, base := range []struct {
		name    string
		plan    func(*enclave.Manifest) *enclave.Plan
		changes []change
	}{
		{"cube", countByTown, []change{{"cells", func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{Count: 3}} }},
			{"fewer cells", func(p *enclave.Plan, m *enclave.Manifest) { p.Keep = []enclave.Run{{Count: 1}, {From: 2, Count: 2}} }},
			{"layout", func(p *enclave.Plan, m *enclave.Manifest) {
				p.Layout, p.Axis, p.Keep = "rows", []string{"town"}, []enclave.Run{{Count: 3}}
			}},
			{"blob", func(p *enclave.Plan, m *enclave.Manifest) { m.Layouts[0].Vectors[1].Blob = digest("other") }}}},
		{"rows", func(m *enclave.Manifest) *enclave.Plan { return onRows(m, []string{"town"}, 3) }, []change{
			{"axis", func(p *enclave.Plan, m *enclave.Manifest) {
				p.Axis, p.Groups, p.Keep = []string{"m3"}, []string{"m3"}, []enclave.Run{{Count: 2}}
			}},
			{"blob of an indicator", func(p *enclave.Plan, m *enclave.Manifest) { m.Layouts[1].Vectors[4].Blob = digest("other") }},
			{"blob of the value", func(p *enclave.Plan, m *enclave.Manifest) { m.Layouts[1].Vectors[1].Blob = digest("other") }},
			{"whole table", func(p *enclave.Plan, m *enclave.Manifest) {
				p.Axis, p.Groups, p.Keep = []string{}, []string{}, []enclave.Run{{Count: 1}}
			}}}},
	} {
		seen := map[enclave.Digest]string{}
		for _, c := range append(base.changes, change{"nothing", func(*enclave.Plan, *enclave.Manifest) {}},
			change{"keyset", func(p *enclave.Plan, m *enclave.Manifest) { p.Keyset = digest("other") }},
			change{"epoch", func(p *enclave.Plan, m *enclave.Manifest) { p.Epoch++ }},
			change{"version of the data", func(p *enclave.Plan, m *enclave.Manifest) { p.Manifest = digest("other") }},
			change{"parameter set", func(p *enclave.Plan, m *enclave.Manifest) { p.Params = "bgv14-t58" }},
			change{"rows of an entity", func(p *enclave.Plan, m *enclave.Manifest) { p.EntityRows++ }},
			change{"sensitivity", func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].Delta++ }},
			change{"ε", func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].EpsilonMicro++ }},
			change{"moment", func(p *enclave.Plan, m *enclave.Manifest) { p.Measures[1].Moment = "s:debt" }},
		) {
			m := water()
			p := base.plan(m)
			c.do(p, m)
			key := noiseKey(t, m, p, 1)
			if other, taken := seen[key]; taken {
				t.Errorf("%s: another %s has the key of another %s", base.name, c.name, other)
			}
			seen[key] = c.name
		}
	}
}

func noiseKey(t testing.TB, m *enclave.Manifest, p *enclave.Plan, term int) enclave.Digest {
	t.Helper()
	_, terms := expand(t, p, m)
	return p.NoiseKey(m, terms[term])
}
