package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

const (
	// maxIndicators bounds the one-hot vectors of one rows layout; each is as long as the table.
	maxIndicators = 4096
	maxBudget     = 1_000_000_000 // ε 1000 in micro; more protects nothing
)

// Placeholder begins every text that Describe leaves for a person to write. Parse refuses a schema that still has one.
const Placeholder = "EDIT: "

var (
	datasetName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	layoutName  = regexp.MustCompile(`^[\pL][\pL\pN_-]{0,62}$`)
	sharings    = []string{"unconditional", "conditional", "none"}
	openings    = []string{"unconditional", "conditional", "closed"}
)

// SealedLayout is one layout as it will stand in the manifest.
type SealedLayout struct {
	Name string
	Kind string
	// Axes are the index spaces: a cube's one axis; for rows the empty axis, which serves totals of the whole table,
	// and one for each set of indicators.
	Axes [][]string
	// Vectors names what is sealed, in order: "n", then for rows the indicators of every axis, then for each measure x
	// "n:x" if it may be missing, "s:x", "q:x" (rows: only with squares), then the products.
	Vectors []string
}

// Layouts lists the layouts to seal with the names of their vectors.
func (s *Schema) Layouts() ([]SealedLayout, error) {
	_, layouts, problems := s.compile()
	return layouts, problems.err()
}

func (s *Schema) checkSealing(p *Problems) {
	y := s.Sealing
	if !datasetName.MatchString(y.Dataset) {
		p.add("yingzhou.dataset", "%q is not a name of small letters, digits, _ and - that begins with a letter", y.Dataset)
	}
	if _, err := enclave.LookupParams(s.Params()); err != nil {
		p.add("yingzhou.params", "%v", err)
	}
	if y.EntityRows < 1 || y.EntityRows > enclave.MaxRows {
		p.add("yingzhou.entity_rows", "must be 1 to %d: the most rows that one entity may have", enclave.MaxRows)
	}
	if v, err := parseExact(y.Budget.String(), budgetScale); err != nil || v <= 0 || v > maxBudget {
		p.add("yingzhou.budget", "must be a positive ε of at most 1000 with at most %d decimals", budgetScale)
	}
	c := y.Catalog
	for _, t := range []struct {
		name, text string
		needed     bool
	}{
		{"title", c.Title, true}, {"description", c.Description, false}, {"classification", c.Classification, true},
		{"update_cycle", c.UpdateCycle, true}, {"unit", c.Unit, true}, {"legal_basis", c.LegalBasis, true},
		{"source", c.Source, false}, {"source_license", c.SourceLicense, false},
	} {
		switch {
		case strings.HasPrefix(t.text, strings.TrimSpace(Placeholder)):
			p.add("yingzhou.catalog."+t.name, "still has the text of the draft: write what is asked for")
		case t.needed && strings.TrimSpace(t.text) == "":
			p.add("yingzhou.catalog."+t.name, "is needed for the catalogue")
		}
	}
	if c.Level < 1 || c.Level > 4 {
		p.add("yingzhou.catalog.level", "must be a data security level of 1 to 4")
	}
	if !slices.Contains(sharings, c.Sharing) {
		p.add("yingzhou.catalog.sharing", "%q is not one of %s", c.Sharing, strings.Join(sharings, ", "))
	}
	if !slices.Contains(openings, c.Opening) {
		p.add("yingzhou.catalog.opening", "%q is not one of %s", c.Opening, strings.Join(openings, ", "))
	}
	if len(y.Layouts) == 0 {
		p.add("yingzhou.layouts", "is empty: nothing would be sealed")
	}
	shared := slices.ContainsFunc(y.Layouts, func(l Layout) bool { return l.Kind == enclave.Shares })
	for i := range s.Fields {
		f := &s.Fields[i]
		number := (f.Type == "number" || f.Type == "integer") && len(f.Constraints.Enum) == 0
		if number && len(f.Rules.Bins) == 0 && slices.Contains(f.Rules.Uses, string(operators.UseFilter)) && !shared {
			p.add(fmt.Sprintf("fields[%d] %q.yingzhou.uses", i, f.Name), "a number can be filtered by its bins only, unless a layout of kind %q is sealed: declare yingzhou.bins", enclave.Shares)
		}
	}
}

func (s *Schema) compileLayouts(cols []enclave.Column, p *Problems) []SealedLayout {
	var out []SealedLayout
	seen := map[string]bool{}
	m := &enclave.Manifest{Columns: cols}
	for i, l := range s.Sealing.Layouts {
		at := fmt.Sprintf("yingzhou.layouts[%d] %q", i, l.Name)
		if !layoutName.MatchString(l.Name) {
			p.add(at+".name", "is not a name of letters, digits, _ and - that begins with a letter")
		}
		if seen[l.Name] {
			p.add(at, "is given twice")
		}
		seen[l.Name] = true
		c := layoutCompiler{Layout: l, at: at, m: m, p: p}
		switch l.Kind {
		case enclave.Cube:
			out = append(out, c.cube())
		case enclave.Rows:
			out = append(out, c.rows())
		case enclave.Shares:
			out = append(out, c.shares(s))
		default:
			p.add(at+".kind", "%q is not %s, %s or %s", l.Kind, enclave.Cube, enclave.Rows, enclave.Shares)
		}
	}
	return out
}

type layoutCompiler struct {
	Layout
	at string
	m  *enclave.Manifest
	p  *Problems
}

func (c layoutCompiler) cube() SealedLayout {
	if len(c.Dims) == 0 {
		c.p.add(c.at+".dims", "is empty: name the columns that the cube is divided by")
	}
	if len(c.Indicators) > 0 {
		c.p.add(c.at+".indicators", "is for rows; a cube has dims")
	}
	c.axis(c.at+".dims", c.Dims)
	out := SealedLayout{Name: c.Name, Kind: enclave.Cube, Axes: [][]string{c.Dims}, Vectors: []string{string(enclave.CountMoment)}}
	out.Vectors = append(out.Vectors, c.moments(true)...)
	return out
}

func (c layoutCompiler) rows() SealedLayout {
	if len(c.Dims) > 0 {
		c.p.add(c.at+".dims", "is for cubes; rows have indicators")
	}
	out := SealedLayout{Name: c.Name, Kind: enclave.Rows, Axes: [][]string{{}}, Vectors: []string{string(enclave.CountMoment)}}
	total := int64(0)
	for i, axis := range c.Indicators {
		at := fmt.Sprintf("%s.indicators[%d]", c.at, i)
		if len(axis) == 0 {
			c.p.add(at, "names no column")
			continue
		}
		if slices.ContainsFunc(c.Indicators[:i], func(a []string) bool { return slices.Equal(a, axis) }) {
			c.p.add(at, "is given twice")
			continue
		}
		size := c.axis(at, axis)
		if total += size; total > maxIndicators {
			c.p.add(c.at+".indicators", "have more than %d vectors in all; use a cube for fine divisions", maxIndicators)
			return out
		}
		out.Axes = append(out.Axes, axis)
		for k := range size {
			out.Vectors = append(out.Vectors, enclave.IndicatorName(axis, k))
		}
	}
	out.Vectors = append(out.Vectors, c.moments(c.Squares)...)
	return out
}

// shares has every column with a use; there is nothing to choose.
func (c layoutCompiler) shares(s *Schema) SealedLayout {
	out := SealedLayout{Name: c.Name, Kind: enclave.Shares, Axes: [][]string{}, Vectors: []string{string(enclave.CountMoment), enclave.EntityShare}}
	if len(c.Dims)+len(c.Indicators)+len(c.Measures)+len(c.Products) > 0 || c.Squares {
		c.p.add(c.at, "has members beside name and kind: shares hold every column that has a use")
	}
	for i := range s.Fields {
		if f := &s.Fields[i]; f.isKey() && f.Rules.Identifier == "" {
			c.p.add(fmt.Sprintf("fields[%d] %q.yingzhou.identifier", i, f.Name), "is needed for shares: rows of other agencies are matched by it")
		}
	}
	for _, col := range c.m.Columns {
		out.Vectors = append(out.Vectors, col.Values()...)
	}
	if len(out.Vectors) > maxIndicators {
		c.p.add(c.at, "has more than %d columns of shares: declare fewer labels", maxIndicators)
	}
	return out
}

// axis checks the columns of an index space and returns its size, 0 if it is refused.
func (c layoutCompiler) axis(at string, names []string) int64 {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			c.p.add(at, "names column %q twice", name)
			return 0
		}
	}
	_, size, err := c.m.Dims(names)
	if err != nil {
		c.p.add(at, "%v", err)
		return 0
	}
	return size
}

// moments names the value vectors in their order and checks the columns behind them.
func (c layoutCompiler) moments(squares bool) []string {
	var out []string
	for i, name := range c.Measures {
		at := fmt.Sprintf("%s.measures[%d]", c.at, i)
		col, ok := c.measure(at, name)
		if !ok {
			continue
		}
		if slices.Contains(c.Measures[:i], name) {
			c.p.add(at, "names column %q twice", name)
		}
		if col.Nullable {
			out = append(out, string(enclave.PresentMoment(name)))
		}
		out = append(out, string(enclave.SumMoment(name)))
		if squares {
			out = append(out, string(enclave.SquareMoment(name)))
		}
	}
	for i, pair := range c.Products {
		at := fmt.Sprintf("%s.products[%d]", c.at, i)
		if len(pair) != 2 || pair[0] == pair[1] {
			c.p.add(at, "must name two different columns")
			continue
		}
		x, okX := c.measure(at, pair[0])
		y, okY := c.measure(at, pair[1])
		if !okX || !okY {
			continue
		}
		for _, col := range []enclave.Column{x, y} {
			if col.Nullable {
				c.p.add(at, "column %q may be missing, and the sums of a product would range over different rows", col.Name)
			}
		}
		v := string(enclave.ProductMoment(pair[0], pair[1]))
		if slices.Contains(out, v) {
			c.p.add(at, "is given twice")
			continue
		}
		out = append(out, v)
	}
	return out
}

func (c layoutCompiler) measure(at, name string) (enclave.Column, bool) {
	col, ok := c.m.Column(name)
	switch {
	case !ok:
		c.p.add(at, "there is no field %q", name)
	case col.Type != enclave.TypeNumber:
		c.p.add(at, "column %q is sealed as no number: only numbers with the use \"aggregate\" have sums", name)
		ok = false
	case !col.May(operators.UseAggregate):
		c.p.add(at, "column %q may not be aggregated by its own uses", name)
	}
	return col, ok
}
