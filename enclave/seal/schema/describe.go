package schema

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/operators"
)

// DescribeOptions adjusts Describe. The zero value is sensible.
type DescribeOptions struct {
	Dataset string // name of the dataset; "" leaves "dataset"
	// MaxLabels is the most distinct values that make a column a category; 0 means 64.
	MaxLabels int
	// MaxCells is the most cells of the proposed cube; 0 means 2^16.
	MaxCells int64
}

// Description reports what a draft rests on and what its author must decide. It has column names and counts, never a
// value.
type Description struct {
	Rows  int64  `json:"rows"`
	Notes []Note `json:"notes"`
}

// Note is one thing to look at.
type Note struct {
	Column string `json:"column,omitempty"` // "" = the whole table
	Text   string `json:"text"`
}

func (d *Description) note(column, format string, args ...any) {
	d.Notes = append(d.Notes, Note{Column: column, Text: fmt.Sprintf(format, args...)})
}

func (d *Description) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rows read: %d\n", d.Rows)
	for _, n := range d.Notes {
		if n.Column != "" {
			fmt.Fprintf(&b, "column %q: ", n.Column)
		}
		b.WriteString(n.Text + "\n")
	}
	return b.String()
}

// rareLabel is the count below which a label deserves a look: it is the least cohort that is ever released.
const rareLabel = 10

// Describe reads a table to its end and drafts a schema. The draft is on the narrow side: only categories of few labels
// may group and filter, only numbers may be aggregated, everything else has no use. Bounds and bins are rounded outward
// and equally wide, so that they show the order of magnitude of the data and not its extremes or its quantiles. Texts
// that only a person can write begin with Placeholder, and Parse refuses the schema until they are replaced.
func Describe(r table.Reader, opts DescribeOptions) (*Schema, *Description, error) {
	if opts.MaxLabels == 0 {
		opts.MaxLabels = 64
	}
	if opts.MaxCells == 0 {
		opts.MaxCells = 1 << 16
	}
	if opts.Dataset == "" {
		opts.Dataset = "dataset"
	}
	header := r.Header()
	profiles := make([]profile, len(header))
	for i, name := range header {
		profiles[i] = newProfile(name, opts.MaxLabels)
	}
	d := &Description{}
	for {
		row, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("describing table: %w", err)
		}
		if d.Rows++; d.Rows > enclave.MaxRows {
			return nil, nil, fmt.Errorf("describing table: it has more than %d rows: seal it as several datasets", enclave.MaxRows)
		}
		for i := range profiles {
			profiles[i].see(row.Fields[i])
		}
	}
	if d.Rows == 0 {
		return nil, nil, fmt.Errorf("describing table: %w", &table.Error{Err: table.ErrEmpty, Problem: "there is a header and no row"})
	}
	s := &Schema{Missing: []string{""}}
	key := chooseKey(profiles, d.Rows)
	for i := range profiles {
		s.Fields = append(s.Fields, profiles[i].field(d, i == key))
	}
	s.Sealing = draftSealing(opts)
	if key < 0 {
		d.note("", "no column tells entities apart: add one (a pseudonym of the person, household or firm; row numbers if every row is its own entity) and give it the use \"key\"")
	} else {
		most := int64(profiles[key].entities.most())
		s.Sealing.EntityRows = roundUp(most)
		d.note(header[key], "taken as the entity key; confirm that it stands for the person or body to be protected")
		d.note("", "entity_rows is set to %d: the most rows that one entity may ever have in any version, and what noise is sized by; lower is more accurate", s.Sealing.EntityRows)
	}
	s.draftLayouts(d, opts.MaxCells)
	return s, d, nil
}

func draftSealing(opts DescribeOptions) Sealing {
	return Sealing{Dataset: opts.Dataset, Params: enclave.DefaultParams, EntityRows: 1, Budget: "10",
		Catalog: Catalog{
			Title:          Placeholder + "what the dataset is called",
			Description:    Placeholder + "what one row is, which period and area it covers",
			Classification: Placeholder + "theme in the catalogue",
			Level:          3, Sharing: "conditional", Opening: "closed",
			UpdateCycle: Placeholder + "daily, monthly, yearly, never",
			Unit:        Placeholder + "unit responsible for the data",
			LegalBasis:  Placeholder + "provision under which the data is collected and may be used",
		}}
}

// field drafts one column.
func (p *profile) field(d *Description, key bool) Field {
	f := Field{Name: p.name, Type: "string"}
	f.Constraints.Required = p.missing == 0 && p.count > 0
	switch {
	case key:
		f.Rules.Uses = []string{useKey}
	case p.count == 0:
		d.note(p.name, "has no value at all; it is not sealed")
	case p.identifying():
		d.note(p.name, "looks like an identifier; it is described and never sealed")
	case p.booleans:
		f.Type = "boolean"
		p.category(&f, d, []any{true, false})
	case p.numeric && (p.decimals > 0 || !p.coded && (p.labels == nil || len(p.labels) > 2)):
		p.number(&f, d)
	case p.isCategory():
		var labels []string
		for l := range p.labels {
			labels = append(labels, l)
		}
		slices.Sort(labels)
		whole := p.numeric && !p.coded
		enum := make([]any, len(labels))
		for i, l := range labels {
			enum[i] = l
			if whole {
				enum[i] = json.Number(l)
			}
		}
		if whole {
			f.Type = "integer"
		} else if p.dates {
			f.Type = "date"
		}
		p.category(&f, d, enum)
	case p.dates:
		f.Type = "date"
		d.note(p.name, "has dates; to group by them add a column of months or years")
	default:
		d.note(p.name, "is text of many different values; it is described and never sealed")
	}
	return f
}

func (p *profile) category(f *Field, d *Description, enum []any) {
	f.Constraints.Enum = enum
	f.Rules.Uses = []string{string(operators.UseGroup), string(operators.UseFilter)}
	if p.missing > 0 {
		f.Rules.Missing = new(string)
		d.note(p.name, "has missing values, which become a label of their own; name another label in yingzhou.missing if they belong to one")
	}
	rare := 0
	for _, n := range p.labels {
		if n < rareLabel {
			rare++
		}
	}
	if rare > 0 {
		d.note(p.name, "%d of its labels stand in fewer than %d rows each; the list of labels is public, so merge what could point to a person", rare, rareLabel)
	}
	d.note(p.name, "lists the labels of this file; add those that later versions may have")
}

func (p *profile) number(f *Field, d *Description) {
	f.Type = "integer"
	if p.decimals > 0 {
		f.Type = "number"
		f.Rules.Scale = int64(min(p.decimals, maxScale))
		if p.decimals > maxScale {
			d.note(p.name, "has %d decimals and %d are kept; fewer are often enough", p.decimals, maxScale)
		}
	}
	edges, step := niceBounds(p.least, p.most, f.Rules.Scale)
	lo, hi := edges[0], edges[len(edges)-1]
	f.Constraints.Minimum = number(lo, f.Rules.Scale)
	f.Constraints.Maximum = number(hi, f.Rules.Scale)
	f.Rules.Uses = []string{string(operators.UseAggregate)}
	f.Rules.Outside = outsideRefuse
	if p.missing > 0 {
		d.note(p.name, "has missing values; it gets no bins and no products, and AVG counts the values that are there")
	} else {
		for _, e := range edges {
			f.Rules.Bins = append(f.Rules.Bins, number(e, f.Rules.Scale))
		}
	}
	d.note(p.name, "bounds are rounded outward to multiples of %s; set them by what is possible, not by this file: noise grows with them",
		enclave.FormatScaled(step, f.Rules.Scale))
}

func number(v, scale int64) json.Number { return json.Number(enclave.FormatScaled(v, scale)) }

// niceBounds widens [least, most], in units of 10^-maxScale, to whole steps of 1, 2 or 5 times a power of ten, about
// ten of them, and returns the edges and the step in units of 10^-scale.
func niceBounds(least, most, scale int64) (edges []int64, step int64) {
	unit := int64(1)
	for range maxScale - scale {
		unit *= 10
	}
	lo, hi := floorDiv(least, unit), -floorDiv(-most, unit)
	if lo == hi {
		hi++
	}
	step = roundUp((hi - lo + 9) / 10)
	lo, hi = floorDiv(lo, step)*step, -floorDiv(-hi, step)*step
	for e := lo; e <= hi; e += step {
		edges = append(edges, e)
	}
	return edges, step
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && a < 0 {
		q--
	}
	return q
}

// roundUp returns the least of 1, 2, 5, 10, 20, 50, … that is not less than n.
func roundUp(n int64) int64 {
	for p := int64(1); ; p *= 10 {
		for _, m := range []int64{1, 2, 5} {
			if m*p >= n {
				return m * p
			}
		}
	}
}

// draftLayouts proposes a cube over as many categories as fit, with every number as a measure, and a rows layout for
// single categories if some did not fit.
func (s *Schema) draftLayouts(d *Description, maxCells int64) {
	cube := Layout{Name: "cube", Kind: enclave.Cube}
	rows := Layout{Name: "rows", Kind: enclave.Rows}
	cells, left := int64(1), 0
	for _, f := range s.Fields {
		switch {
		case len(f.Constraints.Enum) > 0 && len(f.Rules.Uses) > 0:
			size := int64(len(f.Constraints.Enum))
			if f.Rules.Missing != nil {
				size++
			}
			if cells*size <= maxCells {
				cells *= size
				cube.Dims = append(cube.Dims, f.Name)
			} else {
				left++
			}
			rows.Indicators = append(rows.Indicators, []string{f.Name})
		case slices.Contains(f.Rules.Uses, string(operators.UseAggregate)):
			cube.Measures = append(cube.Measures, f.Name)
			rows.Measures = append(rows.Measures, f.Name)
		}
	}
	if len(cube.Dims) > 0 {
		s.Sealing.Layouts = append(s.Sealing.Layouts, cube)
		d.note("", "layout %q answers any grouping of %s; its size does not grow with the rows", cube.Name, strings.Join(cube.Dims, ", "))
	}
	if len(cube.Dims) == 0 || left > 0 {
		s.Sealing.Layouts = append(s.Sealing.Layouts, rows)
		d.note("", "layout %q serves one category at a time; it takes 32 bytes per row for every vector", rows.Name)
	}
}
