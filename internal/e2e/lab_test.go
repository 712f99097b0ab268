package e2e

import (
	"context"
	"errors"
	"math/big"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// sealed is a table under encryption, with every piece of its key: the whole way but for the noise.
type sealed struct {
	ctx     context.Context
	params  *he.Params
	openers []*he.Opener
	mirror  *mirror.Mirror
	request plan.Request
}

func sealTable(t *testing.T, tab *plainTable, kind string) *sealed {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sc, err := schema.Parse([]byte(tab.schema(kind)))
	check(err)
	in, err := table.NewCSV(strings.NewReader(tab.csv()), table.Options{})
	check(err)
	s := &sealed{ctx: t.Context()}
	s.params, err = he.Compile(sc.Params())
	check(err)
	key, err := he.GenerateKey(s.params)
	check(err)
	blobs, err := store.Open(t.TempDir())
	check(err)
	ks := &enclave.Keyset{Dataset: "data", Owner: "agency", Params: sc.Params(), Custodians: []string{"a", "b", "c"}, Quorum: 2,
		Pieces: []enclave.Piece{{Without: []int{0}}, {Without: []int{1}}, {Without: []int{2}}}, EntityRows: sc.Sealing.EntityRows, BudgetMicro: sc.BudgetMicro(), Epoch: 1}
	s.request = plan.Request{Keyset: ks, KeysetDigest: canon.DigestOf(ks)}
	res, err := seal.Seal(t.Context(), seal.Config{Table: in, Schema: sc, Key: key, Params: s.params, Keyset: s.request.KeysetDigest, Blobs: blobs, Workers: 2})
	check(err)
	m := &enclave.Manifest{Dataset: "data", Version: 1, Keyset: s.request.KeysetDigest, Owner: "agency", Catalog: sc.Catalog("csv"), Columns: res.Columns,
		RowsBound: res.RowsBound, Layouts: res.Layouts}
	s.request.Manifest, s.request.ManifestDigest = m, canon.DigestOf(m)
	use := operators.DatasetUse{Dataset: "data"}
	for _, c := range m.Columns {
		use.Columns = append(use.Columns, operators.ColumnUse{Column: c.Name, Uses: c.Uses})
	}
	s.request.Grant = &operators.Grant{Operator: "operator", Datasets: []operators.DatasetUse{use}, Limits: []operators.Limit{{Dataset: "data", EpsilonMicro: 1e9}},
		EpsilonMicro: 1e9, JobEpsilonMicro: 1e9, MinCohort: 10}
	pieces, err := key.Split(3)
	check(err)
	for _, p := range pieces {
		s.openers = append(s.openers, he.NewOpener(p))
	}
	s.mirror = mirror.New(blobs, blobs)
	t.Cleanup(func() { s.mirror.Close() })
	return s
}

// errRefused passes a planner's word on.
type errRefused struct{ *plan.RefusedError }

// answer plans a query, computes it on ciphertexts, opens every cell without noise and tabulates without suppression.
func (s *sealed) answer(query string) (*enclave.Table, error) {
	r := s.request
	r.Query = query
	p, err := plan.Build(r)
	var refused *plan.RefusedError
	if errors.As(err, &refused) {
		return nil, errRefused{refused}
	}
	if err != nil {
		return nil, err
	}
	cells, terms, err := p.Expand(r.Manifest)
	if err != nil {
		return nil, err
	}
	layout, _ := r.Manifest.Layout(p.Layout)
	_, vectors := layout.Inputs(terms)
	if err := s.mirror.Fetch(s.ctx, r.KeysetDigest, p.Params, layout, vectors); err != nil {
		return nil, err
	}
	cts, err := evaluator.Evaluate(s.ctx, s.params.Params, layout, terms, s.mirror, 2, nil)
	if err != nil {
		return nil, err
	}
	values := program.NewValues(len(cells), len(p.Measures))
	for i, t := range terms {
		var shares []*big.Int
		for _, o := range s.openers {
			h, err := o.Share(&cts[i], new(big.Int), new(big.Int))
			if err != nil {
				return nil, err
			}
			shares = append(shares, h)
		}
		values.Set(t.Cell, t.Measure, t.Bin, s.params.Combine(&cts[i], shares))
	}
	keep := make([]bool, len(cells))
	for i := range keep {
		keep[i] = true
	}
	return program.Tabulate(p, r.Manifest, 0, cells, keep, make([]string, len(cells)), values)
}
