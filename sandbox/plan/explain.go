package plan

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/operators"
)

// Bilingual is a sentence in both of the lab's languages.
type Bilingual struct {
	En string `json:"en"`
	Zh string `json:"zh"`
}

// Explanation is a plan in plain facts, for an official who must judge it and an analyst who must pay for it. It depends
// on public artefacts only and has no figure of any result. Floating-point numbers here are for people; nothing is
// decided by them.
type Explanation struct {
	Query    string `json:"query"`
	Operator string `json:"operator"`
	Dataset  string `json:"dataset"`
	Title    string `json:"title"`
	Owner    string `json:"owner"`

	Columns []ColumnNote `json:"columns"`          // every column that the plan touches, in manifest order
	Filter  []FilterNote `json:"filter,omitempty"` // what WHERE leaves, column by column
	// FilterExact is false where WHERE is no product of conditions on single columns: Filter is then wider than it, and
	// FilterPasses of FilterOf combinations pass.
	FilterExact  bool `json:"filter_exact"`
	FilterPasses int  `json:"filter_passes"`
	FilterOf     int  `json:"filter_of"`

	Layout    string    `json:"layout"`
	Engine    string    `json:"engine"` // "homomorphic, cube" or "homomorphic, rows"
	Why       Bilingual `json:"why"`
	AxisCells int64     `json:"axis_cells"` // cells of the index space
	KeptCells int64     `json:"kept_cells"` // cells of it that WHERE keeps
	Cells     int64     `json:"cells"`      // cells of the GROUP BY: most rows of the result

	Measures []MeasureNote `json:"measures"`

	Epsilon          float64 `json:"epsilon"`           // charged to scenario and dataset; pure ε against the operator
	OperatorEpsilon  float64 `json:"operator_epsilon"`  // against the operator, who sees the sum of all pieces' noise, at Delta
	Delta            float64 `json:"delta"`             // δ of OperatorEpsilon, in all
	CustodianEpsilon float64 `json:"custodian_epsilon"` // against one corrupt custodian, who knows all noise but one piece's; pure
	ScenarioEpsilon  float64 `json:"scenario_epsilon"`  // the scenario's whole budget
	DatasetEpsilon   float64 `json:"dataset_epsilon"`   // the scenario's share of the dataset
	EntityRows       int64   `json:"entity_rows"`       // most rows of one entity: what is protected is all of them at once

	MinCohort       int64   `json:"min_cohort"`       // people
	CohortRows      int64   `json:"cohort_rows"`      // rows that surely belong to so many people
	Margin          string  `json:"margin"`           // rows on top of it, for the noise
	MissProbability float64 `json:"miss_probability"` // that a cell with one row too few is shown all the same

	Openings   int64 `json:"openings"`    // ciphertexts opened if no cell is suppressed
	OpeningCap int64 `json:"opening_cap"` // of the keyset for its whole life

	Products int64   `json:"products"` // ciphertext products
	Bytes    int64   `json:"bytes"`    // sealed bytes read
	Seconds  float64 `json:"seconds"`  // order of magnitude, one core

	Joint *JointNote `json:"joint,omitempty"` // of a plan for the secret-shared engine

	Sees  []Sight     `json:"sees"`
	Notes []Bilingual `json:"notes,omitempty"`
}

// ColumnNote says how a column is used.
type ColumnNote struct {
	Column string          `json:"column"`
	Title  string          `json:"title,omitempty"`
	Uses   []operators.Use `json:"uses"`
}

// FilterNote lists the values of a column that may pass WHERE.
type FilterNote struct {
	Column string   `json:"column"`
	Labels []string `json:"labels"`
	Of     int      `json:"of"` // values that the column has
}

// MeasureNote is what is opened in every cell, in natural units: rows for counts, the column's unit for sums, its square
// for squares, the product of both for products. Sums are of values minus the middle of the declared range.
type MeasureNote struct {
	Moment      enclave.Moment `json:"moment"`
	By          string         `json:"by,omitempty"`
	Stage       int64          `json:"stage"`
	Openings    int64          `json:"openings"`
	Sensitivity float64        `json:"sensitivity"` // the most that all rows of one entity move it
	StdDev      float64        `json:"std_dev"`     // of the noise in each opened value
	Epsilon     float64        `json:"epsilon"`
	Largest     string         `json:"largest"` // bound on |sum + noise| in encoded units, over half the plaintext modulus
}

// Sight is what one party sees of the job.
type Sight struct {
	Who  string    `json:"who"`
	What Bilingual `json:"what"`
}

// operatorDelta is the δ at which the operator's ε is also stated.
const operatorDelta = 1e-6

// Rough costs of one core, from the package benchmarks of enclave/he: nanoseconds per coefficient and prime of a product,
// bytes read per second, seconds to open one ciphertext.
const (
	productNanos = 8
	readRate     = 1e9
	openSeconds  = 2e-3
)

// Explain describes a plan. The manifest, keyset and grant must be the ones that the plan was built from.
func Explain(p *enclave.Plan, m *enclave.Manifest, ks *enclave.Keyset, g *operators.Grant) (*Explanation, error) {
	if p == nil || m == nil || ks == nil || g == nil {
		return nil, errors.New("explaining plan: plan, manifest, keyset and grant are all required")
	}
	if p.Joint != nil {
		return nil, errors.New("explaining plan: a joint plan is explained with all its sources: ExplainJoint")
	}
	cells, terms, err := p.Expand(m)
	if err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	params, err := enclave.LookupParams(p.Params)
	if err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	_, limit, ok := g.Dataset(p.Dataset)
	if !ok || m.Dataset != p.Dataset || ks.Dataset != p.Dataset || ks.Params != p.Params || ks.EntityRows != p.EntityRows {
		return nil, fmt.Errorf("explaining plan: manifest, keyset or grant is not of dataset %q as planned", p.Dataset)
	}
	if len(ks.Pieces) == 0 || p.EntityRows <= 0 || len(p.Measures) == 0 || p.MarginMilli < 0 {
		return nil, errors.New("explaining plan: it has no pieces, entity rows or measures")
	}
	for _, me := range p.Measures {
		if me.Delta <= 0 || me.EpsilonMicro <= 0 {
			return nil, fmt.Errorf("explaining plan: measure %q has no sensitivity or no ε", measureName(me))
		}
	}
	layout, _ := m.Layout(p.Layout) // Expand found it
	e := &Explanation{
		Query: p.Query, Operator: p.Operator, Dataset: p.Dataset, Title: m.Catalog.Title, Owner: m.Owner,
		Layout: p.Layout, Engine: "homomorphic, " + layout.Kind, Why: why(p, layout), Cells: int64(len(cells)),
		ScenarioEpsilon: natural(g.EpsilonMicro, 6), DatasetEpsilon: natural(limit.EpsilonMicro, 6), EntityRows: p.EntityRows,
		Openings: int64(len(terms)), OpeningCap: params.OpeningCap(len(ks.Pieces)),
	}
	e.conditions(p, m)
	e.usage(p, m)
	e.privacy(p, m, ks, params, terms)
	e.cost(p, m, params, layout, terms)
	e.Sees = sights(p, m)
	e.Notes = notes(p, m)
	return e, nil
}

func natural(v, scale int64) float64 { return float64(v) / math.Pow10(int(scale)) }

// conditions recovers WHERE from the cells kept.
func (e *Explanation) conditions(p *enclave.Plan, m *enclave.Manifest) {
	parts := []enclave.Factor{{Axis: p.Axis, Keep: p.Keep}}
	if p.Also != nil {
		parts = append(parts, *p.Also)
	}
	e.FilterExact, e.FilterPasses, e.FilterOf = true, 1, 1
	for i, part := range parts {
		cols, size, _ := m.Dims(part.Axis) // Expand resolved it
		f := &filter{cols: cols, pass: make([]bool, size)}
		for _, r := range part.Keep {
			for k := r.From; k < r.From+r.Count; k++ {
				f.pass[k] = true
			}
		}
		if i == 0 {
			e.AxisCells, e.KeptCells = size, int64(f.count())
		}
		f = f.reduce()
		box := 1
		for _, c := range f.cols {
			one := f.project([]enclave.Column{c})
			note := FilterNote{Column: c.Name, Of: c.Size()}
			for v, pass := range one.pass {
				if pass {
					note.Labels = append(note.Labels, c.Label(v))
				}
			}
			box *= len(note.Labels)
			e.Filter = append(e.Filter, note)
		}
		e.FilterExact = e.FilterExact && box == f.count()
		e.FilterPasses *= f.count()
		e.FilterOf *= len(f.pass)
	}
}

// usage lists the columns touched and how.
func (e *Explanation) usage(p *enclave.Plan, m *enclave.Manifest) {
	aggregated := map[string]bool{}
	for _, o := range p.Outputs {
		if o.Func == groupFunc {
			continue
		}
		for _, a := range o.Args {
			aggregated[a] = true
		}
	}
	for _, c := range m.Columns {
		var uses []operators.Use
		if aggregated[c.Name] {
			uses = append(uses, operators.UseAggregate)
		}
		if slices.ContainsFunc(e.Filter, func(f FilterNote) bool { return f.Column == c.Name }) {
			uses = append(uses, operators.UseFilter)
		}
		if slices.Contains(p.Groups, c.Name) {
			uses = append(uses, operators.UseGroup)
		}
		if uses != nil {
			e.Columns = append(e.Columns, ColumnNote{Column: c.Name, Title: c.Title, Uses: uses})
		}
	}
}

func (e *Explanation) privacy(p *enclave.Plan, m *enclave.Manifest, ks *enclave.Keyset, params *enclave.ParamSet, terms []enclave.Term) {
	pieces := len(ks.Pieces)
	var epsilons []float64
	for i, me := range p.Measures {
		b := dp.LaplaceScale(p.EntityRows, me.Delta, me.EpsilonMicro)
		note := MeasureNote{Moment: me.Moment, By: me.By, Stage: me.Stage, Epsilon: natural(me.EpsilonMicro, 6)}
		unit := math.Pow10(int(scaleOf(me.Moment, m)))
		note.Sensitivity = float64(p.EntityRows) * float64(me.Delta) / unit
		note.StdDev = dp.LaplaceSumStdDev(b, pieces) / unit
		half := new(big.Int).Rsh(new(big.Int).SetUint64(params.T), 1)
		note.Largest = largest(me, m, ks).String() + "/" + half.String()
		for _, t := range terms {
			if t.Measure == i {
				note.Openings++
			}
		}
		e.Measures = append(e.Measures, note)
		epsilons = append(epsilons, note.Epsilon)
	}
	e.Epsilon = natural(p.EpsilonMicro, 6)
	e.CustodianEpsilon = e.Epsilon
	e.Delta = operatorDelta
	e.OperatorEpsilon = dp.OperatorEpsilonTotal(epsilons, pieces, operatorDelta)

	b := dp.LaplaceScale(p.EntityRows, p.Measures[0].Delta, p.Measures[0].EpsilonMicro)
	margin := dp.SuppressionMargin(b, pieces, p.MarginMilli)
	e.MinCohort, e.CohortRows, e.Margin = p.MinCohort, p.MinCohort*p.EntityRows, margin.String()
	e.MissProbability = dp.MissProbability(b, pieces, margin)
}

// scaleOf is the number of decimals in a moment's encoded units.
func scaleOf(moment enclave.Moment, m *enclave.Manifest) int64 {
	letter, cols := moment.Split()
	if letter == "n" || letter == "d" || letter == "t" {
		return 0
	}
	total := int64(0)
	for _, name := range cols {
		c, _ := m.Column(name)
		total += c.Scale
	}
	if letter == "q" {
		total *= 2
	}
	return total
}

func (e *Explanation) cost(p *enclave.Plan, m *enclave.Manifest, params *enclave.ParamSet, layout *enclave.Layout, terms []enclave.Term) {
	used := map[int]bool{}
	for _, t := range terms {
		if layout.Kind == enclave.Cube {
			used[t.Vector] = true
			continue
		}
		for _, v := range slices.Concat(t.A, t.B) {
			used[v] = true
		}
		if len(t.B) > 0 {
			e.Products += layout.Vectors[t.A[0]].Chunks
		}
	}
	for v := range used {
		e.Bytes += layout.Vectors[v].Bytes
	}
	perProduct := productNanos * 1e-9 * float64(params.N()*len(params.Q))
	e.Seconds = float64(e.Products)*perProduct + float64(e.Bytes)/readRate + float64(len(terms))*openSeconds
}
