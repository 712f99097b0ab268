package enclave

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Joint is the part of a plan for the secret-shared engine: the datasets whose shares it reads and the program that the
// nodes evaluate. The plan's own Dataset, Manifest and Keyset are those of the first source; its Axis and Keep are the
// cells of the GROUP BY that WHERE leaves, its Layout is empty of meaning.
type Joint struct {
	Sources []Source `json:"sources"` // in the order of FROM and JOIN
	// Base is the source whose rows are counted: the others are looked up by the entity, and have one row of each at
	// most. EntityRows of the plan is the base's.
	Base int64 `json:"base"`
	// Program is a program of package enclave/mpc with one release, whose count and sums and quantiles are the plan's
	// measures in order.
	Program json.RawMessage `json:"program"`
}

// Source is one dataset of a joint plan.
type Source struct {
	Dataset    string `json:"dataset"`
	Manifest   Digest `json:"manifest"`
	Keyset     Digest `json:"keyset"`
	Epoch      int64  `json:"epoch"`
	EntityRows int64  `json:"entity_rows"`
	Layout     string `json:"layout"` // of kind shares
}

// Measures of joint plans only.

// DistinctMoment counts different values of x; EntityShare stands for the entities themselves.
func DistinctMoment(x string) Moment { return Moment("d:" + x) }

// QuantileMoment is the value below which a fraction of the rows lies, in millionths.
func QuantileMoment(x string, micro int64) Moment { return Moment(fmt.Sprintf("t:%s,%d", x, micro)) }

// View is what a query over several datasets is written against: one manifest with the columns of all. A column whose
// name another dataset has too is called dataset.column. Layouts are left out. The view of one dataset is the dataset.
func View(sources []*Manifest) *Manifest {
	first := *sources[0]
	out := &first
	out.Layouts = []Layout{}
	if len(sources) == 1 {
		return out
	}
	seen := map[string]int{}
	for _, m := range sources {
		for _, c := range m.Columns {
			seen[c.Name]++
		}
	}
	out.Columns = []Column{}
	for _, m := range sources {
		for _, c := range m.Columns {
			if seen[c.Name] > 1 {
				c.Name = m.Dataset + "." + c.Name
			}
			out.Columns = append(out.Columns, c)
		}
	}
	return out
}

// Origin finds the source of a view's column and its name there.
func Origin(sources []*Manifest, name string) (source int, column Column, ok bool) {
	at := 0
	view := View(sources)
	for i, m := range sources {
		for _, c := range m.Columns {
			if view.Columns[at].Name == name {
				return i, c, true
			}
			at++
		}
	}
	return 0, Column{}, false
}

// expandJoint lists cells and one term for each measure of each.
func (p *Plan) expandJoint(view *Manifest) ([]Cell, []Term, error) {
	cols, size, err := view.Dims(p.Axis)
	if err != nil {
		return nil, nil, fmt.Errorf("expanding plan: %w", err)
	}
	if err := checkRuns(p.Keep, size); err != nil {
		return nil, nil, fmt.Errorf("expanding plan: %w", err)
	}
	if !slices.Equal(p.Axis, p.Groups) {
		return nil, nil, fmt.Errorf("expanding plan: a joint plan's axis is its groups, and %q is not %q", p.Axis, p.Groups)
	}
	e := expansion{p: p, m: view, cols: cols}
	var cells []Cell
	var terms []Term
	for k := range each(p.Keep) {
		cell := make(Cell, len(cols))
		e.coords(k, cell)
		for m := range p.Measures {
			terms = append(terms, Term{Cell: len(cells), Measure: m})
		}
		cells = append(cells, cell)
	}
	return cells, terms, nil
}
