package plan_test

import (
	"encoding/json"
	"math"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/plan"
)

var explained = map[string]string{
	"cube": `SELECT district AS 区域, AVG(usage) AS 平均, COUNT(*) AS n
FROM water
WHERE kind = 'residential' OR kind = '' AND month BETWEEN 1 AND 7
GROUP BY district`,
	"rows":  `SELECT STDDEV_POP(pressure) FROM water WHERE district <> '静安' GROUP BY district LIMIT 2`,
	"pair":  `SELECT district, COUNT(*) FROM water WHERE trade IN ('food', 'steel') AND district <> '静安' GROUP BY district`,
	"ranks": `SELECT kind, MEDIAN(usage) FROM water GROUP BY kind`,
}

func TestExplain(t *testing.T) {
	for name, query := range explained {
		r := fixture()
		r.Keyset.EntityRows = 12
		p := build(t, r, query)
		e, err := plan.Explain(p, r.Manifest, r.Keyset, r.Grant)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "explain/"+name+".en.txt", []byte(e.Text("en")))
		golden(t, "explain/"+name+".zh.txt", []byte(e.Text("zh-CN")))
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
		if !(e.OperatorEpsilon > 0 && e.OperatorEpsilon < e.Epsilon) || e.CustodianEpsilon != e.Epsilon || e.CohortRows != 240 {
			t.Errorf("%s: ε %v, operator %v, custodian %v, rows %d", name, e.Epsilon, e.OperatorEpsilon, e.CustodianEpsilon, e.CohortRows)
		}
		_, terms, err := p.Expand(r.Manifest)
		if err != nil || e.Openings != int64(len(terms)) {
			t.Errorf("%s: %d openings for %d terms, %v", name, e.Openings, len(terms), err)
		}
	}
}

func TestExplainUnits(t *testing.T) {
	r := fixture()
	p := build(t, r, `SELECT CORR(fee, usage) FROM water`)
	e, err := plan.Explain(p, r.Manifest, r.Keyset, r.Grant)
	if err != nil {
		t.Fatal(err)
	}
	want := map[enclave.Moment]float64{"n": 1, "s:usage": 500, "q:usage": 250000, "s:fee": 100, "q:fee": 10000, "p:fee,usage": 50000}
	for _, m := range e.Measures {
		if m.Sensitivity != want[m.Moment] {
			t.Errorf("%q moves by %v", m.Moment, m.Sensitivity)
		}
		// √(3·2)·b is the continuous limit; the discrete distribution is a little narrower.
		if limit := math.Sqrt(6) * m.Sensitivity / m.Epsilon; m.StdDev > limit*(1+1e-12) || m.StdDev < limit*0.99 {
			t.Errorf("%q has noise %v, want just under %v", m.Moment, m.StdDev, limit)
		}
	}
}

func TestExplainRefuses(t *testing.T) {
	r := fixture()
	p := build(t, r, `SELECT COUNT(*) FROM water`)
	other := fixture()
	other.Keyset.EntityRows = 2
	lost := fixture()
	lost.Manifest.Layouts = nil
	for name, err := range map[string]error{
		"nothing":     second(plan.Explain(nil, nil, nil, nil)),
		"keyset":      second(plan.Explain(p, r.Manifest, other.Keyset, r.Grant)),
		"no layout":   second(plan.Explain(p, lost.Manifest, r.Keyset, r.Grant)),
		"no measures": second(plan.Explain(&enclave.Plan{}, r.Manifest, r.Keyset, r.Grant)),
	} {
		if err == nil {
			t.Errorf("%s: explained", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
